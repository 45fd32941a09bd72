"""What a stack's run shows of it: its inputs with their shares, its products with the depth to be expected."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from starloom.coadd.product import FrameReport, ProductInfo


def expected_depth_mag(limits_mag: Iterable[float]) -> float | None:
    """Return the limiting magnitude of frames of these limits together; None where there are none.

    Notes
    -----
    A limit m stands for a noise σ ∝ 10^(−0.4 m), and 1/σ² adds: m = 1.25 log10 Σ 10^(0.8 mᵢ). It is what weights
    by inverse variance reach with noise that is independent; `starloom.coadd.depth` measures.
    """
    total = sum(10.0 ** (0.8 * limit) for limit in limits_mag)
    return 1.25 * math.log10(total) if total > 0 else None


def input_rows(
    product: str, reports: Iterable[FrameReport], names: Mapping[str, str], limits_mag: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return one row a frame of a product, the heaviest first; ``weight_pct`` is its share of all weight."""
    return [
        {
            "product": product,
            "frame": names.get(report.id, report.id),
            "node": report.node,
            "exposure_s": report.exposure_s,
            "weight_pct": round(100 * report.relative_weight, 2),
            "limit_mag": _rounded(limits_mag.get(report.id)),
            "rejected_pct": round(100 * report.rejected_fraction, 3),
            "registration_px": _rounded(report.registration_rms_px, 3),
            "reason": report.reason or "",
        }
        for report in sorted(reports, key=lambda report: -report.relative_weight)
    ]


def product_row(product: str, info: ProductInfo, limits_mag: Mapping[str, float]) -> dict[str, Any]:
    """Return the row of a product; ``depth_mag`` is `expected_depth_mag` of the frames that have a weight."""
    used = [report.id for report in info.frames if report.weight > 0]
    return {
        "product": product,
        "frames": f"{info.n_used} of {info.n_frames}",
        "exposure_s": round(info.exposure_s, 1),
        "zero_point_mag": _rounded(info.zero_point_mag, 3),
        "zero_point_err": _rounded(info.zero_point_err, 3),
        "depth_mag": _rounded(expected_depth_mag(limits_mag[name] for name in used if name in limits_mag)),
        "pixels": " × ".join(map(str, reversed(info.shape))),
    }


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)
