"""``starloom secrets | setup | worker``: the hub on servers that somebody else starts (compose, Kubernetes)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from starloom.cli.opening import open_settings
from starloom.cli.output import JsonOption, emit_json, progress, say


def secrets(
    hub_host: Annotated[str, typer.Option(help="DNS name under which operators reach Prefect.")],
    lake_host: Annotated[str, typer.Option(help="DNS name under which nodes and browsers reach the lake.")],
    out: Annotated[Path, typer.Option(help="The file; one that is there is left alone.")] = Path(".env"),
    tls: Annotated[
        str, typer.Option(help="'internal' (a CA of the proxy's own), an e-mail address (ACME), or two files.")
    ] = "internal",
    socket: Annotated[Path, typer.Option(help="The Docker engine's socket, for its group.")] = Path(
        "/var/run/docker.sock"
    ),
    json: JsonOption = False,
) -> None:
    """Write random secrets for infra/compose.yaml into a file that only you can read; never over another.

    Example: starloom secrets --hub-host hub.example.org --lake-host lake.example.org --tls you@example.org
    """
    from starloom.dispatch.stack_secrets import stack_variables, write_once

    write_once(out, stack_variables(hub_host, lake_host, tls, socket.stat().st_gid))
    if json:
        emit_json({"file": str(out)})
    else:
        say(f"{out} holds the secrets. Keep a copy apart from the backups that they open.")


def setup(
    wait: Annotated[float, typer.Option(min=0, help="Seconds that a service may take to answer.")] = 120.0,
    json: JsonOption = False,
) -> None:
    """Migrate the archive, create the lake's buckets, register pool, blocks and deployments; start nothing.

    Safe to repeat. For servers that run elsewhere; `starloom up` does the same and starts its own.

    Example: starloom setup
    """
    from starloom.dispatch.embedded import program_environment
    from starloom.dispatch.preparing import set_up
    from starloom.dispatch.services import checkout

    settings, root = open_settings(), checkout()
    env = program_environment(settings, root)
    set_up(settings, env, root, lambda step: progress.print(step, markup=False), wait_s=wait)
    if json:
        emit_json({"pool": settings.work_pool, "lake": settings.lake_url})
    else:
        say(f"Prefect's pool {settings.work_pool} and the deployments are registered.")


def worker(
    name: Annotated[str, typer.Option(help="As Prefect's page of the pool shows it.")] = "worker",
) -> None:
    """Run a worker of the hub's pool until stopped, with a health page on port 8080 (GET /health).

    Runs that it has started go on when it is stopped; the next worker takes new ones.

    Example: starloom worker --name hub-2
    """
    from starloom.dispatch.embedded import pool_worker, program_environment
    from starloom.dispatch.services import checkout

    settings = open_settings()
    command = pool_worker(settings, name, "--with-healthcheck")
    # This process becomes the worker: whoever stops it stops the worker.
    os.execve(command[0], command, program_environment(settings, checkout()))  # noqa: S606 - a list, no shell
