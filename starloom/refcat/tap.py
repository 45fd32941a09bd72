"""Ask a TAP service for a circle of stars, within bounds of time and size, through pyvo."""

from __future__ import annotations

import io
import time
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.errors import StarloomError, Unavailable
from starloom.refcat.services import Service
from starloom.refcat.writing import StarRows

#: A cell of 50,000 stars is some 15 MB of VOTable; beyond this somebody is sending something else.
MAX_ANSWER_BYTES = 128 << 20

Floats = NDArray[np.float64]


class OnlineUnavailable(Unavailable):
    """An online catalogue did not answer, or not with a catalogue."""

    code = "refcat-online"
    hint = "The hub goes on with its own catalogue and asks again later; `starloom refcat list` shows the outage."


def fetch(
    service: Service, ra_deg: float, dec_deg: float, radius_deg: float, *, timeout_s: float
) -> tuple[StarRows, bool]:
    """Fetch the stars of a circle.

    Parameters
    ----------
    service
        What to ask.
    ra_deg, dec_deg, radius_deg
        Circle, degrees ICRS.
    timeout_s
        Seconds after which the answer is given up, whatever has come of it.

    Returns
    -------
    StarRows, bool
        The brightest stars, and whether there are more of them than ``service.max_rows``.

    Raises
    ------
    OnlineUnavailable
        ``refcat-online``: no answer in time, an error, or an answer that is no table of stars.
    StarloomError
        ``extra-missing``: pyvo is not installed.
    """
    try:
        import pyvo
        import requests
        import urllib3
    except ImportError as error:
        raise StarloomError(
            "online catalogues need the package pyvo",
            code="extra-missing",
            hint="Install it (`pip install 'starloom[online]'`), or set STARLOOM_REFCAT_ONLINE=false.",
        ) from error
    try:
        with _bounded_session(timeout_s) as session, warnings.catch_warnings():
            # An overflow is looked at below; the services' own VOTables are rarely to the letter.
            warnings.simplefilter("ignore")
            found = pyvo.dal.TAPService(service.url, session=session).run_sync(
                adql(service, ra_deg, dec_deg, radius_deg), maxrec=service.max_rows + 1
            )
            rows = _rows(service, found)
            overflow = str(found.query_status).lower() == "overflow"
    except (
        pyvo.dal.DALAccessError,
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        _TooMuch,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise OnlineUnavailable(
            f"{service.catalog} {service.version} at {service.url}: {_short(error)}"
        ) from error
    return rows, overflow or len(rows) >= service.max_rows


def adql(service: Service, ra_deg: float, dec_deg: float, radius_deg: float) -> str:
    """Return the query for a circle, brightest stars first."""
    columns = ", ".join(f"{expression} AS {label}" for label, expression in _labels(service).items())
    position = f"POINT('ICRS', {service.columns['ra']}, {service.columns['dec']})"
    circle = f"CIRCLE('ICRS', {ra_deg:.8f}, {dec_deg:.8f}, {radius_deg:.8f})"
    mag = service.columns[f"mag_{service.band}"]
    # Both bounds: surveys write -999 where they have no magnitude.
    where = f"1 = CONTAINS({position}, {circle}) AND {mag} > -5 AND {mag} < {service.faintest_mag:g}"
    if service.where:
        where += f" AND {service.where}"
    return f"SELECT TOP {service.max_rows} {columns} FROM {service.table} WHERE {where} ORDER BY {mag}"  # noqa: S608


def _labels(service: Service) -> dict[str, str]:
    """Return label -> expression: bands that differ by case alone (R, r) must not have the same label."""
    return {label_of(role): expression for role, expression in service.columns.items()}


def label_of(role: str) -> str:
    """Return the name under which a role is asked for."""
    kind, _, band = role.partition("_")
    return f"{kind}_{'u' if band.isupper() else 'l'}_{band}" if kind.startswith("mag") else f"s_{role}"


def _rows(service: Service, found: Any) -> StarRows:
    table = found.to_table()
    by_name = {name.lower(): name for name in table.colnames}

    def column(role: str) -> Floats | None:
        if role not in service.columns:
            return None
        name = by_name.get(label_of(role).lower())
        if name is None:
            raise KeyError(f"the answer has no column {label_of(role)}")
        values = np.ma.filled(np.ma.asarray(table[name]).astype(np.float64), np.nan)
        return np.asarray(values, np.float64)

    def pair(one: str, other: str) -> Floats | None:
        a, b = column(one), column(other)
        return None if a is None or b is None else np.hypot(a, b) / np.sqrt(2.0)

    ra, dec = column("ra"), column("dec")
    assert ra is not None
    assert dec is not None
    mags = {band: _real_mag(column(f"mag_{band}")) for band in service.bands}
    good = np.isfinite(ra) & (np.abs(dec) <= 90.0) & np.isfinite(mags[service.band])
    rows = StarRows(
        ra,
        dec,
        mags,
        {band: _mag_error(column(f"magerr_{band}"), column(f"magsnr_{band}"), len(ra)) for band in service.bands},
        column("pmra"),
        column("pmdec"),
        pair("pmra_err", "pmdec_err"),
        pair("ra_err", "dec_err"),
    )
    return rows if good.all() else rows.take(good)


def _real_mag(mag: Floats | None) -> Floats:
    assert mag is not None
    return np.where((mag > -5.0) & (mag < 40.0), mag, np.nan)


def _mag_error(error: Floats | None, ratio: Floats | None, n: int) -> Floats:
    if error is None:
        if ratio is None:
            return np.full(n, np.nan)
        error = 2.5 / np.log(10.0) / np.where(ratio > 0, ratio, np.nan)
    return np.where((error >= 0) & (error < 10.0), error, np.nan)


class _TooMuch(Exception):
    """The answer is longer, or takes longer, than any catalogue's."""


class _Body(io.BytesIO):
    """A body already read, with the reading function that pyvo expects of urllib3's."""

    def read(self, size: int | None = -1, decode_content: bool | None = None) -> bytes:
        return super().read(size)


def _bounded_session(timeout_s: float) -> Any:
    """Return a session whose whole requests end in time: the library's own time-out is one of silence only."""
    import requests

    class Session(requests.Session):  # type: ignore[misc]  # its stubs are no dependency of ours
        def request(self, *args: Any, **kwargs: Any) -> Any:
            ends = time.monotonic() + timeout_s
            kwargs |= {"timeout": timeout_s, "stream": True}
            response = super().request(*args, **kwargs)
            body = bytearray()
            with response:
                # What has come, not so many bytes: a service that sends one a second must not hold us.
                while piece := response.raw.read1(64 << 10, decode_content=True):
                    body += piece
                    if time.monotonic() > ends:
                        raise _TooMuch(f"still sending after {timeout_s:g} s")
                    if len(body) > MAX_ANSWER_BYTES:
                        raise _TooMuch(f"sent more than {MAX_ANSWER_BYTES >> 20} MB")
            response.raw = _Body(bytes(body))
            return response

    return Session()


def _short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__.lstrip('_')}: {text[0][:200]}" if text else type(error).__name__
