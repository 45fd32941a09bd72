from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from starloom.coadd.jit import ABSENT, compiled
from starloom.coadd.resample.finish import cut_streak, to_output_units
from starloom.coadd.resample.flags import (
    HOT,
    MASKED,
    NEAR,
    NO_SATURATION,
    NOT_FINITE,
    SATURATED,
    inspect,
    order_key,
)
from starloom.coadd.resample.kernels import (
    BILINEAR,
    LANCZOS3,
    LANES,
    NEAREST,
    PHASES,
    STRETCHED,
    choose_kernel,
    lanczos_table,
    noise_factor,
)
from starloom.coadd.resample.lattice import OUTSIDE
from starloom.coadd.resample.overlap import covered, sample_overlaps, set_edges
from starloom.coadd.resample.point import sample_points
from starloom.coadd.resample.simd import plain_tap, tap6, tap8
from starloom.coadd.resample.spans import frame_spans


@compiled
def _tap(rows, window, offset, stride, table, x, y):
    if rows == 6:
        return tap6(window, offset, stride, table, x, y)
    return tap8(window, offset, stride, table, x, y)


@pytest.mark.parametrize(("rows", "stretch"), [(6, 1.0), (8, 1.25)])
def test_vector_taps_are_the_plain_ones(rows, stretch):
    rng = np.random.default_rng(1)
    window = rng.normal(100, 30, 40 * 50).astype(np.float32)
    table = lanczos_table(stretch)
    for _ in range(200):
        offset, x, y = (
            int(rng.integers(0, 33 * 50)),
            int(rng.integers(0, PHASES + 1)),
            int(rng.integers(0, PHASES)),
        )
        assert _tap(rows, window, offset, 50, table, x, y) == pytest.approx(
            plain_tap(window, offset, 50, table, x, y), rel=2e-6
        )


def test_lanczos_weights_sum_to_one_and_vanish_at_whole_pixels():
    stretched = lanczos_table(1.3).reshape(PHASES + 1, LANES)
    np.testing.assert_allclose(stretched.sum(axis=1), 1, atol=2e-7)
    np.testing.assert_allclose(stretched, stretched[::-1, ::-1], atol=1e-7)
    table = lanczos_table().reshape(PHASES + 1, LANES)
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=2e-7)
    assert table[0].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert table[PHASES].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    np.testing.assert_allclose(table[:, :6], table[::-1, 5::-1], atol=1e-7)


def test_point_kernels_give_way_where_they_would_alias():
    assert choose_kernel("lanczos3", 1.0, 2.0) == "lanczos3"
    assert choose_kernel("bilinear", 1.5**2, 2.0) == "area"
    assert choose_kernel("bilinear", 1.5**2, 4.0) == "bilinear"
    assert choose_kernel("lanczos3", 1.29**2, 2.0) == "lanczos3"
    assert choose_kernel("lanczos3", 1.5**2, 4.0) == "area"
    assert choose_kernel("nearest", 9.0, 2.0) == "nearest"
    assert choose_kernel("drizzle", 9.0, 2.0) == "drizzle"


def test_noise_factors_known_in_closed_form():
    assert noise_factor("bilinear", 1.0) == pytest.approx(2 / 3, abs=1e-3)
    assert noise_factor("area", 1.0) == pytest.approx(2 / 3, abs=1e-3)
    assert noise_factor("area", 4.0) == pytest.approx((2 - 1 / 3) / 2, abs=1e-3)
    assert noise_factor("nearest", 1.0) == pytest.approx(1, abs=1e-6)
    assert noise_factor("drizzle", 1.0, 1.0) == pytest.approx(2 / 3, abs=1e-3)
    assert noise_factor("drizzle", 1.0, 0.01) == pytest.approx(1, abs=0.02)


