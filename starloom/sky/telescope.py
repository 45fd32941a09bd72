"""A synthetic telescope: optics, detector and the capture program that writes its headers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from astropy.wcs import WCS

from starloom.errors import BadInput

CaptureProgram = Literal["nina", "maxim", "seestar"]
Card = float | int | str


@dataclass(frozen=True)
class Telescope:
    """Everything about a telescope that leaves its mark on a frame.

    Parameters
    ----------
    node
        The network's name of the telescope (``TelID``).
    scale_arcsec
        Plate scale at the optical axis, arcsec per pixel.
    width, height
        Detector size, pixels.
    rotation_deg
        Position angle of the detector's +y axis, degrees east of north.
    parity
        ``+1``: east is left of north, as on the sky; ``-1``: mirrored.
    distortion_px
        Radial displacement at the corner of the frame, pixels; positive values are barrel distortion.
    fwhm_px
        Range from which a frame's seeing is drawn, pixels.
    moffat_beta
        Slope of the wings of the point spread function.
    gain_e_per_adu, read_noise_e, pedestal_adu
        Detector: conversion factor, read noise (electrons rms) and level of an unexposed pixel (ADU).
    bitpix
        What the files hold: 16 (unsigned), 32 (signed) or -32 (float).
    full_well_adu
        Level at which a pixel clips, ADU.
    exposure_s, zero_point_mag
        Exposure time, and the magnitude that gives 1 ADU in this whole exposure through a clear sky.
    sky_adu
        Sky background of an exposure, ADU a pixel.
    vignetting
        Fraction of light lost in the corners; dims stars and sky alike.
    gradient
        Relative change of the sky background from one edge of the frame to the other.
    cosmic_rays
        Mean number of cosmic-ray hits per megapixel and exposure.
    program
        Whose header style the files have.
    filter_name
        The filter as this node's capture program writes it.
    focal_length_mm
        Focal length written to the header.
    """

    node: str
    scale_arcsec: float
    width: int
    height: int
    rotation_deg: float = 0.0
    parity: Literal[1, -1] = 1
    distortion_px: float = 0.0
    fwhm_px: tuple[float, float] = (2.5, 3.0)
    moffat_beta: float = 3.5
    gain_e_per_adu: float = 1.0
    read_noise_e: float = 5.0
    pedestal_adu: float = 100.0
    bitpix: Literal[16, 32, -32] = 16
    full_well_adu: float = 65535.0
    exposure_s: float = 60.0
    zero_point_mag: float = 23.0
    sky_adu: float = 500.0
    vignetting: float = 0.0
    gradient: float = 0.0
    cosmic_rays: float = 20.0
    program: CaptureProgram = "nina"
    filter_name: str = "V"
    focal_length_mm: float = 800.0

    def __post_init__(self) -> None:
        top = {16: 65535.0, 32: 2.0**31 - 1, -32: np.inf}[self.bitpix]
        if not 0 < self.full_well_adu <= top:
            raise BadInput(f"{self.node}: {self.bitpix}-bit pixels cannot hold {self.full_well_adu} ADU")
        if min(self.width, self.height) < 8 or self.scale_arcsec <= 0 or self.fwhm_px[0] <= 0:
            raise BadInput(f"{self.node}: sizes, plate scale and seeing are positive")

    @property
    def radius_deg(self) -> float:
        """Distance from the centre of the frame to its corner, degrees."""
        return float(np.hypot(self.width, self.height) / 2 * self.scale_arcsec / 3600)

    def wcs_cards(self, ra_deg: float, dec_deg: float) -> dict[str, Card]:
        """Return the exact WCS of an exposure that points at ``(ra_deg, dec_deg)``, as FITS cards.

        The distortion is radial and cubic, which SIP holds without remainder:
        ``u' = u (1 + k r²)``, so ``A_3_0 = A_1_2 = B_2_1 = B_0_3 = k``.

        References
        ----------
        Shupe et al. 2005, ASP Conf. Ser. 347, 491 (SIP).
        """
        angle = np.radians(self.rotation_deg)
        step = self.scale_arcsec / 3600
        cards: dict[str, Card] = {
            "WCSAXES": 2,
            "CTYPE1": "RA---TAN-SIP" if self.distortion_px else "RA---TAN",
            "CTYPE2": "DEC--TAN-SIP" if self.distortion_px else "DEC--TAN",
            "CRVAL1": float(ra_deg % 360.0),
            "CRVAL2": float(dec_deg),
            "CRPIX1": (self.width + 1) / 2,
            "CRPIX2": (self.height + 1) / 2,
            "CUNIT1": "deg",
            "CUNIT2": "deg",
            "CD1_1": float(-self.parity * step * np.cos(angle)),
            "CD1_2": float(step * np.sin(angle)),
            "CD2_1": float(self.parity * step * np.sin(angle)),
            "CD2_2": float(step * np.cos(angle)),
            "RADESYS": "ICRS",
        }
        if self.distortion_px:
            half_diagonal = np.hypot(self.width, self.height) / 2
            k = float(self.distortion_px / half_diagonal**3)
            cards |= {"A_ORDER": 3, "B_ORDER": 3, "A_3_0": k, "A_1_2": k, "B_2_1": k, "B_0_3": k}
        return cards

    def wcs(self, ra_deg: float, dec_deg: float) -> WCS:
        """Return the exact WCS of an exposure that points at ``(ra_deg, dec_deg)``."""
        return wcs_from_cards(self.wcs_cards(ra_deg, dec_deg))


def wcs_from_cards(cards: dict[str, Card]) -> WCS:
    """Return the astropy WCS of a set of cards, such as a `FrameTruth` holds."""
    from astropy.io import fits

    return WCS(fits.Header(cards))
