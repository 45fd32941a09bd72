"""``starloom key …``: keys of the lake for readers and workers, and URLs that expire."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from starloom.cli.opening import open_lake, open_settings
from starloom.cli.output import JsonOption, emit_json, emit_rows, say
from starloom.errors import BadInput

if TYPE_CHECKING:
    from starloom.lake.credentials import Credentials

app = typer.Typer(help="Keys of the lake: create, list, revoke; URLs that expire.", no_args_is_help=True)

KeyName = Annotated[str, typer.Argument(help="Who holds it.")]


class Role(StrEnum):
    """What a key is for."""

    READER = "reader"
    WORKER = "worker"


RoleOption = Annotated[
    Role,
    typer.Option(help="reader: raw frames and products, read only; worker: what runs need, no raw frame deleted."),
]


@app.command()
def create(name: KeyName, role: RoleOption = Role.READER, json: JsonOption = False) -> None:
    """Make a key, or change it: one of the same name and role is void from now on.

    Example: starloom key create survey-team --role reader
    """
    from starloom.lake.policies import ROLES
    from starloom.lake.seaweed import PREFIX

    access_key, secret_key = open_credentials().give(ROLES[role](name, PREFIX))
    made = {"name": name, "role": str(role), "access_key": access_key, "secret_key": secret_key}
    if json:
        emit_json(made)
    else:
        say_key(made)


@app.command()
def revoke(name: KeyName, role: RoleOption = Role.READER, json: JsonOption = False) -> None:
    """Take a key away, at once; URLs that it has signed are void too.

    Example: starloom key revoke survey-team --role reader
    """
    from starloom.lake.policies import ROLES
    from starloom.lake.seaweed import PREFIX

    open_credentials().revoke(ROLES[role](name, PREFIX).user)
    if json:
        emit_json({"name": name, "role": str(role), "revoked": True})
    else:
        say(f"The {role} key {name} is void.")


@app.command("list")
def list_(json: JsonOption = False) -> None:
    """List who has a key: nodes, readers and workers.

    Example: starloom key list
    """
    holders = (user.partition("-") for user in open_credentials().users())
    rows = [{"role": role, "name": name} for role, _, name in holders]
    emit_rows(rows, ["role", "name"], as_json=json, title="Keys", empty="Only the hub itself has a key.")


@app.command()
def url(
    key: Annotated[str, typer.Argument(help="Key of an object, as `mission show` and `frames show` print it.")],
    hours: Annotated[float, typer.Option(min=0.01, max=168.0, help="How long it may be used.")] = 24.0,
    json: JsonOption = False,
) -> None:
    """Print a URL that reads one object without any key, until it expires.

    It is signed for the public address of the lake, and revoked only with the hub's own key: keep it short-lived.

    Example: starloom key url stacks/550/r1/e1/V_p0.fits --hours 24
    """
    lake = open_lake()
    if lake.stat(key) is None:
        raise BadInput(f"{key}: there is no such object", code="object-missing", hint="Check the key.")
    signed = lake.presign_get(key, hours * 3600)
    if json:
        emit_json({"key": key, "hours": hours, "url": signed})
    else:
        typer.echo(signed)


def open_credentials() -> Credentials:
    """Return the keys of the embedded lake, the only one whose users we manage.

    Raises
    ------
    BadInput
        ``no-credentials``, ``foreign-lake``.
    """
    settings = open_settings()
    if not settings.lake_url.startswith("s3://"):
        raise BadInput(
            f"the lake {settings.lake_url} is a folder: it knows no credentials",
            code="no-credentials",
            hint="Whoever can write the folder can send frames; `starloom up` starts a lake that has credentials.",
        )
    if not (settings.home / "seaweed").is_dir():
        raise BadInput(
            f"the lake {settings.lake_url} is not the one that `starloom up` runs in {settings.home}",
            code="foreign-lake",
            hint="Make its keys with that store's own tools, with the policies of starloom/lake/policies.py.",
        )
    from starloom.lake.credentials import Credentials
    from starloom.lake.seaweed import SeaweedFS

    return Credentials(SeaweedFS(settings.home))


def say_key(secret: dict[str, str]) -> None:
    """Print the settings that a key's holder needs."""
    settings = open_settings()
    say("Give these to its holder; the secret is shown once:")
    say(f"  STARLOOM_LAKE_URL={settings.lake_url}")
    say(f"  STARLOOM_LAKE_ENDPOINT={settings.lake_public_endpoint or settings.lake_endpoint}")
    say(f"  STARLOOM_LAKE_ACCESS_KEY={secret['access_key']}")
    say(f"  STARLOOM_LAKE_SECRET_KEY={secret['secret_key']}")
