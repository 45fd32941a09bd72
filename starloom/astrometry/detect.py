"""Detection: find the stars of a frame, and say what kind of frame it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sep
from numpy.typing import NDArray

from starloom.astrometry.seams import Unsolved

Floats = NDArray[np.float64]

MESH_PX = 64
THRESHOLD_SIGMA = 4.0
FWHM_PER_SIGMA = 2.3548
# A star of FWHM 1.2 px, centred, puts 45 % of its light into one pixel; a hot pixel or a cosmic-ray hit all of it.
MAX_PEAK_FRACTION = 0.6
# Below this share of the frame's FWHM an object is sharper than the optics can make a star.
MIN_RELATIVE_FWHM = 0.6
MAX_RELATIVE_FWHM = 3.0
# A star centred on a pixel has up to 1.5 times the peak of one centred on a corner, at a FWHM of 2 px.
MAX_RELATIVE_PEAK = 1.6
TRAILED_ELLIPTICITY = 0.45
MIN_STARS = 6


@dataclass(frozen=True)
class StarList:
    """Stars of one frame, brightest first, and what they say about it.

    Parameters
    ----------
    x, y
        Windowed centroids, 0-based pixel centres, shape ``(n,)``.
    flux
        Background-subtracted isophotal flux, ADU, shape ``(n,)``.
    peak
        Highest pixel above the background, ADU, shape ``(n,)``.
    fwhm_px
        Full width at half maximum, from the radius that holds half of the light, shape ``(n,)``.
    ellipticity
        ``1 - b/a``, shape ``(n,)``.
    saturated
        Whether the star's peak reaches the saturation level, shape ``(n,)``.
    shape
        ``(ny, nx)`` of the frame.
    background_adu, noise_adu
        Sky level and noise of one sky pixel, as medians over the frame.
    frame_fwhm_px, frame_ellipticity
        Medians over the well-exposed stars; NaN without stars.
    trailed
        Whether the stars are drawn out in one common direction.
    """

    x: Floats
    y: Floats
    flux: Floats
    peak: Floats
    fwhm_px: Floats
    ellipticity: Floats
    saturated: NDArray[np.bool_]
    shape: tuple[int, int]
    background_adu: float
    noise_adu: float
    frame_fwhm_px: float
    frame_ellipticity: float
    trailed: bool = False

    def __len__(self) -> int:
        return len(self.x)

    @property
    def fault(self) -> str | None:
        """Why the frame will hardly solve: ``too-few-stars``, ``trailed``, or None."""
        if len(self) < MIN_STARS:
            return "too-few-stars"
        return "trailed" if self.trailed else None

    def brightest(self, n: int) -> StarList:
        """Return the same list cut to its ``n`` brightest stars."""
        columns = ("x", "y", "flux", "peak", "fwhm_px", "ellipticity", "saturated")
        return replace(self, **{name: getattr(self, name)[:n] for name in columns})


def detect_stars(data: NDArray[Any], *, max_stars: int = 2000, saturation_adu: float | None = None) -> StarList:
    """Find the stars of a frame.

    Parameters
    ----------
    data
        Pixels, shape ``(ny, nx)``, any real type; NaN and infinite pixels are left out.
    max_stars
        Keep only this many of the brightest.
    saturation_adu
        Level at which a pixel counts as saturated; ``None`` looks for a plateau at the frame's maximum.

    Returns
    -------
    StarList
        Possibly short or empty; `StarList.fault` says whether it is fit for solving.

    Raises
    ------
    Unsolved
        ``no-sky``: no usable pixels, or pixels that are all alike, so that there is no sky to stand out from.

    Notes
    -----
    Hot pixels and cosmic-ray hits are sharper than the frame's stars, bad columns and satellite trails far longer;
    both are dropped. Stars that all are elongated stay, because a badly guided frame can still be solved.

    References
    ----------
    Bertin & Arnouts 1996, A&AS 117, 393; Barbary 2016, JOSS 1, 58 (sep).
    """
    if data.ndim != 2:
        raise Unsolved(f"an image of shape {data.shape} is not a frame", code="no-sky")
    mask = ~np.isfinite(data) if data.dtype.kind == "f" else np.zeros(data.shape, bool)
    if mask.all() or min(data.shape) < 16:
        raise Unsolved("the frame has no usable pixels", code="no-sky")
    pixels = np.ascontiguousarray(data, dtype=np.float32)
    if pixels is data or mask.any():
        pixels = np.where(mask, np.float32(0), pixels)
    saturation = _saturation(pixels, mask) if saturation_adu is None else saturation_adu
    mesh = min(MESH_PX, *data.shape)
    sky = sep.Background(pixels, mask=mask, bw=mesh, bh=mesh)
    noise = float(sky.globalrms)
    # Where most pixels are clipped there is no sky either, only its absence.
    clipped = np.count_nonzero(pixels[~mask] >= pixels[~mask].max()) / np.count_nonzero(~mask)
    if not (np.isfinite(noise) and noise > 0) or clipped > 0.5:
        raise Unsolved("the frame has no sky: its pixels are all alike", code="no-sky")
    level = np.asarray(sky.back())
    pixels = pixels - level
    pixels[mask] = 0.0
    found = _extract(pixels, noise, mask)
    found = found[np.isfinite(found["flux"]) & (found["flux"] > 0)]
    found = found[np.argsort(-found["flux"], kind="stable")]
    # Rejection drops some, so look at more than asked for, but not at every blob of a crowded 60-megapixel frame.
    found = found[: max(3 * max_stars, 6000)]
    fwhm = _fwhm(pixels, found, mask)
    star = _is_star(found, fwhm, data.shape)
    found, fwhm = found[star], fwhm[star]
    star = _is_soft(pixels, found, fwhm, noise, mask)
    found, fwhm = found[star], fwhm[star]
    at = (np.clip(np.rint(found["ypeak"]), 0, None).astype(int), np.clip(found["xpeak"], 0, None).astype(int))
    saturated = found["peak"] + level[at] >= saturation
    ellipticity = 1.0 - found["b"] / found["a"]
    good = ~saturated & (found["flux"] > 20 * noise)
    good = good if good.sum() >= 5 else np.ones(len(found), bool)
    typical = float(np.median(fwhm[good])) if len(found) else float("nan")
    x, y = _windowed(pixels, found, typical, mask)
    drawn_out = float(np.median(ellipticity[good])) if len(found) else float("nan")
    stars = StarList(
        x=x,
        y=y,
        flux=found["flux"].astype(np.float64),
        peak=found["peak"].astype(np.float64),
        fwhm_px=fwhm,
        ellipticity=np.asarray(ellipticity, np.float64),
        saturated=np.asarray(saturated, bool),
        shape=(int(data.shape[0]), int(data.shape[1])),
        background_adu=float(sky.globalback),
        noise_adu=noise,
        frame_fwhm_px=typical,
        frame_ellipticity=drawn_out,
        trailed=bool(drawn_out > TRAILED_ELLIPTICITY and _aligned(found["theta"][good])),
    )
    return stars.brightest(max_stars)


def _saturation(pixels: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Guess the saturation level: several pixels stand within 0.1 % of the maximum only where they clip."""
    top = float(pixels.max(initial=0.0, where=~mask))
    plateau = int(np.count_nonzero((pixels >= 0.999 * top) & ~mask))
    return 0.999 * top if top > 0 and plateau >= 5 else float("inf")


