"""Keys of the embedded lake: given, changed and taken away, in force at once.

A key is a SeaweedFS user with an attached policy, made through ``weed shell`` (gRPC on loopback, kept in the
filer). Found by experiment with 4.48: such a policy is enforced to the action and prefix. The older identity
actions (``Write:bucket/prefix/*``) are not used, because ``Write`` includes deletion; and neither is the IAM API,
which would let a node make itself further keys that outlive a revocation.
"""

from __future__ import annotations

import json
import re
import secrets
import tempfile
import time
from pathlib import Path

from starloom.errors import StarloomError
from starloom.lake.base import LakeDenied
from starloom.lake.policies import Grant
from starloom.lake.seaweed import SeaweedFS

#: The hub's own, which is in the server's configuration and not among the keys that are given.
HUB_USER = "starloom-hub"
_IN_FORCE_S = 10.0


class Credentials:
    """Gives and takes the keys of a running embedded lake."""

    def __init__(self, server: SeaweedFS) -> None:
        self._server = server

    def give(self, grant: Grant) -> tuple[str, str]:
        """Make a key; one that the same user had is void from now on.

        Returns
        -------
        access_key, secret_key
            The secret is kept nowhere else that could be read back.

        Raises
        ------
        StarloomError
            ``key-not-made``: SeaweedFS did not do what it was told.
        Unavailable
            The server is not running.
        """
        access_key, secret_key = "SL" + secrets.token_hex(9).upper(), secrets.token_hex(20)
        self.revoke(grant.user)
        with tempfile.TemporaryDirectory(prefix="starloom-policy-") as folder:
            path = Path(folder) / "policy.json"
            path.write_text(json.dumps(grant.policy))
            said = self._server.shell(
                f"s3.policy -put -name={grant.user} -file={path}",
                f"s3.user.create -name {grant.user} -access_key {access_key} -secret_key {secret_key}",
                f"s3.policy.attach -policy {grant.user} -user {grant.user}",
            )
        self._await(grant, access_key, secret_key, said)
        return access_key, secret_key

    def revoke(self, user: str) -> None:
        """Take a user's key away, at once; URLs it has signed are void too. One that has none is no error."""
        self._server.shell(f"s3.user.delete -name {user}", f"s3.policy -delete -name={user}")
        if user in self.users():
            raise StarloomError(
                f"SeaweedFS still knows the key of {user}",
                code="key-not-revoked",
                hint=f"Look at `weed shell` and the log in {self._server.logs}.",
            )

    def users(self) -> list[str]:
        """Return who has a key, the hub itself apart."""
        names = re.findall(r'"name":\s*"([^"]+)"', self._server.shell("s3.user.list"))
        return sorted(set(names) - {HUB_USER})

    def _await(self, grant: Grant, access_key: str, secret_key: str, said: str) -> None:
        """Return once the key works: the S3 port hears of a new user a moment after the shell has ended."""
        deadline = time.monotonic() + _IN_FORCE_S
        lake = self._server.lake(access_key, secret_key)
        try:
            while True:
                try:
                    lake.stat(grant.probe)
                    return
                except LakeDenied as error:
                    if time.monotonic() > deadline:
                        # The shell may repeat what it was told.
                        told = said.replace(secret_key, "…").strip()[-300:]
                        raise StarloomError(
                            f"the key of {grant.user} does not work; SeaweedFS said: {told}",
                            code="key-not-made",
                            hint=f"Look at the log in {self._server.logs}.",
                        ) from error
                time.sleep(0.1)
        finally:
            lake.close()
