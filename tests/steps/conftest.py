"""A hub of a folder and a SQLite file, and small frames of a known sky to send to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray
from pydantic import SecretStr

from starloom.archive import frames as rows
from starloom.archive import missions
from starloom.archive.models import Frame
from starloom.astrometry import choosing, solve_pixels
from starloom.astrometry import step as astrometry
from starloom.batches import advance
from starloom.calibration import step as calibration
from starloom.frames import step as ingest
from starloom.hub import Hub
from starloom.lake import keys
from starloom.node.submit import receipt
from starloom.photometry import step as photometry
from starloom.settings import Settings
from starloom.sky.field import field_sky
from starloom.sky.night import frame_name, write_compressed
from starloom.sky.render import render
from starloom.sky.telescope import Telescope
from tests.conftest import fresh_database

TARGET = (343.91, 55.85)
START = datetime(2026, 10, 8, 22, tzinfo=UTC)
DAY = "20261009"


class Station:
    """A hub whose steps a test drives one by one, and the nodes' side of it."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def send(self, path: Path, *, node: str = "T42", name: str | None = None, day: str = DAY) -> str:
        """Put a file into the inbox as a node would; returns its key."""
        return self.hub.lake.put_file(path, keys.inbox(node, day, name or path.name)).key

    def discover(self) -> list[str]:
        return [frame_id for batch in ingest.discover(self.hub) for frame_id in batch.frame_ids]

    def process(self, frame_ids: list[str] | None = None) -> list[Frame]:
        """Take frames (all that are new, by default) through the four steps, as the flow does."""
        chunks = [
            chunk
            for batch in ingest.batches(self.discover() if frame_ids is None else frame_ids, "test", chunk_size=8)
            for chunk in batch.chunks()
        ]
        done = []
        for chunk in chunks:
            advance(self.hub, chunk, ingest.run)
            planes = calibration.with_planes(self.hub, advance(self.hub, chunk, calibration.run))
            advance(self.hub, planes, astrometry.run)
            advance(self.hub, planes, photometry.run)
            done += chunk.frame_ids
        return [self.frame(frame_id) for frame_id in done]

    def due(self) -> list[str]:
        """Return what `sweep` would take up, as if an hour had passed."""
        with self.hub.archive.session() as session:
            now = rows.database_now(session)
        with self.hub.archive.transaction() as session:
            for frame in rows.list_frames(session):
                if frame.next_attempt_at is not None:
                    frame.next_attempt_at = now - timedelta(seconds=1)
        with self.hub.archive.session() as session:
            return [frame.id for frame in rows.due(session, 100)]

    def frame(self, frame_id: str) -> Frame:
        with self.hub.archive.session() as session:
            return rows.get(session, frame_id)

    def create(self, mission: str = "550", target: tuple[float, float] | None = TARGET) -> None:
        with self.hub.archive.transaction() as session:
            ra, dec = target or (None, None)
            missions.create_mission(session, mission, ra_deg=ra, dec_deg=dec)

    def receipt(self, name: str, node: str = "T42") -> dict[str, Any]:
        found = receipt(self.hub.lake, node, name)
        assert found is not None
        return found

    def inbox(self) -> list[str]:
        return [item.key for item in self.hub.lake.list("inbox/")]


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    hub = Hub.open(Settings(home=tmp_path / "home"))
    hub.archive.migrate()
    hub.lake.prepare()
    yield Station(hub)
    hub.archive.dispose()


@pytest.fixture
def postgres_station(tmp_path: Path, postgres_url: str) -> Iterator[Station]:
    """A station whose archive is a PostgreSQL database of its own: runs at once are really at once there."""
    url = fresh_database(postgres_url)
    hub = Hub.open(Settings(home=tmp_path / "home", archive_url=SecretStr(url)))
    hub.archive.migrate()
    hub.lake.prepare()
    yield Station(hub)
    hub.archive.dispose()


@pytest.fixture(scope="session")
def exposure() -> Callable[..., tuple[NDArray[Any], fits.Header]]:
    """Render an exposure of the field, 0.9° x 0.7° with some 40 catalogue stars."""
    sky = field_sky(*TARGET, 1.2, seed=3)

    def take(seed: int = 1, *, pointing: tuple[float, float] = TARGET, **changes: Any) -> Any:
        settings = {
            "node": "T42", "scale_arcsec": 5.0, "width": 640, "height": 480, "zero_point_mag": 21.0,
            "sky_adu": 300.0, "cosmic_rays": 0.0,
        } | changes  # fmt: skip
        frame = render(Telescope(**settings), sky, pointing, seed=seed, start=START + timedelta(minutes=seed))  # type: ignore[arg-type]
        return frame.image, frame.header

    return take


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory, exposure: Any) -> Callable[..., Path]:
    """Write frame number ``n`` as a node names it; the same number gives the same file."""
    folder = tmp_path_factory.mktemp("frames")

    def write(n: int = 1, *, mission: str = "550", node: str = "T42", blank: bool = False) -> Path:
        name = frame_name(mission, node, START + timedelta(minutes=n))
        path = folder / f"{blank}" / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            image, header = exposure(n)
            if blank:
                image = np.random.default_rng(n).normal(300, 17, image.shape).astype("u2")
            write_compressed(path, image, header)
        return path

    return write


@pytest.fixture(scope="session")
def mosaic(tmp_path_factory: pytest.TempPathFactory, exposure: Any) -> Path:
    """A one-shot colour frame: every second pixel of a finely sampled exposure is one colour's image."""
    image, header = exposure(7, scale_arcsec=2.5, width=1200, height=960, fwhm_px=(5.0, 5.5), zero_point_mag=21.5)
    header["BAYERPAT"] = "RGGB"
    header["FILTER"] = "none"
    path = tmp_path_factory.mktemp("mosaic") / "ObsReq-550_TelID-T42_20261008T220700.fits.fz"
    write_compressed(path, image, header)
    return path


@pytest.fixture
def no_blind_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub on whose machine no program searches the whole sky."""
    monkeypatch.setattr(choosing, "solve_pixels", partial(solve_pixels, blind=False))
