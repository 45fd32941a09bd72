"""The demo's report: one HTML file that needs nothing else, pictures included."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from starloom.coadd.preview import asinh_png, linear_png, thinned
from starloom.frames import read_frame
from starloom.hub import Hub

if TYPE_CHECKING:
    from starloom.demo.story import Outcome

PICTURE_PX = 900


def write_report(hub: Hub, outcome: Outcome) -> Path:
    """Write ``report.html`` into the demo's home and return its path."""
    page = Environment(
        loader=PackageLoader("starloom.demo", "."), autoescape=True, undefined=StrictUndefined
    ).get_template("report.html.j2")
    path = outcome.home / "report.html"
    html = page.render(
        outcome=outcome,
        missions=[_chapter(hub, outcome, mission) for mission in outcome.missions],
    )
    path.write_text(html, encoding="utf-8")
    return path


def _chapter(hub: Hub, outcome: Outcome, mission: dict[str, Any]) -> dict[str, Any]:
    product = mission["products"][0]
    sci = Path(product["sci"])
    mine = [row for row in outcome.frames if row["mission"] == mission["id"] or row["mission"] is None]
    names = {row["solved_key"]: row["name"] for row in mine if row["solved_key"]}
    return {
        **mission,
        "rows": mine if mission["id"] != "TrES-1" else [r for r in mine if r["mission"] is not None],
        "before": [
            {"node": node, "picture": _uri(asinh_png(_thin(hub, key)))}
            for node, key in _one_per_node(mine, product).items()
            if key in names
        ],
        "after": _uri(asinh_png(thinned(sci, "SCI", max_px=PICTURE_PX))),
        "coverage": _uri(linear_png(thinned(sci, "COVERAGE", max_px=PICTURE_PX))),
        "stack": product["summary"],
        "revisions": [*mission["earlier"], *mission["products"]],
    }


def _one_per_node(rows: list[dict[str, Any]], product: dict[str, Any]) -> dict[str, str]:
    """Return one solved frame of each node, ready and on target."""
    found: dict[str, str] = {}
    for row in rows:
        if row["state"] == "ready" and "off-target" not in row["flags"] and row["solved_key"]:
            found.setdefault(row["node"], row["solved_key"])
    return found


def _thin(hub: Hub, key: str) -> np.ndarray[Any, Any]:
    with hub.lake.local_copy(key) as path:
        data, _ = read_frame(path)
    step = max(1, -(-max(data.shape) // PICTURE_PX))
    return np.asarray(data[::step, ::step])


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
