"""The PSF that a product has: measured on its stars, or known from its making."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from starloom.coadd.combine import FrameNoise
from starloom.coadd.engine import psf_of
from starloom.coadd.plan import StackPlan
from starloom.errors import BadInput

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]


def psf_hdu(plan: StackPlan, read: Callable[[int, int, int, int], Floats]) -> fits.ImageHDU:
    """Return the extension ``PSF``: unit sum, odd sides, the star's centre in the middle pixel.

    Parameters
    ----------
    read
        ``read(y0, y1, x0, x1)`` returns that section of ``SCI``, NaN where nothing is known or saturated.

    Notes
    -----
    ``PSFSRC`` says where it is from: ``measured`` on the product's stars; ``proper``, from the frames' PSFs, for
    where all frames are; ``assumed``, a Moffat profile of the frames' mean seeing, where the product has too few
    stars or follows a target.
    """
    image, source = _psf(plan, read)
    hdu = fits.ImageHDU(np.asarray(image, np.float32), name="PSF")
    hdu.header["PSFSRC"] = (source, "measured, proper or assumed")
    hdu.header["PSFFWHM"] = (round(width_px(image), 4), "[pixel] full width at half maximum")
    return hdu


def _psf(plan: StackPlan, read: Callable[[int, int, int, int], Floats]) -> tuple[NDArray[Any], str]:
    from starloom.coadd.psf import effective_psf, moffat_psf, psf_side

    used = plan.used
    weights = np.array([frame.weight for frame in used])
    fwhm = float(np.average([frame.fwhm_px for frame in used], weights=weights))
    if plan.options.combine == "proper":
        from starloom.coadd.proper import proper_psf

        psfs = [psf_of(frame) for frame in used]
        made = proper_psf(FrameNoise.of_plan(plan), psfs, len(psfs[0]))
        return made / made.sum(), "proper"
    if plan.track is None:
        try:
            return effective_psf(read, plan.shape, fwhm), "measured"
        except BadInput as error:
            if error.code != "too-few-stars":
                raise
            log.info("band %s p%d: %s; its PSF is assumed", plan.band, plan.pointing, error.message)
    return moffat_psf(fwhm, size=psf_side(fwhm)), "assumed"


def width_px(psf: NDArray[Any]) -> float:
    """Return the FWHM of a centred PSF: where its mean over angles sinks to half the peak."""
    middle = len(psf) // 2
    y, x = np.indices(psf.shape) - middle
    radius = np.hypot(x, y).ravel()
    order = np.argsort(radius)
    # From the middle outwards the first crossing of half maximum is the core's.
    rings, where = np.unique(np.round(radius[order], 6), return_inverse=True)
    values = np.bincount(where, psf.ravel()[order]) / np.bincount(where)
    below = int(np.argmax(values < psf.max() / 2))
    inner, outer = values[below - 1], values[below]
    step = (inner - psf.max() / 2) / (inner - outer)
    return float(2 * (rings[below - 1] + step * (rings[below] - rings[below - 1])))
