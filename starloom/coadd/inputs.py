"""Frames as the co-add takes them: metadata, a WCS, and pixels read by section."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from starloom.coadd.celestial import sky_vectors
from starloom.coadd.zero_points import header_number, zero_point
from starloom.errors import BadInput

if TYPE_CHECKING:
    from starloom.coadd.sample import Sample

_WCS_CARD = re.compile(
    r"^(WCSAXES|CTYPE[12]|CRVAL[12]|CRPIX[12]|CUNIT[12]|CDELT[12]|CROTA[12]|CD[12]_[12]|PC[12]_[12]"
    r"|PV[12]_\d+|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX|(A|B|AP|BP)_(ORDER|\d_\d))$"
)
_SCALE_CARD = re.compile(r"^(CD[12]_[12]|PC[12]_[12]|CDELT[12])$")


class InputFrame(BaseModel):
    """One calibrated, solved frame that is offered to a co-add."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    path: Path
    band: str
    node: str
    exposure_s: float
    sky_sigma_adu: float = Field(description="Standard deviation of the sky in one pixel, ADU.")
    fwhm_arcsec: float = Field(gt=0)
    saturation_adu: float | None = Field(default=None, description="None: unknown; only the clip protects.")
    gain_e_per_adu: float | None = Field(default=None, gt=0, description="None: no photon noise in the clip.")
    zero_point_mag: float | None = Field(default=None, description="Magnitude of a star of 1 ADU in the frame.")
    zero_point_err: float | None = None
    wcs_cards: dict[str, Any] | None = Field(default=None, description="None: the WCS in the file.")
    provenance: dict[str, Any] = Field(default_factory=dict, description="start, raw_key, raw_version, …")
    _sample: Sample | None = PrivateAttr(default=None)
    _wcs: WCS | None = PrivateAttr(default=None)

    @property
    def sample(self) -> Sample | None:
        """What `read_input` learnt from the pixels beyond the fields, so that a plan need not look again."""
        return self._sample

    @property
    def wcs(self) -> WCS | None:
        """The WCS of `wcs_cards`; made once, for it costs as much as to read the header."""
        if self._wcs is None and self.wcs_cards is not None:
            self._wcs = wcs_from_cards(self.wcs_cards)
        return self._wcs

    def bare(self) -> Self:
        """Return the frame without its sample, as plans carry it."""
        bare = self.model_copy()
        bare._sample = bare._wcs = None
        return bare


def wcs_from_cards(cards: dict[str, Any]) -> WCS:
    """Return the celestial WCS that FITS cards describe (TAN, SIN, SIP, TPV, …)."""
    header = fits.Header()
    for key, value in cards.items():
        header["RADESYS" if key == "RADECSYS" else key] = value
    # fix=False: only the WCS cards are here, so there is no date or unit to mend and nothing to warn about.
    return WCS(header, fix=False)


def pixel_scale_arcsec(wcs: WCS, shape: tuple[int, int]) -> float:
    """Return the pixel scale (arcsec) at the centre of a frame of ``shape`` (ny, nx), distortions included."""
    ny, nx = shape
    x = (nx - 1) / 2 + np.array([-0.5, 0.5, -0.5, -0.5])
    y = (ny - 1) / 2 + np.array([-0.5, -0.5, 0.5, -0.5])
    v = sky_vectors(wcs, x, y)
    area = np.linalg.norm(np.cross(v[1] - v[0], v[2] - v[0]))
    return float(np.degrees(np.sqrt(area)) * 3600)


class OpenFrame:
    """An open frame: ``path``, ``header`` (HDU0 overlaid by the image's), ``shape`` and pixels by section."""

    def __init__(self, path: Path, hdus: fits.HDUList) -> None:
        found = [hdu for hdu in hdus if hdu.is_image and hdu.header.get("NAXIS", 0) >= 2]
        if not found:
            raise BadInput(f"{path} holds no image", code="no-image", hint="Give a FITS file with a 2-D image.")
        self.path = path
        with path.open("rb") as stream:
            self._gzipped = stream.read(2) == b"\x1f\x8b"
        self._hdu = found[0]
        planes = {hdu.name: hdu for hdu in found[1:] if tuple(hdu.shape) == tuple(found[0].shape)}
        self._variance_hdu = planes.get("VAR")
        shape = tuple(self._hdu.shape)
        if len(shape) != 2:
            raise BadInput(
                f"{path} holds an image of shape {shape}, not a 2-D one",
                code="not-2d",
                hint="Split colour cubes into one file a channel.",
            )
        self.shape: tuple[int, int] = shape
        self.header = hdus[0].header.copy()
        if self._hdu is not hdus[0]:
            self.header.update(self._hdu.header)

    def section(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[np.float32]:
        """Return rows ``y0:y1``, columns ``x0:x1`` in ADU, ``BLANK`` as NaN, float32, native byte order."""
        return np.ascontiguousarray(self._cut(self._hdu, y0, y1, x0, x1), dtype=np.float32)

    def variance(self, y0: int = 0, y1: int | None = None) -> NDArray[np.float32] | None:
        """Return rows ``y0:y1`` of the sky's variance in each pixel, ADU²; None: the file does not tell it."""
        if self._variance_hdu is None:
            return None
        ny, nx = self.shape
        rows = self._cut(self._variance_hdu, y0, ny if y1 is None else y1, 0, nx)
        return np.ascontiguousarray(rows, dtype=np.float32)

    def _cut(self, hdu: Any, y0: int, y1: int, x0: int, x1: int) -> NDArray[Any]:
        # Rows of a gzipped file are read whole: a seek starts over from the file's beginning, and columns would
        # seek once a row (33 s of 35 for 15 frames of 0.3 Mpix).
        try:
            rows = hdu.section[y0:y1, :][:, x0:x1] if self._gzipped else hdu.section[y0:y1, x0:x1]
            return np.asarray(rows)
        except (OSError, TypeError) as error:
            # astropy reports a truncated data unit as either, only once the pixels are touched.
            raise _damaged(self.path, error) from error


@contextmanager
def open_frame(path: Path) -> Iterator[OpenFrame]:
    """Open a frame (plain, ``.gz`` or ``.fz``) for reading by section.

    Raises
    ------
    BadInput
        ``unreadable``, ``no-image`` or ``not-2d``, naming the file.
    """
    try:
        # Sections read only what they need either way; mapped, astropy refuses unsigned integers (BZERO).
        hdus = fits.open(path, memmap=False)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path} cannot be read as FITS: {error}",
            code="unreadable",
            hint="Check the path, and that the file is complete (`fitsverify` tells).",
        ) from error
    with hdus:
        try:
            frame = OpenFrame(path, hdus)
        except (OSError, TypeError) as error:
            raise _damaged(path, error) from error
        yield frame


