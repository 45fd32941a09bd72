"""Frames by condition: ``node=T42``, ``matches<25``, ``catalog=Tycho-2``, as operators write it.

A condition names a column of the frame, its current solution or photometry, compares it with a value and never
becomes SQL text: columns come from a list, values are bound.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, String, cast
from sqlalchemy.sql.visitors import iterate
from sqlmodel import Session, col, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from starloom.archive.models import Calibration, Frame, Photometry, Solution
from starloom.errors import BadInput

#: What a condition may name, and the column it means.
COLUMNS: dict[str, Any] = {
    "id": Frame.id,
    "name": Frame.name,
    "mission": Frame.obs_req,
    "node": Frame.node_id,
    "instrument": Frame.instrument_id,
    "band": Frame.band,
    "filter": Frame.filter,
    "plane": Frame.plane,
    "start": Frame.start_utc,
    "received": Frame.received_at,
    "exposure_s": Frame.exposure_s,
    "kind": Frame.kind,
    "disposition": Frame.disposition,
    "disposition_code": Frame.disposition_code,
    "ingest": Frame.ingest,
    "attempts": Frame.attempts,
    "calibrate": Frame.calibrate,
    "solve": Frame.solve,
    "solve_code": Frame.solve_code,
    "measure": Frame.measure,
    "measure_code": Frame.measure_code,
    "solver": Solution.solver,
    "catalog": Solution.catalog,
    "catalog_version": Solution.catalog_version,
    "code_version": Solution.code_version,
    "solved": Solution.created_at,
    "matches": Solution.matches,
    "order": Solution.order,
    "epoch": Solution.epoch,
    "hint": Solution.hint,
    "model": Solution.model_id,
    "scale_arcsec": Solution.scale_arcsec,
    "rms_px": Solution.rms_px,
    "rms_arcsec": Solution.rms_arcsec,
    "held_out_arcsec": Solution.held_out_arcsec,
    "corner_error_px": Solution.corner_error_px,
    "zero_point_mag": Photometry.zero_point_mag,
    "zero_point_err": Photometry.zero_point_err,
    "photometric_catalog": Photometry.catalog,
    "calibrators": Photometry.calibrators,
    "fwhm_px": Photometry.fwhm_px,
    "fwhm_arcsec": Photometry.fwhm_arcsec,
    "ellipticity": Photometry.ellipticity,
    "limiting_mag": Photometry.limiting_mag,
    "transparency": Photometry.transparency,
    "dark": Calibration.dark_id,
    "flat": Calibration.flat_id,
    "defects": Calibration.defects_id,
}
#: Not a column but a word in a list: ``flag=trailed``, ``flag!=cloudy``.
FLAG = "flag"
_CONDITION = re.compile(r"\s*([a-z_]+)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*", re.DOTALL)


def condition(text: str) -> ColumnElement[bool]:
    """Return the SQL expression of one condition.

    ``none`` as the value asks for what is not known; text may hold ``*`` for any characters.

    Raises
    ------
    BadInput
        ``bad-condition``: not ``column OPERATOR value``, an unknown column, or a value of another kind.
    """
    found = _CONDITION.fullmatch(text)
    names = sorted({*COLUMNS, FLAG})
    if found is None or found[1] not in names or not found[3]:
        raise BadInput(
            f"not a condition: {text!r}",
            code="bad-condition",
            hint=f"Write COLUMN OPERATOR VALUE (= != < <= > >=), with one of {', '.join(names)}.",
        )
    name, operator, said = found.groups()
    if name == FLAG:
        return _flag(text, operator, said)
    column = col(COLUMNS[name])
    if said.lower() == "none":
        if operator not in ("=", "!="):
            raise BadInput(f"{text!r}: nothing is less or more than none", code="bad-condition")
        return column.is_(None) if operator == "=" else column.is_not(None)
    value = _value(text, column, said)
    if isinstance(value, str) and "*" in value and operator in ("=", "!="):
        pattern = value.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%")
        like = column.like(pattern, escape="\\")
        return like if operator == "=" else or_(~like, column.is_(None))
    if operator == "!=":
        return or_(column != value, column.is_(None))
    compared: dict[str, Any] = {
        "=": column.__eq__,
        "<": column.__lt__,
        "<=": column.__le__,
        ">": column.__gt__,
        ">=": column.__ge__,
    }
    expression: ColumnElement[bool] = compared[operator](value)
    return expression


def _flag(text: str, operator: str, said: str) -> ColumnElement[bool]:
    """Return whether a flag is set: the list is JSON text on both databases, each word in quotes."""
    if operator not in ("=", "!=") or not re.fullmatch(r"[a-z0-9-]+", said):
        raise BadInput(
            f"{text!r}: a flag is set or not", code="bad-condition", hint="Write flag=NAME or flag!=NAME."
        )
    words = cast(col(Frame.flags), String)
    none: ColumnElement[bool] = words == "[]"
    if said == "none":
        return none if operator == "=" else ~none
    has = words.like(f'%"{said}"%')
    return has if operator == "=" else ~has


def _value(text: str, column: Any, said: str) -> str | int | float | datetime:
    kind = column.type.python_type
    try:
        if kind is datetime:
            moment = datetime.fromisoformat(said)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return kind(said) if kind in (int, float) else said
    except ValueError as error:
        raise BadInput(
            f"{text!r}: {said!r} is no {'date' if kind is datetime else 'number'}",
            code="bad-condition",
            hint="Dates are ISO 8601, UTC: 2026-11-24 or 2026-11-24T18:30.",
        ) from error


def frames_where(session: Session, conditions: Sequence[str], *, limit: int) -> Sequence[Frame]:
    """Return the active light frames that satisfy every condition, oldest first.

    Raises
    ------
    BadInput
        ``bad-condition``.
    """
    query = _where(conditions).where(Frame.disposition == "active", Frame.kind == "light")
    return session.exec(query.order_by(col(Frame.start_utc), col(Frame.id)).limit(limit)).all()


def every_frame_where(
    session: Session, conditions: Sequence[str], *, limit: int, **values: str | None
) -> Sequence[Frame]:
    """Return the frames that satisfy every condition, whatever they are and has become of them, newest first.

    ``values`` are columns by name and what they must be, to the letter; None asks nothing.

    Raises
    ------
    BadInput
        ``bad-condition``.
    """
    exact = [col(COLUMNS[name]) == value for name, value in values.items() if value is not None]
    query = _where(conditions).where(*exact).order_by(col(Frame.received_at).desc(), col(Frame.id).desc())
    return session.exec(query.limit(limit)).all()


def _where(conditions: Sequence[str]) -> SelectOfScalar[Frame]:
    """Return the frames for which conditions hold; joined is what the conditions name, and nothing else."""
    expressions = [condition(text) for text in conditions]
    query = select(Frame).where(*expressions)
    named = {getattr(part, "table", None) for said in expressions for part in iterate(said)}
    results: tuple[Any, ...] = (Solution, Photometry, Calibration)
    for model in results:
        if model.__table__ in named:
            of_frame = (model.frame_id == Frame.id) & model.current.is_(True)
            query = query.join(model, of_frame, isouter=True)
    return query
