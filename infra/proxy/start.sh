#!/bin/sh
# Caddy wants the password's hash, and Prefect the password: one secret in .env serves both.
set -eu
PROXY_USER=${PREFECT_AUTH_STRING%%:*}
PROXY_HASH=$(printf '%s\n' "${PREFECT_AUTH_STRING#*:}" | caddy hash-password)
unset PREFECT_AUTH_STRING
export PROXY_USER PROXY_HASH
exec caddy run --config /etc/starloom/Caddyfile --adapter caddyfile
