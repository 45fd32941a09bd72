"""The page: the frame with what was found on it, its residuals, and its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.astrometry.detect import StarList
from starloom.astrometry.wcs import PlaneMap
from starloom.coadd.preview import asinh_stretch
from starloom.quicklook.canvas import Canvas
from starloom.quicklook.overlay import Overlay
from starloom.quicklook.plots import Plot, nice, span
from starloom.quicklook.summary import Summary
from starloom.quicklook.thumbnail import thumbnail

WIDTH, HEIGHT = 1680, 1120
MARGIN = 28
#: Where the picture may stand.
LEFT, TOP, PICTURE_WIDTH, PICTURE_HEIGHT = MARGIN, 78, 1060, 740
COLUMN = LEFT + PICTURE_WIDTH + 36
LABEL_WIDTH = 138

#: Okabe & Ito's colours, which everyone can tell apart, on a dark page; the marks differ in shape as well.
PAGE, PANEL, RULE, DIM, TEXT = "#0e1116", "#161b22", "#30363d", "#8b949e", "#e6edf3"
DETECTED, MATCHED, MISSING, VECTOR = "#56b4e9", "#2bd4a0", "#ff7f3f", "#f0e442"
GOOD, BAD = "#0b7a5a", "#b3441e"

#: Marks beyond these hide the frame; the numbers in the legend count all.
MAX_DETECTED, MAX_MISSING = 1500, 800
#: Length on the page, in pixels, of a residual as large as the rms.
RMS_LENGTH = 16.0


def page(
    data: NDArray[Any], overlay: Overlay, summary: Summary, *, mosaic: bool = False, mask: Any = None
) -> bytes:
    """Draw the page.

    Parameters
    ----------
    data
        Pixels of the frame, shape ``(ny, nx)``; they are read in bands of rows.
    overlay
        What is drawn over them.
    summary
        What stands beside them.
    mosaic
        Whether it is a Bayer mosaic: whole cells are averaged.
    mask
        Pixels that are not to be shown (true or not 0), same shape; None: all are.

    Returns
    -------
    bytes
        PNG of `WIDTH` × `HEIGHT` pixels. The first row of the frame is at the bottom.
    """
    canvas = Canvas(WIDTH, HEIGHT, PAGE)
    bottom = _picture(canvas, data, overlay, mosaic, mask)
    canvas.text(LEFT, 26, _short(canvas, summary.title, 24, PICTURE_WIDTH), size=24, colour=TEXT, strong=True)
    _legend(canvas, overlay, bottom + 14)
    _plots(canvas, overlay, bottom + 54)
    _column(canvas, summary)
    return canvas.png()


def _short(canvas: Canvas, text: str, size: int, width: float) -> str:
    """Return a text cut in its middle: both ends of a file's name tell something."""
    keep = len(text)
    while keep > 8 and canvas.width_of(text, size) > width:
        keep -= 2
        text = f"{text[: keep // 2]}…{text[-(keep // 2) :]}"
    return text


class _View:
    """From pixels of the frame to places on the page."""

    def __init__(self, shape: tuple[int, int]) -> None:
        ny, nx = shape
        self.zoom = min(PICTURE_WIDTH / nx, PICTURE_HEIGHT / ny)
        self.width, self.height = max(round(nx * self.zoom), 1), max(round(ny * self.zoom), 1)
        self.left = LEFT + (PICTURE_WIDTH - self.width) // 2
        self.top = TOP
        self.bottom = self.top + self.height

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        return self.left + (x + 0.5) * self.zoom, self.bottom - (y + 0.5) * self.zoom


def _picture(canvas: Canvas, data: NDArray[Any], overlay: Overlay, mosaic: bool, mask: Any) -> int:
    view = _View(overlay.shape)
    image, block = thumbnail(data, max_px=2 * PICTURE_WIDTH, mosaic=mosaic, mask=mask)
    ny, nx = overlay.shape
    # Blocks that do not divide the frame leave a rim of a few pixels out: the picture ends where they end.
    width = max(round(view.width * image.shape[1] * block / nx), 1)
    height = max(round(view.height * image.shape[0] * block / ny), 1)
    canvas.box(view.left, view.top, view.left + view.width, view.bottom, fill=PANEL)
    canvas.grey(asinh_stretch(image)[::-1] * 255, view.left, view.bottom - height, width, height)
    _marks(canvas, view, overlay)
    right = view.left + view.width
    # A long residual of a star at the border ends with the picture.
    for strip in (
        (0, 0, WIDTH, view.top - 1),
        (0, view.bottom, WIDTH, HEIGHT),
        (0, 0, view.left - 1, HEIGHT),
        (right, 0, WIDTH, HEIGHT),
    ):
        canvas.box(*strip, fill=PAGE)
    canvas.box(view.left - 1, view.top - 1, right, view.bottom, outline=RULE)
    return view.bottom