def _extract(pixels: NDArray[np.float32], noise: float, mask: NDArray[np.bool_]) -> NDArray[np.void]:
    """Run the extraction, with room for crowded frames, and again less deeply where even that is too small."""
    sep.set_extract_pixstack(max(300_000, pixels.size // 4))
    sep.set_sub_object_limit(8192)
    threshold = THRESHOLD_SIGMA
    while True:
        try:
            found: NDArray[np.void] = sep.extract(
                pixels, threshold, err=noise, mask=mask, minarea=5, deblend_cont=0.005
            )
        except Exception as error:
            # sep raises bare Exception when one of its buffers is full; anything else is not ours to hide.
            if threshold > 100 or not any(word in str(error) for word in ("overflow", "buffer", "limit")):
                raise
            threshold *= 2
        else:
            return found


def _fwhm(pixels: NDArray[np.float32], found: NDArray[np.void], mask: NDArray[np.bool_]) -> Floats:
    """Twice the radius that holds half of the light: the FWHM of a Gaussian, and close to it for a Moffat."""
    if not len(found):
        return np.zeros(0)
    reach = np.clip(4.0 * found["a"], 3.0, 30.0)
    radius, _ = sep.flux_radius(pixels, found["x"], found["y"], reach, 0.5, mask=mask, subpix=5)
    return np.asarray(2.0 * radius, np.float64)


def _is_star(found: NDArray[np.void], fwhm: Floats, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Tell stars from hot pixels, cosmic-ray hits, bad columns, trails and large smudges."""
    if not len(found):
        return np.zeros(0, bool)
    # `flux` and `peak` are of the unfiltered pixels, so this is how much of the light one pixel holds.
    soft = (found["peak"] / found["flux"] < MAX_PEAK_FRACTION) & np.isfinite(fwhm) & (fwhm > 0)
    soft &= (found["flag"] & (sep.OBJ_TRUNC | sep.OBJ_SINGU)) == 0
    if not soft.any():
        return np.asarray(soft, bool)
    few = np.flatnonzero(soft)[:300]
    typical, length = float(np.median(fwhm[few])), float(np.median(found["a"][few]))
    roundness = float(np.median((found["b"] / found["a"])[few]))
    star = soft & (fwhm > MIN_RELATIVE_FWHM * typical) & (fwhm < MAX_RELATIVE_FWHM * typical)
    # Bright stars have wide isophotes, so lengths are judged generously and shapes against the frame's own.
    star &= found["a"] < 8.0 * length
    star &= found["b"] / found["a"] > 0.5 * roundness
    star &= ~_piled_up(found["x"], star, shape[1]) & ~_piled_up(found["y"], star, shape[0])
    return np.asarray(star, bool)


def _is_soft(
    pixels: NDArray[np.float32], found: NDArray[np.void], fwhm: Floats, noise: float, mask: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Tell stars from cosmic-ray tracks: a track's brightest pixel holds more of its light than a star's does."""
    if not len(found):
        return np.zeros(0, bool)
    radius = float(np.clip(1.2 * np.median(fwhm[:300]), 2.0, 30.0))
    total, _, _ = sep.sum_circle(pixels, found["x"], found["y"], radius, mask=mask, subpix=5)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = found["peak"] / total
        # The peak of a faint star is the luckiest of its pixels.
        excess = (found["peak"] - 3.0 * noise) / total
    typical = float(np.median(share[:300][np.isfinite(share[:300])])) if np.isfinite(share[:300]).any() else 1.0
    return np.asarray((total > 0) & (excess < MAX_RELATIVE_PEAK * typical), bool)


def _piled_up(position: Floats, among: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Return which detections stand in a column (or row) that holds far more of them than chance allows."""
    width = 2
    bins = np.clip((position / width).astype(int), 0, size // width)
    counts = np.bincount(bins[among], minlength=size // width + 1)
    mean = among.sum() / max(size / width, 1)
    return np.asarray(counts[bins] > max(mean + 8.0 * np.sqrt(mean) + 4.0, 6.0), bool)


def _windowed(
    pixels: NDArray[np.float32], found: NDArray[np.void], fwhm: float, mask: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Centroids under a Gaussian window of the frame's seeing: 0.01 px, where plain moments reach 0.03."""
    if not len(found):
        return np.zeros(0), np.zeros(0)
    sigma = float(np.clip(fwhm / FWHM_PER_SIGMA, 0.6, 15.0))
    x, y, flag = sep.winpos(pixels, found["x"], found["y"], sigma, mask=mask)
    strayed = (np.hypot(x - found["x"], y - found["y"]) > fwhm) | (flag != 0) | ~np.isfinite(x + y)
    return np.where(strayed, found["x"], x), np.where(strayed, found["y"], y)


def _aligned(theta: Floats) -> bool:
    """Whether position angles (radians, modulo π) agree, as those of trailed stars do and of noise do not."""
    return len(theta) >= 5 and float(np.abs(np.exp(2j * theta).mean())) > 0.5
