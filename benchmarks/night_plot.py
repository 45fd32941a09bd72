"""The backlog of a night as a drawing."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT, MARGIN = 720, 300, 46
#: Column of a row, colour and words.
LINES = ((1, "#999999", "sent"), (2, "#1f77b4", "settled"))


def draw(seen: Sequence[Sequence[float]]) -> str:
    """Return an SVG of frames sent, frames settled and the backlog between them.

    Parameters
    ----------
    seen
        Rows ``seconds, sent, settled, …`` in order.
    """
    end, top = max(row[0] for row in seen), max(row[1] for row in seen)

    def path(points: Sequence[tuple[float, float]], colour: str) -> str:
        x_scale, y_scale = (WIDTH - 2 * MARGIN) / end, (HEIGHT - 2 * MARGIN) / top
        said = " ".join(f"{MARGIN + x * x_scale:.1f},{HEIGHT - MARGIN - y * y_scale:.1f}" for x, y in points)
        return f'<polyline points="{said}" fill="none" stroke="{colour}" stroke-width="2"/>'

    drawn = [path([(row[0], row[column]) for row in seen], colour) for column, colour, _ in LINES]
    drawn.append(path([(row[0], row[1] - row[2]) for row in seen], "#d62728"))
    words = [*((colour, said) for _, colour, said in LINES), ("#d62728", "backlog")]
    drawn += [
        f'<text x="{MARGIN + 10}" y="{MARGIN + 16 * n}" fill="{colour}">{said}</text>'
        for n, (colour, said) in enumerate(words)
    ]
    drawn += [
        f'<path d="M{MARGIN} {MARGIN}V{HEIGHT - MARGIN}H{WIDTH - MARGIN}" fill="none" stroke="black"/>',
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - MARGIN + 18}" text-anchor="end">{end:.0f} s</text>',
        f'<text x="{MARGIN - 4}" y="{MARGIN - 8}">{top:.0f} frames</text>',
    ]
    font = 'font-family="sans-serif" font-size="13"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {font}>'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *drawn, "</svg>\n"])