def _marks(canvas: Canvas, view: _View, overlay: Overlay) -> None:
    radius = 5.0
    if overlay.stars is not None:
        for x, y in zip(overlay.stars.x[:MAX_DETECTED], overlay.stars.y[:MAX_DETECTED], strict=True):
            canvas.circle(*view(x, y), radius, DETECTED)
    for x, y in zip(overlay.missing_x[:MAX_MISSING], overlay.missing_y[:MAX_MISSING], strict=True):
        canvas.diamond(*view(x, y), radius + 2.5, MISSING, 1.4)
    if overlay.stars is None or not len(overlay.matched):
        return
    factor = exaggeration(overlay, view.zoom)
    for star, (dx, dy) in zip(overlay.matched, overlay.residual_px, strict=True):
        x, y = overlay.stars.x[star], overlay.stars.y[star]
        canvas.circle(*view(x, y), radius + 3.0, MATCHED, 1.6)
        canvas.line([view(x, y), view(x + factor * dx, y + factor * dy)], VECTOR, 1.6)


def exaggeration(overlay: Overlay, zoom: float) -> float:
    """Return by how much residuals are lengthened: a round number that makes the rms easy to see."""
    return nice(RMS_LENGTH / zoom / max(overlay.rms_px, 1e-3))


def _legend(canvas: Canvas, overlay: Overlay, top: float) -> None:
    y = top + 9
    x: float = LEFT
    stars = 0 if overlay.stars is None else len(overlay.stars)
    told = [(canvas.circle, 5.0, DETECTED, f"{stars} detected", stars > MAX_DETECTED)]
    if overlay.map is not None:
        told.append(
            (
                canvas.circle,
                8.0,
                MATCHED,
                f"{len(overlay.matched)} matched within {overlay.tolerance_px:.2g} px",
                False,
            )
        )
        missing = len(overlay.missing_x)
        told.append((canvas.diamond, 7.5, MISSING, f"{missing} in the catalogue only", missing > MAX_MISSING))
    for mark, radius, colour, text, cut in told:
        mark(x + 9, y, radius, colour, 1.5)
        x += 26 + canvas.text(
            x + 24, y, text + (" (brightest shown)" if cut else ""), size=16, colour=TEXT, anchor="lm"
        )
        x += 22
    if overlay.map is not None:
        view = _View(overlay.shape)
        _sky_bar(canvas, overlay, view, y)


def _sky_bar(canvas: Canvas, overlay: Overlay, view: _View, y: float) -> None:
    """Draw how long a round angle is on the picture, at the right end of the legend."""
    assert overlay.map is not None
    scale = overlay.map.scale_arcsec / view.zoom
    arcsec = nice(140 * scale, (1, 2, 3, 5, 10, 15, 30) if 140 * scale > 60 else (1, 2, 5))
    unit, divisor = ("°", 3600) if arcsec >= 3600 else ("′", 60) if arcsec >= 60 else ("″", 1)
    if divisor > 1:
        arcsec = nice(140 * scale / divisor) * divisor
    length = arcsec / scale
    right = LEFT + PICTURE_WIDTH
    left = right - length
    canvas.line([(left, y), (right, y)], TEXT, 1.5)
    for end in (left, right):
        canvas.line([(end, y - 5), (end, y + 5)], TEXT, 1.5)
    canvas.text(left - 10, y, f"{arcsec / divisor:g}{unit}", size=16, colour=TEXT, anchor="rm")


def _plots(canvas: Canvas, overlay: Overlay, top: float) -> None:
    height = HEIGHT - MARGIN - 30 - top
    if height < 90 or overlay.stars is None or not len(overlay.stars):
        return
    if overlay.map is None:
        _star_plots(canvas, overlay.stars, top, height)
    elif len(overlay.matched):
        _residual_plots(canvas, overlay, overlay.map, top, height)


def _star_plots(canvas: Canvas, stars: StarList, top: float, height: float) -> None:
    """Show what the detections are like: what is no star, trailed or out of focus, stands apart."""
    left: float = LEFT + 56
    width = 420.0
    flux = np.maximum(stars.flux, 1e-9)
    fainter = -2.5 * np.log10(flux / np.max(flux, initial=1e-9))
    shapes = Plot(left, top, width, height, "FWHM, px", "ellipticity", span(stars.fwhm_px), (0.0, 1.0))
    shapes.axes(canvas)
    shapes.dots(canvas, stars.fwhm_px, stars.ellipticity, DETECTED)
    left += width + 86
    sizes = Plot(
        left, top, width, height, "magnitudes below the brightest", "FWHM, px", span(fainter), span(stars.fwhm_px)
    )
    sizes.axes(canvas)
    sizes.dots(canvas, fainter, stars.fwhm_px, DETECTED)


