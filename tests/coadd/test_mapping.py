from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs.utils import pixel_to_pixel

from starloom.coadd.inputs import InputFrame, wcs_from_cards
from starloom.coadd.inside import weights_at
from starloom.coadd.mapping import MAX_ERROR_PX, FrameMap, choose_node_px, sky_level_nodes
from starloom.coadd.plan import PlanFrame, StackOptions, StackPlan, Tile
from starloom.coadd.resample.exact import ExactMap
from starloom.coadd.resample.lattice import OUTSIDE
from starloom.errors import BadInput

SHAPE = (500, 640)


def cards(projection="TAN", ra=150.0, dec=20.0, *, scale=1.2, rot=25.0, shape=SHAPE, system="RA", **extra):
    c, s, d = np.cos(np.radians(rot)), np.sin(np.radians(rot)), scale / 3600
    first, second = {"RA": ("RA--", "DEC-"), "GLON": ("GLON", "GLAT")}[system]
    sip = "-SIP" if "A_ORDER" in extra else ""
    return {
        "CTYPE1": f"{first}-{projection}{sip}", "CTYPE2": f"{second}-{projection}{sip}",
        "CRVAL1": ra % 360, "CRVAL2": dec, "CRPIX1": (shape[1] + 1) / 2, "CRPIX2": (shape[0] + 1) / 2,
        "CUNIT1": "deg", "CUNIT2": "deg",
        "CD1_1": -d * c, "CD1_2": -d * s, "CD2_1": -d * s, "CD2_2": d * c,
    } | extra  # fmt: skip


def grid(ra=150.0, dec=20.0, *, scale=1.5, shape=(600, 600), projection="TAN", **extra):
    found = cards(projection, ra, dec, scale=scale, rot=0.0, shape=shape, **extra)
    return found | {"RADESYS": "ICRS", "NAXIS1": shape[1], "NAXIS2": shape[0]}


def plan_of(grid_cards, frame_cards, *, shape=SHAPE, options=None, sky_level=None, **fields):
    item = InputFrame(
        id="a", path=Path("a.fits"), band="V", node="T1", exposure_s=60.0, sky_sigma_adu=10.0, fwhm_arcsec=3.0
    )
    frame = PlanFrame(input=item, shape=shape, wcs_cards=frame_cards, **fields)
    plan = StackPlan(
        band="V", pointing=1, grid=grid_cards, frames=(frame,), options=options or StackOptions(), tiles=(),
        sky_level=sky_level,
    )  # fmt: skip
    return plan, frame


def whole(plan):
    return Tile(x0=0, y0=0, nx=plan.shape[1], ny=plan.shape[0])


def between(nodes, values, x, y):
    """Bilinear interpolation of node values at grid pixels, NaN beside unknown nodes."""
    p, q = x / nodes.node_px - nodes.gx0, y / nodes.node_px - nodes.gy0
    i, j = np.floor(p).astype(int), np.floor(q).astype(int)
    s, t = p - i, q - j
    known = np.where(nodes.x > OUTSIDE, values, np.nan)
    below = known[j, i] * (1 - s) + known[j, i + 1] * s
    above = known[j + 1, i] * (1 - s) + known[j + 1, i + 1] * s
    return below * (1 - t) + above * t


def astropy_says(plan, frame, x, y):
    grid_wcs = wcs_from_cards({k: v for k, v in plan.grid.items() if not k.startswith("NAXIS")})
    with np.errstate(all="ignore"):
        return pixel_to_pixel(grid_wcs, wcs_from_cards(frame.wcs_cards), x, y)


SIP = {"A_ORDER": 3, "B_ORDER": 3, "A_2_0": 4e-6, "B_1_1": -3e-6, "A_3_0": 6e-9, "B_0_3": 5e-9, "A_1_2": 4e-9}
TPV = {"PV1_1": 1.0, "PV2_1": 1.0, "PV1_4": 4e-3, "PV2_4": -3e-3, "PV1_7": 0.05, "PV2_7": 0.04}
ZPN = {"PV2_1": 1.0, "PV2_3": 30.0}
CENTRE = SkyCoord(150.02, 20.01, unit="deg").galactic
FRAMES = {
    "TAN": (cards(), grid()),
    "TAN-SIP": (cards(**SIP), grid()),
    "TPV": (cards("TPV", **TPV), grid()),
    "ZPN": (cards("ZPN", **ZPN), grid()),
    "SIN": (cards("SIN", scale=6.0), grid(scale=8.0)),
    "CAR": (cards("CAR", ra=150.0, dec=0.0), grid(dec=0.02)),
    "CAR grid": (cards(dec=0.03, **SIP), grid(dec=0.0, projection="CAR")),
    "galactic": (cards(ra=CENTRE.l.deg, dec=CENTRE.b.deg, system="GLON"), grid()),
    "FK5": (cards(RADESYS="FK5", EQUINOX=1975.0), grid(ra=150.3, dec=19.88)),
    "north pole": (cards(ra=77.0, dec=89.99, **SIP), grid(ra=200.0, dec=90.0)),
    "south pole": (cards("ZPN", ra=10.0, dec=-89.97, **ZPN), grid(ra=5.0, dec=-89.95)),
    "RA 0": (cards(ra=359.99, **SIP), grid(ra=0.02)),
}


