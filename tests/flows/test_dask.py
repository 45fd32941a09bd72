"""Tiles on a Dask cluster (TLS): a worker that is killed costs its tiles, not the stack, and not a bit of it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from threading import Thread

import pytest
from astropy.io import fits

from starloom.coadd import Engine, StackOptions, assemble_units, make_plan, read_input, write_units
from starloom.coadd.plan import make_tiles
from starloom.coadd.product import ProductFile
from starloom.coadd.step import PlanRef
from starloom.dispatch.services import checkout
from starloom.hub import Hub
from starloom.sky import field_sky
from starloom.sky.network import TARGET, TELESCOPES
from starloom.sky.night import dithers
from starloom.sky.render import render
from tests.dispatch.server import RunningPrefect
from tests.flows.conftest import START

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four frames with the WCS they were drawn with."""
    folder = tmp_path_factory.mktemp("frames")
    telescope = TELESCOPES[2]
    sky = field_sky(*TARGET, telescope.radius_deg * 1.3 + 0.1, seed=5, band="V")
    paths = []
    for i, pointing in enumerate(dithers(*TARGET, 4, 0.03, seed=5)):
        frame = render(telescope, sky, pointing, seed=i, start=START)
        header = fits.Header(frame.truth.wcs)
        header["BAND"], header["EXPTIME"] = "V", frame.truth.exposure_s
        header["MAGZPT"], header["MAGZERR"] = frame.truth.zero_point_mag, 0.02
        paths.append(folder / f"{i}.fits")
        fits.PrimaryHDU(frame.image, header).writeto(paths[-1])
    return paths


def data_sums(path: Path) -> list[str]:
    with fits.open(path, checksum=True) as hdus:
        return [hdu.header["DATASUM"] for hdu in hdus[1:]]


def kill_one_that_works(cluster: object, folder: Path, killed: list[int]) -> None:
    """Kill a worker once there are tiles, hence units in progress."""
    while len(list(folder.glob("*.tile"))) < 3:
        time.sleep(0.02)
    assert len(list(folder.glob("*.tile"))) < len(list(folder.glob("unit-*.json")))  # most is still to be done
    worker = next(iter(cluster.workers.values()))  # type: ignore[attr-defined]
    killed.append(worker.pid)
    os.kill(worker.pid, signal.SIGKILL)


def test_a_killed_worker_costs_its_tiles_and_no_bit(
    hub: Hub, prefect_client: RunningPrefect, frames: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask
    from distributed import LocalCluster, Security

    from flows.stack import co_add, tile_runner

    (plan,) = make_plan([read_input(path) for path in frames], StackOptions(streaks=False))
    with Engine(plan) as engine, ProductFile(plan, tmp_path / "threads.fits") as product:
        engine.run(engine.tiles, product.add)
        product.finish()
    folder = tmp_path / "work"
    cut = plan.model_copy(update={"tiles": make_tiles(plan.shape, 64)})
    units = write_units(cut, folder, 4)
    assert len(units) > 8
    monkeypatch.setenv("PYTHONPATH", str(checkout()))
    security = Security.temporary()
    # What DASK_DISTRIBUTED__COMM__TLS__… say in the environment of a run.
    certificates = {
        "distributed.comm.tls.ca-file": security.tls_ca_file,
        "distributed.comm.tls.client.cert": security.tls_client_cert,
        "distributed.comm.tls.client.key": security.tls_client_key,
    }
    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": None, "security": security}
    with dask.config.set(certificates), LocalCluster(n_workers=2, **options) as cluster:
        assert cluster.scheduler_address.startswith("tls://")
        monkeypatch.setattr(hub.settings, "dask_scheduler", cluster.scheduler_address)
        killed: list[int] = []
        watcher = Thread(target=kill_one_that_works, args=(cluster, folder, killed), daemon=True)
        watcher.start()
        reference = PlanRef(folder=folder, band=plan.band, pointing=1, units=units)
        co_add.with_options(task_runner=tile_runner())([reference])
        watcher.join(timeout=5)
    assert killed
    assemble_units(folder, tmp_path / "dask.fits")
    assert data_sums(tmp_path / "dask.fits") == data_sums(tmp_path / "threads.fits")