def _residual_plots(canvas: Canvas, overlay: Overlay, wcs: PlaneMap, top: float, height: float) -> None:
    assert overlay.stars is not None
    dx, dy = overlay.residual_px.T
    length = np.hypot(dx, dy)
    reach = float(max(np.percentile(length, 98) * 1.15, 1e-3))
    left: float = LEFT + 60
    size = min(height, 300.0)
    both = Plot(
        left, top, size, height, "star - catalogue: x, px", "y, px", (-reach, reach), _tall(reach, size, height)
    )
    both.axes(canvas, cross=True)
    both.dots(canvas, dx, dy, VECTOR)
    both.ring(canvas, overlay.rms_px, MATCHED)
    ny, nx = overlay.shape
    x, y = overlay.stars.x[overlay.matched], overlay.stars.y[overlay.matched]
    far = np.hypot(x - (nx - 1) / 2, y - (ny - 1) / 2)
    left += size + 84
    corner = float(np.hypot(nx, ny)) / 2
    outwards = Plot(left, top, 360, height, "px from the centre", "residual, px", (0.0, corner), (0.0, reach))
    outwards.axes(canvas)
    outwards.dots(canvas, far, length, VECTOR)
    _vectors_and_compass(canvas, overlay, wcs, left + 400, top, height)


def _tall(reach: float, width: float, height: float) -> tuple[float, float]:
    """Return the range of y that keeps circles round."""
    return -reach * height / width, reach * height / width


def _vectors_and_compass(
    canvas: Canvas, overlay: Overlay, wcs: PlaneMap, left: float, top: float, height: float
) -> None:
    view = _View(overlay.shape)
    factor = exaggeration(overlay, view.zoom)
    length_px = nice(60 / (factor * view.zoom))
    length = length_px * factor * view.zoom
    canvas.text(left, top, f"residuals × {factor:g}", size=15, colour=TEXT)
    canvas.line([(left, top + 36), (left + length, top + 36)], VECTOR, 2.0)
    canvas.text(left, top + 44, f"{length_px:g} px = {length_px * wcs.scale_arcsec:.3g}″", size=15, colour=DIM)
    if height < 170:
        return
    arm = min(44.0, (height - 90) / 2.6)
    centre = (left + 64, top + 78 + (height - 78) / 2)
    inverse = np.linalg.inv(wcs.cd)
    for name, direction in (("N", (0.0, 1.0)), ("E", (1.0, 0.0))):
        across, along = inverse @ np.array(direction)
        norm = float(np.hypot(across, along))
        # Rows run upwards on the frame and downwards on the page.
        end = (centre[0] + arm * across / norm, centre[1] - arm * along / norm)
        canvas.line([centre, end], TEXT, 1.8)
        beyond = (arm + 13) / arm
        canvas.text(
            centre[0] + beyond * (end[0] - centre[0]),
            centre[1] + beyond * (end[1] - centre[1]),
            name,
            size=16,
            colour=TEXT,
            anchor="mm",
        )


def _column(canvas: Canvas, summary: Summary) -> None:
    right = WIDTH - MARGIN
    badge = summary.verdict.upper() if summary.solved else f"NOT SOLVED: {summary.verdict}"
    canvas.box(COLUMN, 24, right, 62, fill=GOOD if summary.solved else BAD, radius=6)
    canvas.text(COLUMN + 16, 43, badge, size=20, colour="#ffffff", anchor="lm", strong=True)
    for size in (16, 15, 14, 13, 12, 11):
        last = HEIGHT - MARGIN - size
        laid = _laid_out(canvas, summary, size)
        if all(y <= last for _, y, *_ in laid):
            break
    for x, y, text, colour, strong in laid:
        if y <= last:  # what is too long even in small letters ends with the page
            canvas.text(x, y, text, size=size, colour=colour, strong=strong)


def _laid_out(canvas: Canvas, summary: Summary, size: int) -> list[tuple[float, float, str, str, bool]]:
    """Return every line of the column: where it stands, what it says, its colour, whether it is strong."""
    step = round(1.42 * size)
    width = WIDTH - MARGIN - COLUMN
    laid: list[tuple[float, float, str, str, bool]] = []
    y = float(TOP)
    for remark in summary.remarks:
        for text in canvas.lines(remark, size, width):
            laid.append((COLUMN, y, text, TEXT, False))
            y += step
        y += 0.3 * step
    for name, rows in summary.sections:
        y += 0.45 * step
        laid.append((COLUMN, y, name.upper(), DETECTED, True))
        y += 1.15 * step
        for label, value in rows:
            laid.append((COLUMN, y, label, DIM, False))
            for text in canvas.lines(value, size, width - LABEL_WIDTH):
                laid.append((COLUMN + LABEL_WIDTH, y, text, TEXT, False))
                y += step
    return laid
