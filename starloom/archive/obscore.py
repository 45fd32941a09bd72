"""ObsCore: frames and products under the names and units that the Virtual Observatory knows.

The database itself holds a view ``obscore``, so that any TAP service or plain SQL can read it; this module names
its columns and puts it in place after every migration.

References
----------
Louys et al. 2017, Observation Data Model Core Components, version 1.1, IVOA Recommendation, table 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlmodel import Session


@dataclass(frozen=True)
class Column:
    """A column of ObsCore: TAP datatype, unit, UCD, and whether the standard demands it."""

    datatype: str
    unit: str
    ucd: str
    mandatory: bool = True


COLUMNS: dict[str, Column] = {
    "dataproduct_type": Column("char", "", "meta.code.class"),
    "calib_level": Column("int", "", "meta.code;obs.calib"),
    "obs_collection": Column("char", "", "meta.id"),
    "obs_id": Column("char", "", "meta.id"),
    "obs_publisher_did": Column("char", "", "meta.ref.ivoid"),
    "access_url": Column("char", "", "meta.ref.url"),
    "access_format": Column("char", "", "meta.code.mime"),
    "access_estsize": Column("long", "kbyte", "phys.size;meta.file"),
    "target_name": Column("char", "", "meta.id;src"),
    "s_ra": Column("double", "deg", "pos.eq.ra"),
    "s_dec": Column("double", "deg", "pos.eq.dec"),
    "s_fov": Column("double", "deg", "phys.angSize;instr.fov"),
    "s_region": Column("char", "", "pos.outline;obs.field"),
    "s_resolution": Column("double", "arcsec", "pos.angResolution"),
    "s_xel1": Column("long", "", "meta.number"),
    "s_xel2": Column("long", "", "meta.number"),
    "t_min": Column("double", "d", "time.start;obs.exposure"),
    "t_max": Column("double", "d", "time.end;obs.exposure"),
    "t_exptime": Column("double", "s", "time.duration;obs.exposure"),
    "t_resolution": Column("double", "s", "time.resolution"),
    "t_xel": Column("long", "", "meta.number"),
    "em_min": Column("double", "m", "em.wl;stat.min"),
    "em_max": Column("double", "m", "em.wl;stat.max"),
    "em_res_power": Column("double", "", "spect.resolution"),
    "em_xel": Column("long", "", "meta.number"),
    "o_ucd": Column("char", "", "meta.ucd"),
    "pol_states": Column("char", "", "meta.code;phys.polarization"),
    "pol_xel": Column("long", "", "meta.number"),
    "facility_name": Column("char", "", "meta.id;instr.tel"),
    "instrument_name": Column("char", "", "meta.id;instr"),
    # Not of the standard's table: usual beside it, and two of its optional ones.
    "em_filter_name": Column("char", "", "meta.id;instr.filter", mandatory=False),
    "obs_release_date": Column("char", "", "time.release", mandatory=False),
    "data_rights": Column("char", "", "meta.code", mandatory=False),
}


def drop_view(connection: Connection) -> None:
    """Take the view away: a database refuses to alter tables that a view rests on."""
    connection.exec_driver_sql("DROP VIEW IF EXISTS obscore")


def create_view(connection: Connection) -> None:
    """Put the view in place, or replace it; the tables have to be of the newest migration."""
    drop_view(connection)
    script = files("starloom.archive") / "ddl" / f"obscore.{connection.dialect.name}.sql"
    connection.exec_driver_sql(script.read_text(encoding="utf-8"))


def rows(session: Session, *, target: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
    """Return rows of the view, newest exposure first.

    Parameters
    ----------
    target
        Only those of this ``target_name``.
    """
    query = "SELECT * FROM obscore"
    values: dict[str, Any] = {"limit": limit}
    if target is not None:
        query += " WHERE target_name = :target"
        values["target"] = target
    found = session.connection().execute(text(query + " ORDER BY t_min DESC LIMIT :limit"), values)
    return [dict(row) for row in found.mappings()]
