"""``starloom refcat …``: star catalogues: import, list, show."""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starloom.cli.opening import open_settings
from starloom.cli.output import JsonOption, emit_json, emit_record, emit_rows, progress, say
from starloom.errors import BadInput

if TYPE_CHECKING:
    from starloom.refcat.stars import Refcat
    from starloom.settings import Settings

app = typer.Typer(help="Star catalogues: import, list, show.", no_args_is_help=True)

COLUMNS = ["name", "kind", "version", "stars", "bands", "faintest_mag", "epoch", "proper_motion", "state"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="FITS table, Parquet, ECSV or CSV.")],
    name: Annotated[str | None, typer.Option(help="Name of the catalogue; the file's by default.")] = None,
    release: Annotated[str, typer.Option(help="Its release, such as DR3.")] = "",
    licence: Annotated[str, typer.Option(help="Its terms of use, or a file that holds them.")] = "",
    epoch: Annotated[float | None, typer.Option(help="Julian year of the positions.")] = None,
    band: Annotated[str | None, typer.Option(help="Band to rank the stars by.")] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", help="What a column is: ra=RA_DEG, mag_V=Vmag, pmra=mu_a.")
    ] = None,
    unit: Annotated[
        list[str] | None, typer.Option("--unit", help="What it is in, where the file is wrong or silent: ra=h.")
    ] = None,
    position_error: Annotated[
        float, typer.Option(min=0.0, help="Error of positions that come without one, arcsec per axis.")
    ] = 0.1,
    replace: Annotated[bool, typer.Option(help="Replace a catalogue of that name.")] = False,
    json: JsonOption = False,
) -> None:
    """Import a star catalogue, of any size, for solving and zero points.

    Columns are found by the names that Gaia, Pan-STARRS, APASS, ATLAS-REFCAT2, UCAC4 and Tycho-2 are
    published with.

    Example: starloom refcat import field.csv --name mine --epoch 2016.0 --column ra=alpha --column mag_G=g
    """
    from starloom.refcat.importing import ImportOptions, import_catalog

    title = name or file.name.split(".")[0]
    if not _NAME.fullmatch(title):
        raise BadInput(
            f"{title!r} is no name for a catalogue",
            code="refcat-name",
            hint="Letters, digits, '.', '_' and '-', at most 64: --name NAME.",
        )
    folder = open_settings().refcat_dir / title
    if folder.exists() and not replace:
        raise BadInput(
            f"there is a catalogue {title} already",
            code="refcat-exists",
            hint="Add --replace, or give another --name.",
        )
    options = ImportOptions(
        title, release, _licence(licence), epoch, band, _pairs(column or []), _pairs(unit or []), position_error
    )
    with progress.status(f"Importing {file} …"):
        about, tally = import_catalog(file, folder, options)
    record = {**asdict(about), **asdict(tally), "folder": str(folder)}
    if json:
        emit_json(record)
        return
    emit_record(record, title=f"Imported {title}")
    dropped = tally.without_position + tally.without_magnitude
    if dropped:
        say(f"{dropped} of {tally.read} rows have no position or no magnitude in {about.band} and were left out.")


@app.command("list")
def list_(json: JsonOption = False) -> None:
    """List the catalogues at hand: the one that ships, imported ones, and online ones with their state.

    Example: starloom refcat list
    """
    settings = open_settings()
    rows = [_row(catalog, settings) for catalog in _catalogs(settings)]
    emit_rows(rows, COLUMNS, as_json=json, title="Star catalogues")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name, as `starloom refcat list` prints it.")],
    json: JsonOption = False,
) -> None:
    """Show all that is known of a catalogue, its licence included.

    Example: starloom refcat show Tycho-2 --json
    """
    settings = open_settings()
    known = {_row(catalog, settings)["name"]: catalog for catalog in _catalogs(settings)}
    if name not in known:
        raise BadInput(f"no catalogue {name!r}", code="refcat-unknown", hint=f"There are {', '.join(known)}.")
    record = _record(known[name], settings)
    if json:
        emit_json(record)
        return
    emit_record(record, title=name)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="Name of an imported catalogue.")], json: JsonOption = False
) -> None:
    """Remove an imported catalogue.

    Example: starloom refcat remove APASS
    """
    folder = open_settings().refcat_dir / name
    if not _NAME.fullmatch(name) or not (folder / "catalog.json").is_file():
        raise BadInput(
            f"no imported catalogue {name!r}", code="refcat-unknown", hint="`starloom refcat list` shows them."
        )
    shutil.rmtree(folder)
    if json:
        emit_json({"removed": name})
    else:
        say(f"Removed {name}.")


def _catalogs(settings: Settings) -> tuple[Refcat, ...]:
    from starloom.refcat import Refcats

    return Refcats.from_settings(settings).catalogs


def _record(catalog: Refcat, settings: Settings) -> dict[str, Any]:
    from starloom.refcat.online import OnlineCatalog
    from starloom.refcat.store import StoreCatalog

    if isinstance(catalog, StoreCatalog):
        return {**asdict(catalog.about), "folder": str(catalog.folder)}
    assert isinstance(catalog, OnlineCatalog)
    service = asdict(catalog.service)
    out = catalog.outage
    return {**service, "name": service["key"], "cache": str(catalog.folder), "outage": out.why if out else None}


def _row(catalog: Refcat, settings: Settings) -> dict[str, Any]:
    from starloom.refcat.store import StoreCatalog

    record = _record(catalog, settings)
    if not isinstance(catalog, StoreCatalog):
        columns = record["columns"]
        return {
            "name": record["key"],
            "kind": "online",
            "version": f"{record['catalog']} {record['version']}",
            "stars": None,
            "bands": " ".join(record["bands"]),
            "faintest_mag": record["faintest_mag"],
            "epoch": record["epoch"],
            "proper_motion": "pmra" in columns,
            "state": "out of service" if record["outage"] else "asked where needed",
        }
    imported = Path(record["folder"]).parent == settings.refcat_dir
    return {
        "name": Path(record["folder"]).name if imported else record["name"],
        "kind": "imported" if imported else "shipped" if catalog.catalog == "Tycho-2" else "package",
        "version": record["version"],
        "stars": record["stars"],
        "bands": " ".join(record["bands"]),
        "faintest_mag": record["faintest_mag"],
        "epoch": record["epoch"],
        "proper_motion": record["max_pm_masyr"] > 0,
        "state": "ready",
    }


def _pairs(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        role, sign, value = text.partition("=")
        if not sign or not role.strip() or not value.strip():
            raise typer.BadParameter(f"{text!r}: write what it is, '=', the column or unit: ra=RA_DEG")
        found[role.strip()] = value.strip()
    return found


def _licence(text: str) -> str:
    """Return terms of use given as words, or the content of a file that holds them."""
    path = Path(text)
    if text and len(text) < 200 and path.is_file():
        return path.read_text(encoding="utf-8", errors="replace").strip()
    return text
