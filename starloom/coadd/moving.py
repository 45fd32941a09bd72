"""Targets that move: the same frames once more, each laid so that the target stands still."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from starloom.coadd.celestial import sky_pixels, unit_vectors
from starloom.coadd.inputs import wcs_from_cards
from starloom.coadd.plan import PlanFrame, StackPlan, Track
from starloom.errors import BadInput

_COLUMNS = ("utc", "ra_deg", "dec_deg")


class Ephemeris(BaseModel):
    """Positions of a target at times, ICRS, as seen from where the frames were taken.

    Between them it is interpolated by a cubic spline of the direction (linear with fewer than four), so that
    neither RA 0 nor a pole matters. Rows need to be closer than the target's path is curved: minutes for what
    passes the Earth, hours for a main-belt asteroid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    utc: tuple[datetime, ...]
    ra_deg: tuple[float, ...]
    dec_deg: tuple[float, ...]

    @model_validator(mode="after")
    def _is_a_path(self) -> Self:
        if not len(self.utc) == len(self.ra_deg) == len(self.dec_deg) >= 2:
            raise ValueError("an ephemeris needs two rows or more, and as many positions as times")
        if any(later <= earlier for earlier, later in zip(self.utc, self.utc[1:], strict=False)):
            raise ValueError("the times of an ephemeris have to rise")
        if not all(-90 <= dec <= 90 for dec in self.dec_deg) or not np.isfinite(self.ra_deg).all():
            raise ValueError("a position of the ephemeris is none")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a table with the columns ``utc`` (ISO 8601), ``ra_deg`` and ``dec_deg``: CSV or ECSV.

        Raises
        ------
        BadInput
            ``bad-ephemeris``, naming the file.
        """
        from astropy.io import ascii as tables

        try:
            table = tables.read(path, format="csv", comment="#")
            columns = {name: [str(v) if name == "utc" else float(v) for v in table[name]] for name in _COLUMNS}
            return cls.model_validate(columns)
        except (OSError, ValueError, KeyError, ValidationError) as error:
            raise BadInput(
                f"{path} is no ephemeris: {error}",
                code="bad-ephemeris",
                hint="A CSV table with the columns utc (ISO 8601), ra_deg and dec_deg, in order of time.",
            ) from error

    def at(self, when: datetime) -> tuple[float, float]:
        """Return RA and Dec (degrees) at a time.

        Raises
        ------
        BadInput
            ``outside-ephemeris``.
        """
        from scipy.interpolate import CubicSpline  # half a second that only targets that move are worth

        times = [_utc(t) for t in self.utc]
        when = _utc(when)
        if not times[0] <= when <= times[-1]:
            raise BadInput(
                f"{when.isoformat()} is outside the ephemeris ({times[0].isoformat()} to {times[-1].isoformat()})",
                code="outside-ephemeris",
                hint="Give an ephemeris that covers all exposures.",
            )
        seconds = np.array([(t - times[0]).total_seconds() for t in times])
        vectors = unit_vectors(np.asarray(self.ra_deg), np.asarray(self.dec_deg))
        x = (when - times[0]).total_seconds()
        if len(times) < 4:
            v = np.array([np.interp(x, seconds, column) for column in vectors.T])
        else:
            v = CubicSpline(seconds, vectors)(x)
        v /= np.linalg.norm(v)
        return float(np.degrees(np.arctan2(v[1], v[0])) % 360), float(np.degrees(np.arcsin(v[2])))


def mid_exposure(frame: PlanFrame) -> datetime | None:
    """Return the middle of a frame's exposure, UTC; None where its start is not known."""
    try:
        start = datetime.fromisoformat((frame.start or "").replace("Z", "+00:00"))
    except ValueError:
        return None
    return _utc(start) + timedelta(seconds=frame.input.exposure_s / 2)


def following(plan: StackPlan, ephemeris: Ephemeris) -> StackPlan:
    """Return the plan in which every frame is shifted by the target's motion since the middle of the set.

    The grid stays, and with it flux scales, skies and weights: both products compare pixel by pixel. A frame whose
    time is unknown gets weight 0, ``no-time``. Motion within an exposure stays as it is.

    Raises
    ------
    BadInput
        ``outside-ephemeris``; ``nothing-to-stack`` where no frame has a time.
    """
    times = {frame.input.id: mid_exposure(frame) for frame in plan.used}
    known = [t for t in times.values() if t is not None]
    if not known:
        raise BadInput(
            "no frame tells when it was taken, so none can follow the target",
            code="nothing-to-stack",
            hint="DATE-OBS is missing from the headers.",
        )
    middle = min(known) + (max(known) - min(known)) / 2
    radec = ephemeris.at(middle)
    wcs = wcs_from_cards({k: v for k, v in plan.grid.items() if not k.startswith("NAXIS")})

    def place(position: tuple[float, float]) -> NDArray[np.float64]:
        return np.array(sky_pixels(wcs, unit_vectors(*position)))

    origin = place(radec)

    def moved(frame: PlanFrame) -> PlanFrame:
        if frame.weight <= 0:
            return frame
        when = times[frame.input.id]
        if when is None:
            return frame.model_copy(update={"weight": 0.0, "reason": "no-time"})
        dx, dy = place(ephemeris.at(when)) - origin
        return frame.model_copy(update={"shift_px": (float(dx), float(dy))})

    utc = middle.replace(tzinfo=None).isoformat(timespec="milliseconds")
    track = Track(utc=utc, ra_deg=radec[0], dec_deg=radec[1])
    return plan.model_copy(update={"frames": tuple(moved(frame) for frame in plan.frames), "track": track})


def _utc(when: datetime) -> datetime:
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