@pytest.mark.parametrize("name", FRAMES)
def test_positions_are_those_of_astropy(name):
    frame_cards, grid_cards = FRAMES[name]
    node_px, error = choose_node_px(grid_cards, (600, 600), frame_cards, SHAPE)
    assert error < MAX_ERROR_PX
    plan, frame = plan_of(grid_cards, frame_cards, node_px=node_px, scale=1.0)
    found = FrameMap.of(plan, frame).nodes(whole(plan))
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 599, (2, 4000))
    want = astropy_says(plan, frame, x, y)
    inside = (want[0] > -1) & (want[1] > -1) & (want[0] < SHAPE[1]) & (want[1] < SHAPE[0])
    assert inside.sum() > 300
    x, y = x[inside], y[inside]
    off = np.hypot(
        between(found, found.x, x, y) - want[0][inside], between(found, found.y, x, y) - want[1][inside]
    )
    assert off.max() < max(1.2 * error, 2e-4)  # what was measured is what is found elsewhere
    h = 0.5
    ax, ay = astropy_says(plan, frame, x + h, y)
    bx, by = astropy_says(plan, frame, x - h, y)
    cx, cy = astropy_says(plan, frame, x, y + h)
    dx, dy = astropy_says(plan, frame, x, y - h)
    area = np.abs((ax - bx) * (cy - dy) - (ay - by) * (cx - dx))
    np.testing.assert_allclose(between(found, found.gain, x, y), area, rtol=1e-4)


def test_curved_frames_get_closer_nodes_and_hopeless_ones_are_refused():
    gentle = choose_node_px(grid(), (600, 600), cards(A_ORDER=2, B_ORDER=2, A_2_0=2e-6), SHAPE)
    curved = choose_node_px(grid(), (600, 600), cards(A_ORDER=2, B_ORDER=2, A_2_0=1e-4), SHAPE)
    assert gentle[0] == 32
    assert gentle[1] < 0.01
    assert curved[0] < 32
    assert curved[1] < 0.01
    wild = cards("TPV", scale=1.2, PV1_1=1.0, PV2_1=1.0, PV1_17=3e3, PV2_17=3e3)
    with pytest.raises(BadInput, match=r"c\.fits") as caught:
        choose_node_px(grid(), (600, 600), wild, SHAPE, name="c.fits")
    assert caught.value.code == "wcs-too-curved"


def test_a_fine_lattice_is_used_where_the_coarse_one_is_not_exact():
    steep = cards(A_ORDER=4, B_ORDER=4, A_4_0=5e-10, B_0_4=-4e-10)
    node_px, error = choose_node_px(grid(), (600, 600), steep, SHAPE)
    plan, frame = plan_of(grid(), steep, node_px=node_px)
    smooth = FrameMap.of(*plan_of(grid(), cards()))
    assert FrameMap.of(plan, frame).nbytes > smooth.nbytes
    assert error < MAX_ERROR_PX


def test_nodes_where_the_wcs_has_no_inverse_do_not_disturb_their_neighbours():
    # Off by 1 px at the edge, but x - x^9 turns round 100 grid pixels further out: nothing lies beyond.
    half = SHAPE[1] / 2
    folding = cards(rot=0.0, scale=1.2, A_ORDER=9, B_ORDER=2, A_9_0=-(half**-9.0))
    wide = grid(shape=(600, 1000))
    lost = ExactMap(wide, folding, SHAPE).to_frame(np.arange(0.0, 1000.0, 128), np.full(8, 256.0))[0]
    assert np.isnan(lost).sum() > 2
    node_px, error = choose_node_px(wide, (600, 1000), folding, SHAPE)
    plan, frame = plan_of(wide, folding, node_px=node_px)
    found = FrameMap.of(plan, frame).nodes(whole(plan))
    wcs = wcs_from_cards(folding)
    fx, fy = np.meshgrid(np.linspace(0, SHAPE[1] - 1, 60), np.linspace(0, SHAPE[0] - 1, 40))
    x, y = wcs_from_cards({k: v for k, v in wide.items() if k[:5] != "NAXIS"}).all_world2pix(
        *wcs.all_pix2world(fx.ravel(), fy.ravel(), 0), 0
    )
    np.testing.assert_allclose(between(found, found.x, x, y), fx.ravel(), atol=max(1.5 * error, 1e-3))


