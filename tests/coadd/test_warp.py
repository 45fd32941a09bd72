from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from reproject import reproject_interp

from starloom.coadd import StackOptions, make_plan, read_input
from starloom.coadd.inputs import wcs_from_cards
from starloom.coadd.warp import FrameWarper, bilinear, lanczos3, pixel_map


def test_bilinear_is_that_of_reproject(field, tmp_path):
    path = field.frame(tmp_path / "a.fits", rot=33.0, sip=3e-6)
    (plan,) = make_plan([read_input(path)], StackOptions(scale_arcsec=1.1, tile_size=1000))
    (frame,) = plan.frames
    got = FrameWarper(plan, frame).warp(plan.tiles[0])
    grid = wcs_from_cards({k: v for k, v in plan.grid.items() if not k.startswith("NAXIS")})
    with fits.open(path) as hdus:
        want, _ = reproject_interp((hdus[0].data, WCS(hdus[0].header)), grid, shape_out=plan.shape)
    _, _, area = pixel_map(grid, wcs_from_cards(frame.wcs_cards), plan.shape)
    want = want * area * frame.scale
    assert np.mean(np.isfinite(got) != np.isfinite(want)) < 0.01
    both = np.isfinite(got) & np.isfinite(want)
    # The map is exact every 16 px only; 1e-3 px on the steepest flank of the brightest star is a few units.
    assert np.abs(got - want)[both].max() < 1e-3 * want[both].max()


@pytest.mark.parametrize("kernel", [bilinear, lanczos3])
def test_kernels_need_all_their_taps(kernel):
    data = np.arange(400, dtype=np.float32).reshape(20, 20)
    x = np.array([[10.5, -0.5, 19.4, np.nan]])
    value = kernel(data, x, np.full(x.shape, 10.25))
    assert value[0, 0] == pytest.approx(10.25 * 20 + 10.5, rel=3e-3)
    assert np.isnan(value[0, 1:]).all()
    data[10, 10] = np.nan
    assert np.isnan(kernel(data, x, np.full(x.shape, 10.25))[0, 0])
