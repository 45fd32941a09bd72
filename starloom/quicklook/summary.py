"""What stands beside the picture: the numbers of a frame in words, whoever brings them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from astropy.coordinates import Angle

from starloom.astrometry.detect import StarList
from starloom.astrometry.outcome import SolveOutcome
from starloom.astrometry.wcs import PlaneMap
from starloom.photometry import FramePhotometry

Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class Summary:
    """One page's text.

    Parameters
    ----------
    title
        What the frame is called.
    solved
        Whether its WCS is believed.
    verdict
        ``solved``, or the reason why it is not.
    remarks
        Sentences below the verdict: what happened, what was tried, what to do.
    sections
        Headings, and rows of a label and a value each.
    """

    title: str
    solved: bool
    verdict: str
    remarks: tuple[str, ...]
    sections: tuple[tuple[str, Rows], ...]


def summarise(title: str, known: Mapping[str, Any], *, remarks: Sequence[str] = ()) -> Summary:
    """Put what is known of a frame into words; what is None, NaN or absent is left out.

    Parameters
    ----------
    title
        What the frame is called.
    known
        ``solved`` (bool) and ``reason``; of the frame ``node, start_utc, exposure_s, filter, band, plane, width,
        height, state``; of the solution the columns of `starloom.archive.models.Solution`, with ``stars`` (number
        of detected ones), ``missing`` (catalogue stars without a partner) and ``model_used``; of the image and
        the photometry the columns of `starloom.archive.models.Photometry`; ``flags``.
    remarks
        Sentences below the verdict.
    """
    value = _Known(known)
    solved = bool(known.get("solved"))
    sections = (
        ("Frame", _frame(value)),
        ("Astrometry" if solved else "Detection", _solution(value) if solved else _detection(value)),
        ("Image", _image(value)),
        ("Photometry", _photometry(value)),
        ("Flags", [("flags", ", ".join(known["flags"]))] if known.get("flags") else []),
    )
    verdict = "solved" if solved else str(known.get("reason") or "unsolved")
    said = tuple(text for text in remarks if text)
    return Summary(title, solved, verdict, said, tuple((name, rows) for name, rows in sections if rows))


class _Known:
    """The numbers, each written with its format or not at all."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self.known = known

    def __call__(self, name: str, form: str = "{}") -> str | None:
        value = self.known.get(name)
        if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
            return None
        return form.format(value)

    def joined(self, *parts: str | None, by: str = "  ·  ") -> str:
        return by.join(part for part in parts if part)


def _told(*rows: tuple[str, str | None]) -> Rows:
    return [(label, text) for label, text in rows if text]


def _frame(value: _Known) -> Rows:
    start = value.known.get("start_utc")
    when = start.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if isinstance(start, datetime) else None
    return _told(
        ("node", value("node")),
        ("start", when),
        ("exposure", value("exposure_s", "{:.6g} s")),
        ("filter, band", value.joined(value("filter"), value("band"), by=" · ")),
        ("size", value.joined(value("width"), value("height", "{} px"), by=" × ")),
        ("plane", value("plane")),
        ("calibrated with", value("masters")),
        ("state", value("state")),
    )


def _solution(value: _Known) -> Rows:
    ra, dec = value.known.get("ra_deg"), value.known.get("dec_deg")
    centre = None
    if ra is not None and dec is not None:
        across = Angle(ra, "deg").to_string("hour", sep=":", precision=2, pad=True)
        along = Angle(dec, "deg").to_string("deg", sep=":", precision=1, pad=True, alwayssign=True)
        centre = f"{across}  {along}  (ICRS)"
    parity = {1: "as on the sky", -1: "mirrored"}.get(value.known.get("parity") or 0)
    matches = value.joined(
        value("matches", "{} in the fit"),
        value("stars", "{} detected"),
        value("missing", "{} in catalogue only"),
        by=", ",
    )
    east, north = value.known.get("offset_ra_deg"), value.known.get("offset_dec_deg")
    offset = None
    if east is not None and north is not None and math.isfinite(east + north):
        offset = f"{60 * east:+.2f}′ E  {60 * north:+.2f}′ N"
    return _told(
        ("hint", value("hint")),
        ("solver", value("solver")),
        (
            "catalogue",
            value.joined(value("catalog"), value("catalog_version"), value("epoch", "at {:.1f}"), by=" "),
        ),
        ("centre", centre),
        ("degrees", value.joined(value("ra_deg", "{:.6f}"), value("dec_deg", "{:+.6f}"), by="  ")),
        ("scale", value("scale_arcsec", "{:.5g}″/px")),
        ("field", value("field")),
        ("rotation", value.joined(value("rotation_deg", "{:.3f}° N to E"), parity, by=", ")),
        ("matches", matches),
        (
            "order",
            value.joined(value("order"), "instrument's model" if value.known.get("model_used") else None, by=", "),
        ),
        ("rms", value.joined(value("rms_arcsec", "{:.3f}″"), value("rms_px", "{:.3f} px"))),
        ("held out", value("held_out_arcsec", "{:.3f}″")),
        ("corner error", value("corner_error_px", "{:.2f} px")),
        ("pointing off by", offset),
    )


