"""Work units: the same pixels however the work is cut, carried out and repeated."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from astropy.io import fits

from starloom.coadd import Engine, StackOptions, assemble_units, make_plan, read_input, run_unit, write_units
from starloom.coadd.budget import Layout, choose_layout, free_bytes
from starloom.coadd.engine import margin_px
from starloom.coadd.plan import make_tiles
from starloom.coadd.product import ProductFile
from starloom.coadd.tiles import tile_path
from starloom.coadd.units import WorkUnit, read_plan, with_layout
from starloom.errors import BadInput

SUMS = ("SCI", "WEIGHT", "COVERAGE", "REJECTED", "FLAGS", "PSF", "PROVENANCE")


def sums(path):
    """The checksums of all data in a product, proven by astropy."""
    with fits.open(path, checksum=True) as hdus:
        return {hdu.name: hdu.header["DATASUM"] for hdu in hdus[1:]}


@pytest.fixture
def plan(mixed):
    (made,) = make_plan([read_input(p) for p in mixed], StackOptions(streaks=False))
    return made


def product(plan, out, *, tile, threads):
    layout = Layout(tile, threads, 256, 0)
    with Engine(plan, layout) as engine, ProductFile(plan, out) as made:
        engine.run(engine.tiles, made.add)
        made.finish()
    return sums(out)


def test_tiles_threads_and_budgets_do_not_change_a_bit(plan, tmp_path):
    whole = product(plan, tmp_path / "whole.fits", tile=1024, threads=1)
    assert set(whole) == set(SUMS)
    for n, (tile, threads) in enumerate([(64, 1), (101, 2), (256, 2)]):
        assert product(plan, tmp_path / f"{n}.fits", tile=tile, threads=threads) == whole


@pytest.mark.parametrize("options", [{"combine": "mean"}, {"kernel": "bilinear"}, {"kernel": "area"}])
def test_other_ways_do_not_depend_on_the_tiles_either(mixed, tmp_path, options):
    (plan,) = make_plan([read_input(p) for p in mixed[:3]], StackOptions(streaks=False, **options))
    assert product(plan, tmp_path / "a.fits", tile=77, threads=2) == product(
        plan, tmp_path / "b.fits", tile=1024, threads=1
    )


def test_units_make_the_product_that_the_engine_makes(plan, tmp_path):
    cut = plan.model_copy(update={"tiles": make_tiles(plan.shape, 128)})
    units = write_units(cut, tmp_path / "work", 3)
    assert len(units) == -(-len(cut.tiles) // 3) > 1
    with pytest.raises(BadInput, match="missing") as caught:
        assemble_units(tmp_path / "work", tmp_path / "early.fits")
    assert caught.value.code == "missing-tile"
    assert not (tmp_path / "early.fits").exists()
    for unit in reversed(units):
        run_unit(unit)
    info = assemble_units(tmp_path / "work", tmp_path / "units.fits")
    assert info.n_used == 5
    assert sums(tmp_path / "units.fits") == product(plan, tmp_path / "whole.fits", tile=1024, threads=1)


def test_a_unit_that_is_run_again_makes_only_what_is_missing_or_damaged(plan, tmp_path):
    cut = plan.model_copy(update={"tiles": make_tiles(plan.shape, 128)})
    unit = write_units(cut, tmp_path, len(cut.tiles))[0]
    made = run_unit(unit)
    wanted = made[1].read_bytes()
    before = {path: path.stat().st_mtime_ns for path in made}
    made[0].unlink()
    made[1].write_bytes(wanted[: len(wanted) // 2])  # a worker's disk was cut off
    run_unit(unit)
    assert made[1].read_bytes() == wanted
    changed = {path for path in made if path.stat().st_mtime_ns != before[path]}
    assert changed == set(made[:2])


def test_tiles_and_units_of_another_plan_are_refused(plan, tmp_path):
    cut = plan.model_copy(update={"tiles": make_tiles(plan.shape, 256)})
    (unit,) = write_units(cut, tmp_path / "a", 100)
    run_unit(unit)
    other = cut.model_copy(update={"options": cut.options.model_copy(update={"clip_sigma": 4.0})})
    (foreign,) = write_units(other, tmp_path / "b", 100)
    tile = cut.tiles[0]
    tile_path(tmp_path / "b", tile).write_bytes(tile_path(tmp_path / "a", tile).read_bytes())
    with pytest.raises(BadInput) as caught:
        assemble_units(tmp_path / "b", tmp_path / "out.fits")
    assert caught.value.code == "missing-tile"
    (tmp_path / "a" / foreign.name).write_bytes(foreign.read_bytes())
    with pytest.raises(BadInput) as caught:
        run_unit(tmp_path / "a" / foreign.name)
    assert caught.value.code == "bad-unit"
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(BadInput) as caught:
        run_unit(tmp_path / "no.json")
    assert caught.value.code == "bad-unit"


def test_frames_may_lie_elsewhere_on_the_machine_that_does_the_work(plan, mixed, tmp_path):
    cut = plan.model_copy(update={"tiles": make_tiles(plan.shape, 512)})
    (unit,) = write_units(cut, tmp_path / "work", 100)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in mixed:
        path.rename(elsewhere / path.name)
    with pytest.raises(BadInput) as caught:
        run_unit(unit)
    assert caught.value.code == "unreadable"
    assert run_unit(unit, frames=elsewhere)


def test_documents_are_small_and_say_what_they_are(plan, tmp_path):
    units = write_units(with_layout(plan), tmp_path, 16)
    document = json.loads(units[0].read_text())
    assert set(document) == {"name", "plan_sha256", "tiles", "threads"}
    assert WorkUnit.read(units[0]).plan_sha256 == read_plan(tmp_path / "plan.json").digest() == plan.digest()


def with_memory(plan, memory_bytes, n=1):
    options = plan.options.model_copy(update={"memory_bytes": memory_bytes, "threads": 2})
    return plan.model_copy(update={"options": options, "frames": plan.frames * n})


def test_the_budget_decides_the_tiles_and_refuses_what_cannot_be(plan):
    margin = margin_px(plan)
    roomy, tight = (choose_layout(with_memory(plan, b, 40), margin) for b in (4_000_000_000, 450_000_000))
    assert tight.tile_size < roomy.tile_size
    assert tight.bytes <= 450_000_000
    assert tight.checkpoint_px >= roomy.checkpoint_px
    with pytest.raises(BadInput) as caught:
        choose_layout(with_memory(plan, 100_000_000), margin)
    assert caught.value.code == "memory-too-small"
    assert "--memory" in caught.value.hint
    enough = re.search(r"STARLOOM_STACK_MEMORY_BYTES=(\d+)", caught.value.hint)
    assert enough is not None
    choose_layout(with_memory(plan, int(enough[1])), margin)
    assert 0 < free_bytes() < 10**14


def test_a_plan_s_digest_knows_nothing_of_how_it_is_worked_on(plan):
    assert with_memory(plan, 10**9).digest() == plan.digest()
    retiled = plan.model_copy(update={"tiles": make_tiles(plan.shape, 100)})
    assert retiled.digest() == plan.digest()
    frame = plan.frames[0].model_copy(update={"shift_px": (1.0, 0.0)})
    assert plan.model_copy(update={"frames": (frame, *plan.frames[1:])}).digest() != plan.digest()


def test_an_error_in_one_tile_stops_the_work_and_is_told(plan, tmp_path):
    seen = []

    def sink(tile, planes):
        seen.append(tile)
        raise OSError(28, "No space left on device")

    with Engine(plan, Layout(64, 2, 256, 0)) as engine, pytest.raises(OSError, match="No space"):
        engine.run(engine.tiles, sink)
    assert len(seen) < len(make_tiles(plan.shape, 64)) / 2


def test_saturated_cores_are_limits_and_no_holes(field, tmp_path):
    from starloom.coadd.engine import LOWER_LIMIT, SATURATED

    paths = [field.frame(tmp_path / f"{n}.fits", seed=n, dra=2.0 * n) for n in range(3)]
    for n, path in enumerate(paths):
        with fits.open(path, mode="update") as hdus:
            hdus[0].header["SATURATE"] = 5000.0 if n == 0 else 1e7
    near = np.hypot((field.ra - 150.0) * np.cos(np.radians(20.0)), field.dec - 20.0) < 100 / 3600
    bright = int(np.argmax(field.flux * near))
    outs = {}
    for name, chosen in (("one", paths), ("all", paths[:1])):
        (plan,) = make_plan(
            [read_input(p) for p in chosen], StackOptions(streaks=False, scale_arcsec=1.0, match_sky=False)
        )
        out = tmp_path / f"{name}.out.fits"
        product(plan, out, tile=512, threads=1)
        with fits.open(out) as hdus:
            from astropy.wcs import WCS

            x, y = WCS(hdus["SCI"].header).all_world2pix(field.ra, field.dec, 0)
            place = round(float(y[bright])), round(float(x[bright]))
            outs[name] = {k: hdus[k].data[place] for k in ("SCI", "WEIGHT", "COVERAGE", "FLAGS")}
    assert outs["one"]["FLAGS"] == SATURATED
    assert outs["one"]["COVERAGE"] == 2
    assert outs["all"]["FLAGS"] == SATURATED | LOWER_LIMIT
    assert outs["all"]["WEIGHT"] == 0
    assert outs["all"]["SCI"] > 1000
