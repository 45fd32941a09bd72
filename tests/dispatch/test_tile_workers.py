"""A Dask cluster that is not there, or has nobody who works, is told and not waited for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from distributed import LocalCluster

from starloom.dispatch.tile_workers import count_workers
from starloom.errors import Unavailable
from tests.conftest import free_port

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=0, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster


def test_a_scheduler_that_does_not_answer() -> None:
    with pytest.raises(Unavailable) as refused:
        count_workers(f"tcp://127.0.0.1:{free_port()}", 0.5)
    assert (refused.value.code, refused.value.retryable) == ("dask-unavailable", True)


def test_an_address_with_tls_needs_certificates(cluster: LocalCluster) -> None:
    with pytest.raises(Unavailable, match="TLS") as refused:
        count_workers(cluster.scheduler_address.replace("tcp:", "tls:"), 0.5)
    assert "docs/production.md" in refused.value.hint


def test_workers_are_counted_as_soon_as_there_is_one(cluster: LocalCluster) -> None:
    with pytest.raises(Unavailable) as refused:
        count_workers(cluster.scheduler_address, 0.5)
    assert refused.value.code == "no-dask-workers"
    cluster.scale(1)
    assert count_workers(cluster.scheduler_address, 60) == 1