def _damaged(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{path} is damaged or truncated: {error}", code="unreadable", hint="Copy the file again.")


def frame_wcs_cards(path: Path, header: fits.Header) -> dict[str, Any]:
    """Return the WCS cards of a header, checked to be celestial.

    Raises
    ------
    BadInput
        ``no-wcs`` when there is none.
    """
    return _celestial(path, header)[0]


def _celestial(path: Path, header: fits.Header) -> tuple[dict[str, Any], WCS]:
    cards = {key: header[key] for key in header if _WCS_CARD.match(key)}
    # Capture programs write CRVAL from the mount, with no scale beside it, which would mean 1 degree a pixel.
    if {"CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2"} <= cards.keys() and any(_SCALE_CARD.match(key) for key in cards):
        try:
            wcs = wcs_from_cards(cards)
            if wcs.has_celestial:
                return cards, wcs
        except ValueError as error:  # astropy's own errors of a WCS are of this kind
            raise _unsolved(path, f" that can be read: {' '.join(str(error).split())}") from error
    raise _unsolved(path)


def _unsolved(path: Path, why: str = "") -> BadInput:
    return BadInput(
        f"{path} has no celestial WCS{why}", code="no-wcs", hint=f"Solve it first: `starloom solve {path}`."
    )


def _band(header: fits.Header) -> str:
    """Return the standard band a filter's name means; ``My Filter`` stays, and of WISE's bands 2 is ``WISE 2``."""
    from starloom.photometry.bands import standard_band

    names = [
        str(header[key]).strip() for key in ("BAND", "FILTER", "FILTER1") if header.get(key) not in (None, "")
    ]
    telescope = str(header.get("TELESCOP") or "").strip()
    # A number means a band only of its own telescope: GALEX's 1 is no WISE's.
    name = next((name for name in names if not name.isdigit()), None)
    if name is None:
        return " ".join(word for word in (telescope, names[0]) if word) if names else "unknown"
    first = name.split()[0]
    return standard_band(name) or standard_band(first) or (first if len(first) == 1 else name)


def _first(header: fits.Header, *keys: str) -> Any:
    return next((header[key] for key in keys if header.get(key) not in (None, "")), None)


def told_by_header(header: fits.Header) -> dict[str, Any]:
    """Return the fields of an `InputFrame` that a header alone tells, whatever its pixels are."""
    return {
        "band": _band(header),
        "node": str(_first(header, "TELID", "TELESCOP") or "unknown"),
        "exposure_s": header_number(header, "EXPTIME", "EXPOSURE") or 0.0,
        "provenance": {"start": str(_first(header, "DATE-BEG", "DATE-OBS") or "")},
    }


def read_input(path: Path | str) -> InputFrame:
    """Describe a file for stacking without an archive: header first, what is missing is measured.

    Parameters
    ----------
    path
        FITS image with a WCS: plain, ``.gz`` or ``.fz``, image in HDU0 or HDU1.

    Raises
    ------
    BadInput
        ``unreadable``, ``no-image``, ``not-2d``, ``colour-mosaic``, ``no-wcs`` or ``bad-noise``, naming the file
        and the remedy.
    """
    from starloom.calibration.mosaic import mosaic_layout
    from starloom.coadd.sample import take_sample
    from starloom.frames.normalising import electrons_per_adu

    path = Path(path)
    with open_frame(path) as frame:
        header = frame.header
        if mosaic_layout(header) is not None:
            raise BadInput(
                f"{path} is a colour mosaic ({header.get('BAYERPAT')}): resampling would mix its colours",
                code="colour-mosaic",
                hint="A hub stacks its planes; here, write them with starloom.calibration.planes.plane_frame.",
            )
        cards, wcs = _celestial(path, header)
        saturation, gain = header_number(header, "SATURATE", "SATLEVEL"), electrons_per_adu(header)
        sample = take_sample(frame, saturation_adu=saturation, gain_e_per_adu=gain)
    zero_point_mag, zero_point_err = zero_point(header)
    item = InputFrame(
        id=path.name,
        path=path,
        sky_sigma_adu=sample.sigma_adu,
        fwhm_arcsec=sample.fwhm_px * pixel_scale_arcsec(wcs, sample.shape),
        saturation_adu=sample.saturation_adu,
        gain_e_per_adu=gain,
        zero_point_mag=zero_point_mag,
        zero_point_err=zero_point_err,
        wcs_cards=cards,
        **told_by_header(header),
    )
    item._sample, item._wcs = sample, wcs
    return item