def _detection(value: _Known) -> Rows:
    return _told(("stars", value("stars")))


def _image(value: _Known) -> Rows:
    kind = value.joined(
        "trailed" if value.known.get("trailed") else None,
        value("trail_px", "{:.1f} px long") if value.known.get("trailed") else None,
        "defocused" if value.known.get("defocused") else None,
        by=", ",
    )
    return _told(
        ("FWHM", value.joined(value("fwhm_px", "{:.2f} px"), value("fwhm_arcsec", "{:.2f}″"))),
        ("FWHM in corners", value("fwhm_corner_px", "{:.2f} px")),
        ("ellipticity", value("ellipticity", "{:.2f}")),
        ("stars are", kind),
        ("sky", value.joined(value("sky_adu", "{:.1f} ADU"), value("sky_sigma_adu", "± {:.2f} a pixel"), by=" ")),
        ("saturation", value("saturation_adu", "{:.0f} ADU")),
    )


def _photometry(value: _Known) -> Rows:
    zero = value("zero_point_mag", "{:.3f}")
    zero = zero and value.joined(zero, value("zero_point_err", "± {:.3f}"), by=" ")
    band = value("catalog_band", "mag in {}") if zero else None
    catalog = value("photometric_catalog", "({})") if zero else None
    calibrators = value.known.get("calibrators")
    return _told(
        ("zero point", value.joined(zero, band, catalog, by=" ")),
        (
            "calibrators",
            value.joined(
                str(calibrators) if calibrators else None, value("scatter_mag", "scatter {:.3f} mag"), by=", "
            ),
        ),
        ("limiting mag", value("limiting_mag", "{:.2f} (5 sigma)")),
        ("sky brightness", value("sky_brightness_mag_arcsec2", "{:.2f} mag/arcsec²")),
        ("transparency", value("transparency", "{:.0%}")),
        ("sources", value("n_sources")),
        ("not measured", value("unmeasured")),
    )


def of_outcome(outcome: SolveOutcome) -> dict[str, Any]:
    """Return what solving found out, by the names of `summarise`."""
    if not outcome.solved:
        return {"solved": False, "reason": outcome.reason}
    names = (
        "hint", "solver", "catalog", "ra_deg", "dec_deg", "scale_arcsec", "rotation_deg", "parity", "rms_arcsec",
        "rms_px", "held_out_arcsec", "matches", "order",
    )  # fmt: skip
    known = {"solved": True, "reason": "", **{name: getattr(outcome, name) for name in names}}
    offset = outcome.offset_deg or (None, None)
    known |= {"epoch": outcome.epoch, "flags": list(outcome.flags)}
    known |= {"offset_ra_deg": offset[0], "offset_dec_deg": offset[1]}
    if outcome.fit is not None:
        known |= {"catalog_version": outcome.fit.catalog.version, "corner_error_px": outcome.fit.corner_error_px}
    return known


def of_map(wcs: PlaneMap, shape: tuple[int, int]) -> dict[str, Any]:
    """Return what a WCS alone tells of a frame of ``shape`` (ny, nx)."""
    ny, nx = shape
    ra, dec = wcs.sky((nx - 1) / 2, (ny - 1) / 2)
    wide, high = (side * wcs.scale_arcsec / 60 for side in (nx, ny))
    field = f"{wide:.1f}′ × {high:.1f}′" if max(wide, high) < 120 else f"{wide / 60:.2f}° × {high / 60:.2f}°"
    return {
        "ra_deg": float(ra),
        "dec_deg": float(dec),
        "scale_arcsec": wcs.scale_arcsec,
        "rotation_deg": float(np.degrees(np.arctan2(wcs.cd[0, 1], wcs.cd[1, 1])) % 360.0),
        "parity": 1 if np.linalg.det(wcs.cd) < 0 else -1,
        "field": field,
    }


def of_stars(stars: StarList) -> dict[str, Any]:
    """Return what the detected stars tell."""
    return {
        "stars": len(stars),
        "fwhm_px": stars.frame_fwhm_px,
        "ellipticity": stars.frame_ellipticity,
        "sky_adu": stars.background_adu,
        "sky_sigma_adu": stars.noise_adu,
        "trailed": stars.trailed,
        "defocused": stars.defocused,
        "trail_px": stars.trail_px,
    }


def of_photometry(measured: FramePhotometry) -> dict[str, Any]:
    """Return what photometry found out."""
    names = (
        "zero_point_mag", "zero_point_err", "scatter_mag", "calibrators", "catalog_band", "fwhm_px", "fwhm_arcsec",
        "fwhm_corner_px", "ellipticity", "sky_adu", "sky_sigma_adu", "sky_brightness_mag_arcsec2", "limiting_mag",
        "saturation_adu",
    )  # fmt: skip
    return {
        **{name: getattr(measured, name) for name in names},
        "photometric_catalog": measured.catalog,
        "n_sources": measured.sources.num_rows,
    }
