from __future__ import annotations

import numpy as np
import pytest

from starloom.coadd import StackOptions, make_plan, read_input, stack_files
from starloom.coadd.depth import DepthFrame, depth_mag, stack_depth
from starloom.errors import BadInput


def test_stack_of_white_frames_gains_what_the_weights_say(field, tmp_path):
    noise, zero_points = (6.0, 8.0, 8.0, 11.0), (25.0, 24.7, 25.2, 25.0)
    paths = [
        field.frame(
            tmp_path / f"{n}.fits", seed=n, size=(420, 420), noise=s, zp=zp, rot=10.0 * n, dra=2.0 * n, fwhm=3.0
        )
        for n, (s, zp) in enumerate(zip(noise, zero_points, strict=True))
    ]
    out = tmp_path / "out.fits"
    (plan,) = make_plan([read_input(p) for p in paths], StackOptions())
    stack_files(paths, out)
    frames = [DepthFrame(f.input.path, f.wcs_cards, f.scale) for f in plan.used]
    depth = stack_depth(out, frames, 4.0, n=20000)
    sigma = np.array(noise) * 10 ** (-0.4 * (np.array(zero_points) - 25))
    expected = 2.5 * np.log10(np.median(sigma) * np.sqrt(np.sum(1 / sigma**2)))
    assert depth.n_apertures > 500
    assert depth.gain_mag == pytest.approx(expected, abs=0.1)


def test_too_little_empty_sky_is_an_error(field, tmp_path):
    path = field.frame(tmp_path / "a.fits", size=(120, 120))
    out = tmp_path / "out.fits"
    stack_files([path], out)
    (plan,) = make_plan([read_input(path)])
    with pytest.raises(BadInput, match="empty sky") as info:
        stack_depth(out, [DepthFrame(path, plan.frames[0].wcs_cards, 1.0)], 25.0, n=200)
    assert info.value.code == "no-empty-sky"


def test_depth_is_five_sigma():
    assert depth_mag(2.0) == pytest.approx(-2.5)