def nodes_of(matrix, origin, shape, node=32, first=(0, 0)):
    """Nodes of a linear map: frame (x, y) = matrix @ (X, Y) + origin over an output of ``shape``."""
    gx0, gy0 = first[0] // node, first[1] // node
    gx, gy = np.meshgrid(
        np.arange(gx0, (first[0] + shape[1] - 1) // node + 2.0) * node,
        np.arange(gy0, (first[1] + shape[0] - 1) // node + 2.0) * node,
    )
    x = matrix[0][0] * gx + matrix[0][1] * gy + origin[0]
    y = matrix[1][0] * gx + matrix[1][1] * gy + origin[1]
    return x, y, gx0, gy0, node


def turn(degrees, scale=1.0):
    c, s = np.cos(np.radians(degrees)) * scale, np.sin(np.radians(degrees)) * scale
    return ((c, -s), (s, c))


def sample(kind, data, nodes, shape, *, flags=None, drop=None):
    """Resample a whole frame; flags are its bad pixels."""
    ny, nx = data.shape
    window = np.zeros((ny + 16, nx + 16), np.float32)
    window[4 : 4 + ny, 4 : 4 + nx] = data
    seen = np.zeros(window.shape, np.uint8)
    found = 0
    if flags is not None:
        seen[4 : 4 + ny, 4 : 4 + nx] = flags
        found = int(np.bitwise_or.reduce(flags.ravel()))
    out, limit = np.empty(shape, np.float32), np.full(shape, -ABSENT, np.float32)
    blocks = np.full((ny // 16 + 3, nx // 16 + 3), found != 0, np.uint8)
    where = (found, -4, -4, ny + 16, ny, nx, *nodes, 0, 0)
    if drop is None:
        sample_points(
            kind,
            window.ravel(),
            nx + 16,
            seen,
            blocks,
            *where,
            lanczos_table(1.3 if kind == STRETCHED else 1.0),
            out,
            limit,
        )
    else:
        sample_overlaps(drop, window.ravel(), nx + 16, seen, *where, out, limit)
    return out, limit


@pytest.mark.parametrize("kind", [NEAREST, BILINEAR, LANCZOS3])
def test_frames_on_the_grid_itself_stay_as_they_are(kind):
    data = np.random.default_rng(2).normal(0, 1, (40, 50)).astype(np.float32)
    out, _ = sample(kind, data, nodes_of(turn(0), (-5.0, -3.0 + 1e-9), (50, 60)), (50, 60))
    assert np.array_equal(out[3:43, 5:55], data)  # the border too: taps without weight may lie outside
    out[3:43, 5:55] = ABSENT
    assert (out == ABSENT).all()


@pytest.mark.parametrize(
    ("kind", "before", "after"), [(NEAREST, 0, 0), (BILINEAR, 0, 1), (LANCZOS3, 2, 3), (STRETCHED, 3, 4)]
)
def test_pixels_whose_kernel_meets_a_bad_one_are_absent(kind, before, after):
    data = np.random.default_rng(3).normal(100, 1, (60, 60)).astype(np.float32)
    nodes = nodes_of(turn(0), (0.4, 0.3), (60, 60))
    clean, _ = sample(kind, data, nodes, (60, 60))
    flags = np.zeros(data.shape, np.uint8)
    flags[26:34, 26:34] = NEAR
    flags[30, 30] |= SATURATED
    data[30, 30] = 6e4
    out, limit = sample(kind, data, nodes, (60, 60), flags=flags)
    touched = np.zeros(data.shape, bool)
    touched[30 - after : 31 + before, 30 - after : 31 + before] = True
    assert np.array_equal(out == ABSENT, touched | (clean == ABSENT))
    assert np.array_equal(out[~touched], clean[~touched])
    assert np.array_equal(limit > -ABSENT, touched)
    assert limit[30, 30] == pytest.approx(0.6 * 0.7 * 6e4, rel=0.01)


def test_nodes_outside_the_lattice_make_their_cells_absent():
    x, y, *rest = nodes_of(turn(0), (0.0, 0.0), (64, 96))
    x[:, 2] = OUTSIDE
    for drop in (None, 1.0):
        out, _ = sample(LANCZOS3, np.ones((200, 200), np.float32), (x, y, *rest), (64, 96), drop=drop)
        assert (out[3:, 3:32] == 1).all()
        assert (out[:, 32:] == ABSENT).all()


def inspected(data, *, saturation=None, sigma=0.0, mask=None, rows=None):
    """Flags of a whole frame, or of some of its rows."""
    ny, nx = data.shape
    y0, y1 = rows or (0, ny)
    window = np.zeros((y1 - y0 + 8, nx + 8), np.float32)
    window[4 : 4 + y1 - y0, 4 : 4 + nx] = data[y0:y1]
    flags = np.full(window.shape, 255, np.uint8)
    blocks = np.full((window.shape[0] // 16 + 1, window.shape[1] // 16 + 1), 255, np.uint8)
    spans = np.zeros(y1 - y0, np.int32), np.full(y1 - y0, nx, np.int32)
    found = inspect(
        window, window.view(np.int32), flags, blocks, y0 - 4, -4, y0, y1, *spans, ny, nx,
        NO_SATURATION if saturation is None else order_key(saturation), sigma,
        np.zeros((0, 0), np.uint8) if mask is None else mask[y0:y1].view(np.uint8), 0,
    )  # fmt: skip
    assert np.isfinite(window).all()
    near = {(int(y) // 16, int(x) // 16) for y, x in zip(*np.nonzero(flags & NEAR), strict=True)}
    assert near == set(zip(*(i.tolist() for i in np.nonzero(blocks)), strict=True))
    return found, flags[4:-4, 4:-4]


def test_integer_keys_order_floats():
    values = np.array([-np.inf, -3e38, -1.0, -1e-30, 0.0, 1e-30, 1.0, 3e38, np.inf], np.float32)
    keys = [int(order_key(v)) for v in values]
    assert keys == sorted(keys)
    assert order_key(np.inf) == NO_SATURATION


def test_what_is_wrong_with_a_window_is_found():
    rng = np.random.default_rng(4)
    data = rng.normal(500, 10, (60, 70)).astype(np.float32)
    assert inspected(data, saturation=5e4, sigma=10.0) == (0, pytest.approx(0))
    data[10, 11], data[20, 21], data[21, 21] = np.nan, np.inf, -np.inf
    data[30, 31] = 5e4
    data[40, 41], data[45, 69], data[50, 0] = 700.0, 640.0, 300.0
    mask = np.zeros(data.shape, bool)
    mask[55, 5] = True
    found, flags = inspected(data, saturation=5e4, sigma=10.0, mask=mask)
    want = np.zeros(data.shape, np.uint8)
    want[10, 11] = want[20, 21] = want[21, 21] = NOT_FINITE
    want[30, 31], want[55, 5] = SATURATED, MASKED
    want[40, 41] = want[45, 69] = want[50, 0] = HOT
    assert found & ~NEAR == NOT_FINITE | SATURATED | MASKED | HOT
    assert np.array_equal(flags & 15, want)
    near = np.zeros(data.shape, bool)
    for y, x in zip(*np.nonzero(want), strict=True):
        near[max(y - 4, 0) : y + 4, max(x - 4, 0) : x + 4] = True
    assert np.array_equal(flags & NEAR > 0, near)
    # The same from any rows that hold the pixel's surroundings.
    assert np.array_equal(
        inspected(data, saturation=5e4, sigma=10.0, mask=mask, rows=(38, 44))[1] & 15, want[38:44]
    )


@pytest.mark.parametrize("fwhm", [1.5, 2.0, 4.0])
def test_stars_are_not_hot_pixels(fwhm):
    rng = np.random.default_rng(5)
    data = rng.normal(500, 5, (200, 200))
    edges = (np.arange(201) - 0.5)[:, None]
    x, y = rng.uniform(5, 195, (2, 60))
    k = 2 * np.sqrt(np.log(2)) / fwhm
    profiles = [np.diff(erf((edges - centre) * k), axis=0) / 2 for centre in (x, y)]
    data += np.einsum("yi,xi,i->yx", profiles[1], profiles[0], 10 ** rng.uniform(2.3, 5, 60))
    found, _ = inspected(data.astype(np.float32), sigma=5.0)
    assert found == 0


@pytest.mark.parametrize("angle", [0.0, 17.0, 45.0, 90.0, 200.0])
def test_spans_hold_what_is_needed_and_little_more(angle):
    ny, nx = 300, 400
    shape, first = (90, 120), (70, 40)
    matrix = turn(angle, 1.1)
    middle = np.array(matrix) @ (first[0] + 60, first[1] + 45)
    origin = np.array([230.0, 60.0]) - middle  # partly below the frame
    nodes = nodes_of(matrix, origin, shape, first=first)
    lo, hi = np.zeros(ny, np.int32), np.zeros(ny, np.int32)
    top, bottom, left, right = frame_spans(*nodes, *first, shape[1], shape[0], 3.0, 0.0, ny, nx, lo, hi)
    gx, gy = np.meshgrid(first[0] + np.arange(shape[1]), first[1] + np.arange(shape[0]))
    x = matrix[0][0] * gx + matrix[0][1] * gy + origin[0]
    y = matrix[1][0] * gx + matrix[1][1] * gy + origin[1]
    need = np.zeros((ny, nx), bool)
    for dy in range(-2, 4):
        for dx in range(-2, 4):
            j, i = np.floor(y).astype(int) + dy, np.floor(x).astype(int) + dx
            inside = (j >= 0) & (i >= 0) & (j < ny) & (i < nx)
            need[j[inside], i[inside]] = True
    have = np.zeros_like(need)
    for row in range(top, bottom):
        assert left <= lo[row] <= hi[row] <= right
        have[row, lo[row] : hi[row]] = True
    assert not (need & ~have).any()
    assert have.sum() < 1.1 * need.sum()


def test_overlaps_are_those_of_geometry():
    # A square turned by 45 degrees over the pixel it is centred on: four corners are missing.
    h = np.sqrt(0.5)
    diamond = (0.0, -h, h, 0.0, 0.0, h, -h, 0.0)
    edges = np.empty((4, 6))
    set_edges(edges, *diamond)
    assert covered(edges, 0.0, 0.0, 0.5) == pytest.approx(1 - 4 * (h - 0.5) ** 2, rel=1e-12)
    rng = np.random.default_rng(6)
    fine = (np.arange(400) + 0.5) / 400 - 0.5
    u, v = np.meshgrid(fine, fine)
    for _ in range(20):
        (a, b), (c, d) = turn(rng.uniform(0, 360), rng.uniform(0.4, 2))
        cx, cy = rng.uniform(-1, 1, 2)
        corners = [
            (a * s + b * t + cx, c * s + d * t + cy)
            for s, t in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
        ]
        set_edges(edges, *np.ravel(corners))
        got = covered(edges, 0.0, 0.0, 0.4)
        x, y = a * u + b * v + cx, c * u + d * v + cy
        want = np.mean((np.abs(x) < 0.4) & (np.abs(y) < 0.4)) * abs(a * d - b * c)
        assert got == pytest.approx(want, abs=3e-3)
        whole = sum(covered(edges, float(i), float(j), 0.5) for i in range(-4, 5) for j in range(-4, 5))
        assert whole == pytest.approx(abs(a * d - b * c), rel=1e-12)


def test_area_keeps_the_flux_of_every_pixel():
    data = np.zeros((60, 60), np.float32)
    data[30, 31], data[22, 35] = 100.0, 50.0
    for angle, scale in ((0.0, 1.0), (33.0, 0.6), (71.0, 2.3)):
        matrix = turn(angle, scale)
        origin = np.array([30.0, 30.0]) - np.array(matrix) @ (50, 50)
        out, _ = sample(None, data, nodes_of(matrix, origin, (100, 100)), (100, 100), drop=1.0)
        assert out[out < ABSENT].sum() * scale**2 == pytest.approx(150.0, rel=1e-5)


def test_drops_leave_holes_and_values_that_need_no_correction():
    data = np.full((40, 40), 7.0, np.float32)
    out, _ = sample(None, data, nodes_of(turn(20.0, 0.3), (12.0, 8.0), (64, 64)), (64, 64), drop=0.4)
    there = out < ABSENT
    assert 0.2 < there.mean() < 0.8
    np.testing.assert_allclose(out[there], 7.0, rtol=1e-6)


def test_gain_and_sky_are_applied_exactly():
    rng = np.random.default_rng(7)
    x0, y0, ny, nx, node = 21, 50, 70, 90, 16
    _, _, gx0, gy0, _ = nodes_of(turn(0), (0, 0), (ny, nx), node, (x0, y0))
    shape = ((y0 + ny - 1) // node + 2 - gy0, (x0 + nx - 1) // node + 2 - gx0)
    gy, gx = np.indices(shape)
    gain = (1 + 0.01 * (gx + gx0) + 0.02 * (gy + gy0)).astype(np.float32)
    sky = np.array([3.0, 1.0, -2.0, 0.5, 0.7, -0.4])
    data = rng.normal(100, 5, (ny, nx)).astype(np.float32)
    out = data.copy()
    out[3, 4] = ABSENT
    limit = np.full_like(data, -ABSENT)
    limit[5, 60] = 1e4
    saturated = np.full_like(data, -ABSENT)
    to_output_units(gain, gx0, gy0, node, x0, y0, sky, -1.0, 2 / 299, -1.0, 2 / 199, out, limit, saturated)
    yy, xx = np.indices(data.shape) + np.array([y0, x0])[:, None, None]
    u, v = xx / 299 * 2 - 1, yy / 199 * 2 - 1
    surface = 3 + u - 2 * v + 0.5 * u * u + 0.7 * u * v - 0.4 * v * v
    factor = 1 + 0.01 * xx / node + 0.02 * yy / node
    want = data * factor - surface
    assert out[3, 4] == ABSENT
    out[3, 4] = want[3, 4]
    np.testing.assert_allclose(out, want, rtol=1e-5)
    assert saturated[5, 60] == pytest.approx(1e4 * factor[5, 60] - surface[5, 60], rel=1e-5)
    assert (saturated > -ABSENT).sum() == 1


@pytest.mark.parametrize(
    "ends",
    [(20.0, 30.0, 400.0, 90.0), (60.0, 0.0, 60.5, 300.0), (-50.0, 80.0, 300.0, 80.0), (70.0, 60.0, 70.0, 60.0)],
)
def test_streaks_are_cut_out_to_their_width(ends):
    out = np.zeros((80, 100), np.float32)
    cut_streak(*ends, 6.5, 30, 40, out)
    xa, ya, xb, yb = ends
    yy, xx = np.indices(out.shape) + np.array([40, 30])[:, None, None]
    length = np.hypot(xb - xa, yb - ya) ** 2 or 1.0
    t = np.clip(((xx - xa) * (xb - xa) + (yy - ya) * (yb - ya)) / length, 0, 1)
    distance = np.hypot(xx - xa - t * (xb - xa), yy - ya - t * (yb - ya))
    assert np.array_equal(out == ABSENT, distance <= 6.5)
    assert (out == ABSENT).any()