def test_registration_and_shift_move_the_frame():
    dx, dy = (0.5, 0.2, 0.0, 0.1, 0.0, -0.1), (-0.3, 0.0, 0.1, 0.0, 0.2, 0.0)
    plan, frame = plan_of(grid(), cards(), registration=(dx, dy), shift_px=(12.25, -7.5))
    found = FrameMap.of(plan, frame).nodes(whole(plan))
    x, y = np.random.default_rng(2).uniform(150, 450, (2, 500))
    wx, wy = astropy_says(plan, frame, x + 12.25, y - 7.5)
    p, q = wx / (SHAPE[1] - 1) * 2 - 1, wy / (SHAPE[0] - 1) * 2 - 1
    basis = np.stack([np.ones_like(p), p, q, p * p, p * q, q * q])
    np.testing.assert_allclose(between(found, found.x, x, y), wx + dx @ basis, atol=1e-3)
    np.testing.assert_allclose(between(found, found.y, x, y), wy + dy @ basis, atol=1e-3)
    node_px, error = choose_node_px(grid(), (600, 600), cards(), SHAPE, (dx, dy))
    assert node_px == 32
    assert error < 1e-3


def test_nodes_are_the_same_whatever_the_tile():
    plan, frame = plan_of(grid(), cards(**SIP))
    found = FrameMap.of(plan, frame)
    all_nodes = found.nodes(whole(plan))
    part = found.nodes(Tile(x0=217, y0=130, nx=61, ny=200))
    j, i = part.gy0 - all_nodes.gy0, part.gx0 - all_nodes.gx0
    here = np.s_[j : j + part.x.shape[0], i : i + part.x.shape[1]]
    assert part.gx0 == 6
    assert np.array_equal(part.x, all_nodes.x[here])
    assert np.array_equal(part.y, all_nodes.y[here])
    assert np.array_equal(part.gain, all_nodes.gain[here])
    assert found.nbytes < 50_000


def test_frames_elsewhere_have_no_nodes():
    for frame_cards in (cards(dec=21.5), cards(ra=330.0, dec=-20.0)):
        plan, frame = plan_of(grid(), frame_cards)
        assert FrameMap.of(plan, frame).nodes(whole(plan)) is None
        assert choose_node_px(grid(), (600, 600), frame_cards, SHAPE) == (32, 0.0)
    corner = cards(dec=20.0 + 512 * 1.2 / 3600)
    assert choose_node_px(grid(), (600, 600), corner, SHAPE)[1] < 1e-3
    assert FrameMap.of(*plan_of(grid(), corner)).nodes(whole(plan)) is not None
    plan, frame = plan_of(grid(), cards(shape=(20, 20)), shape=(20, 20))  # smaller than a cell
    found = FrameMap.of(plan, frame)
    assert found.nodes(Tile(x0=280, y0=280, nx=40, ny=40)) is not None
    assert found.nodes(Tile(x0=0, y0=0, nx=128, ny=128)) is None


def test_relative_weight_lies_on_the_absolute_lattice():
    mesh = tuple(tuple(1.0 + 0.1 * i + 0.05 * j for i in range(8)) for j in range(8))
    plan, frame = plan_of(grid(), cards(), relative_weight=mesh)
    got = FrameMap.of(plan, frame).relative(Tile(x0=200, y0=300, nx=100, ny=50))
    x, y = np.meshgrid(np.arange(6, 11) * 32.0, np.arange(9, 12) * 32.0)
    want = weights_at(mesh, SHAPE, *astropy_says(plan, frame, x, y))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    plain = FrameMap.of(*plan_of(grid(), cards()))
    assert plain.relative(whole(plan)) is None


def test_sky_level_is_linear_between_its_own_nodes():
    level = tuple(tuple(100.0 + 7 * j - 3 * i for i in range(4)) for j in range(3))
    plan, _ = plan_of(grid(), cards(), sky_level=level)
    got = sky_level_nodes(plan, Tile(x0=550, y0=64, nx=50, ny=64))
    x, y = np.meshgrid([544.0, 576.0, 608.0], [64.0, 96.0, 128.0])
    np.testing.assert_allclose(got, 100 + 7 * y / 599 * 2 - 3 * x / 599 * 3, rtol=1e-6)
    assert not sky_level_nodes(plan.model_copy(update={"sky_level": None}), whole(plan)).any()
