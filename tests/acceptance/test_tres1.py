"""TrES-1: 14 real frames of one night, no pointing in their headers, solved and stacked."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from starloom.archive import frames as rows
from starloom.coadd.depth import DepthFrame, stack_depth

pytestmark = pytest.mark.slow


def test_all_frames_solve_and_enter_the_stack(tres1):
    frames = tres1.frames()
    assert len(frames) == 14
    assert {rows.state_of(frame) for frame in frames.values()} == {"ready"}
    (plan,) = tres1.revisions[0].plans
    assert len(plan.used) == 14
    with fits.open(tres1.revisions[0].files[0]) as hdus:
        assert hdus["SCI"].header["NCOMBINE"] == 14
        assert hdus["SCI"].header["BAND"] == "R"
        assert hdus["COVERAGE"].data.max() == 14
        assert sorted(hdus["PROVENANCE"].data["ID"]) == sorted(frames)


def test_stack_is_a_magnitude_deeper_than_its_frames(tres1, record_property):
    frames = tres1.frames()
    (plan,) = tres1.revisions[0].plans
    used = [DepthFrame(tres1.local(frames[f.input.id].solved_key), f.wcs_cards, f.scale) for f in plan.used]
    seeing = float(np.median([f.input.fwhm_arcsec for f in plan.used]))
    depth = stack_depth(tres1.revisions[0].files[0], used, seeing)
    # 14 equal frames gain 1.43 mag. What the frames have in common, faint stars and the flat field that nobody
    # took, does not average out; more than 1.5 would say that the measure flatters the stack.
    record_property("deeper by, mag", depth.gain_mag)
    assert depth.n_apertures > 1000
    assert 1.0 < depth.gain_mag < 1.5


def test_clip_rejects_little(tres1):
    with fits.open(tres1.revisions[0].files[0]) as hdus:
        rejected = hdus["PROVENANCE"].data["REJECTED"]
    assert np.all(rejected < 0.05)
