"""A sheet to draw on: smooth lines and text of a size, with the one font that Pillow carries itself."""

from __future__ import annotations

import io
import unicodedata
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

#: Drawn this much larger and then reduced, because Pillow's own lines have steps.
OVERSAMPLING = 2

#: The font holds Latin 1 in part and no signs of mathematics; what it has not would be drawn as an empty box.
_SIGNS = str.maketrans(
    {
        "″": '"', "′": "'", "“": '"', "”": '"', "‘": "'", "’": "'", "×": "x", "−": "-", "–": "-", "—": "-",
        "→": "->", "²": "^2", "³": "^3", "≥": ">=", "≤": "<=", "≈": "~", "µ": "u", "μ": "u", "σ": "sigma",
        "Δ": "d", "ß": "ss",
    }
)  # fmt: skip
_HAS = frozenset("°±·…")


def drawable(text: str) -> str:
    """Return a text in the characters that the font has; a stranger's name loses its accents, not its letters."""
    text = unicodedata.normalize("NFC", text).translate(_SIGNS)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in _HAS else _plain(c) for c in text)


def _plain(character: str) -> str:
    bare = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return bare if bare and bare.isprintable() else ("" if unicodedata.combining(character) else "?")


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


class Canvas:
    """A page of ``width`` × ``height`` pixels; coordinates run right and down from its upper left corner."""

    def __init__(self, width: int, height: int, background: str) -> None:
        self.width, self.height = width, height
        self._image = Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING), background)
        self._draw = ImageDraw.Draw(self._image)

    def text(
        self, x: float, y: float, text: str, *, size: int, colour: str, anchor: str = "la", strong: bool = False
    ) -> float:
        """Write one line and return its width; ``anchor`` is Pillow's (``la``: left end of the ascender)."""
        text = drawable(text)
        self._draw.text(
            (x * OVERSAMPLING, y * OVERSAMPLING),
            text,
            font=_font(size * OVERSAMPLING),
            fill=colour,
            anchor=anchor,
            # The font comes in one weight: a hair of its own colour around the letters makes another.
            stroke_width=1 if strong else 0,
            stroke_fill=colour,
        )
        return self.width_of(text, size)

    def width_of(self, text: str, size: int) -> float:
        """Return how wide a line will be."""
        return float(_font(size * OVERSAMPLING).getlength(drawable(text))) / OVERSAMPLING

    def lines(self, text: str, size: int, width: float) -> list[str]:
        """Break a text into lines of at most ``width`` pixels; a word longer than that is cut."""
        found: list[str] = []
        line = ""
        for word in drawable(text).split():
            while self.width_of(word, size) > width:
                fits = next(
                    n for n in range(len(word) - 1, 0, -1) if n == 1 or self.width_of(word[:n], size) <= width
                )
                found += [line] if line else []
                line = ""
                found.append(word[:fits])
                word = word[fits:]
            longer = f"{line} {word}".strip()
            if line and self.width_of(longer, size) > width:
                found.append(line)
                line = word
            else:
                line = longer
        return [*found, line] if line else found

    def line(self, points: list[tuple[float, float]], colour: str, width: float = 1.0) -> None:
        """Draw a line through points."""
        scaled = [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in points]
        self._draw.line(scaled, fill=colour, width=max(1, round(width * OVERSAMPLING)), joint="curve")

    def circle(self, x: float, y: float, radius: float, colour: str, width: float = 1.0) -> None:
        """Draw a circle."""
        box = [(v + d * radius) * OVERSAMPLING for d in (-1, 1) for v in (x, y)]
        self._draw.ellipse(box, outline=colour, width=max(1, round(width * OVERSAMPLING)))

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        """Draw a disc."""
        box = [(v + d * radius) * OVERSAMPLING for d in (-1, 1) for v in (x, y)]
        self._draw.ellipse(box, fill=colour)

    def diamond(self, x: float, y: float, radius: float, colour: str, width: float = 1.0) -> None:
        """Draw a square that stands on a corner."""
        corners = [(x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y)]
        self.line([*corners, corners[0]], colour, width)

    def box(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        *,
        fill: str | None = None,
        outline: str | None = None,
        radius: float = 0.0,
    ) -> None:
        """Draw a rectangle, filled, outlined or both, with round corners if wanted."""
        scaled = [v * OVERSAMPLING for v in (left, top, right, bottom)]
        self._draw.rounded_rectangle(scaled, radius * OVERSAMPLING, fill=fill, outline=outline, width=OVERSAMPLING)

    def grey(self, values: NDArray[Any], left: int, top: int, width: int, height: int) -> None:
        """Show an array of 0 to 255, its first row at the top, in a rectangle of the page."""
        size = (width * OVERSAMPLING, height * OVERSAMPLING)
        smaller = size[0] < values.shape[1]
        shown = Image.fromarray(np.asarray(values, np.uint8)).resize(
            size, Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC
        )
        self._image.paste(shown.convert("RGB"), (left * OVERSAMPLING, top * OVERSAMPLING))

    def png(self) -> bytes:
        """Return the page as PNG."""
        buffer = io.BytesIO()
        self._image.reduce(OVERSAMPLING).save(buffer, format="PNG", optimize=False)
        return buffer.getvalue()
