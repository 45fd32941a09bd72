"""``GET /metrics``: what Prometheus asks for, computed when it asks, at most every few seconds.

Nothing is counted by the steps themselves: a run is a process that ends before anybody could ask it, and the
archive knows what it did.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import accumulate

from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector
from prometheus_client import Counter as CounterMetric
from prometheus_client.core import GaugeHistogramMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from starloom.archive import Archive, conditions, events, metering
from starloom.archive.engine import database_now
from starloom.dispatch.load import load_of
from starloom.dispatch.rest import PrefectApi
from starloom.errors import StarloomError
from starloom.settings import Settings
from starloom.telemetry.families import ARCHIVE, COLLECTING, DISKS, PREFECT, RELAY
from starloom.watching import disk_usages

log = logging.getLogger(__name__)

#: Two Prometheus servers that ask at the same time cost one look.
FRESH_S = 10.0
#: Seconds that a source may take, and Prefect to answer one question: Prometheus itself waits ten for all.
PATIENCE_S = 3.0
#: Time series by node at most; the smaller nodes together are one more.
MAX_NODES, OTHERS = 500, "(others)"
#: Bounds of the times that stacks take, seconds: from three frames to thousands.
STACK_BOUNDS_S = (5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)
ROUND_BOUNDS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)

Sample = tuple[tuple[str, ...], float]
Samples = dict[str, list[Sample]]


def _one(value: float, *labels: str) -> list[Sample]:
    return [(labels, value)]


class Source:
    """Somebody who is asked, at most once in `FRESH_S`.

    Parameters
    ----------
    name
        Label of ``starloom_collect_seconds``.
    look
        Returns the metrics.
    down
        What is said where the source does not answer.
    """

    def __init__(
        self, name: str, look: Callable[[], Iterable[Metric]], down: Callable[[], Iterable[Metric]] = list
    ) -> None:
        self.name, self._look, self._down = name, look, down
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self._said: tuple[list[Metric], float] = ([], 0.0)
        self._at = -FRESH_S

    def ask(self) -> tuple[list[Metric], float]:
        """Return what was found, now or a moment ago, and the seconds that it took.

        A source that takes too long counts as one that does not answer: the others' numbers must not wait for it.
        """
        with self._lock:
            if not self._is_looking() and time.monotonic() - self._at >= FRESH_S:
                self._worker = threading.Thread(target=self._look_now, name=f"metrics {self.name}", daemon=True)
                self._worker.start()
            worker = self._worker
        if worker is not None:
            worker.join(PATIENCE_S)
            if worker.is_alive():
                return list(self._down()), PATIENCE_S
        return self._said

    def _is_looking(self) -> bool:
        return self._worker is not None and self._worker.is_alive()

    def _look_now(self) -> None:
        begun = time.monotonic()
        try:
            found = list(self._look())
        except (StarloomError, SQLAlchemyError) as error:  # the latter: an archive that is not migrated
            log.warning("no metrics of %s: %s", self.name, str(error).splitlines()[0])
            found = list(self._down())
        self._at = time.monotonic()
        self._said = (found, self._at - begun)


class Sources(Collector):
    """All sources as one collector; registering it asks nobody."""

    def __init__(self, *sources: Source) -> None:
        self._sources = sources

    def describe(self) -> Iterable[Metric]:
        """Say nothing: without this the registry would ask."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Ask every source, and say how long each took."""
        took: list[Sample] = []
        for source in self._sources:
            found, took_s = source.ask()
            yield from found
            took.append(((source.name,), took_s))
        yield from _metrics({"starloom_collect_seconds": took})


def _metrics(samples: Samples) -> Iterator[Metric]:
    families = ARCHIVE | DISKS | PREFECT | COLLECTING
    for name, values in samples.items():
        family = families[name]
        metric = GaugeMetricFamily(name, family.meaning, labels=family.labels)
        for labels, value in values:
            metric.add_metric(labels, value)
        yield metric


def _ages(now: datetime, since: datetime | None) -> float:
    return 0.0 if since is None else max((now - since).total_seconds(), 0.0)


def archive_metrics(archive: Archive) -> Iterator[Metric]:
    """Ask the archive; the cost is that of what waits and of what the last day brought.

    Raises
    ------
    Unavailable
        It does not answer.
    """
    with archive.session() as session:
        now = database_now(session)
        arrived = metering.arrived(session)
        waiting = metering.waiting(session)
        stacking = metering.stacking(session)
        oldest = events.oldest_open(session)
        lasting = Counter(condition.kind for condition in conditions.lasting(session))
        samples: Samples = _arrived(arrived) | {
            "starloom_archive_up": _one(1),
            "starloom_archive_size_bytes": _one(metering.size_bytes(session)),
            "starloom_frames_waiting": [((one.step,), one.frames) for one in waiting],
            "starloom_frames_waiting_oldest_seconds": [((one.step,), _ages(now, one.oldest)) for one in waiting],
            "starloom_missions": [((status,), n) for status, n in metering.missions_by_status(session).items()],
            "starloom_events_open": [((asks,), n) for asks, n in metering.open_by_wish(session).items()],
            "starloom_event_oldest_seconds": _one(_ages(now, oldest[1] if oldest else None)),
            "starloom_claims_held": _one(stacking.held),
            "starloom_missions_outstanding": _one(stacking.held + len(events.awaited(session))),
            "starloom_claims": [((status,), n) for status, n in stacking.ended.items()],
            "starloom_surplus_runs": _one(events.surplus_runs(session, metering.DAY.total_seconds())),
            "starloom_conditions": [((kind,), n) for kind, n in lasting.items()],
        }
    yield from _metrics(samples)
    yield _histogram("starloom_stack_seconds", stacking.seconds, STACK_BOUNDS_S)


def _arrived(groups: list[metering.Arrived]) -> Samples:
    shown = metering.largest(groups, MAX_NODES)
    states, hours, refused = Counter[tuple[str, str]](), Counter[str](), Counter[tuple[str, str]]()
    solved, judged = Counter[str](), Counter[str]()
    for group in groups:
        node = group.node if group.node in shown else OTHERS
        states[node, group.state] += group.frames
        hours[node] += group.last_hour
        if group.code:
            refused[group.state, group.code] += group.frames
        if group.solved is not None:
            judged[node] += group.frames
            solved[node] += group.frames * group.solved
    return {
        "starloom_frames": list(states.items()),
        "starloom_frames_last_hour": [((node,), n) for node, n in hours.items()],
        "starloom_frames_bytes": _one(sum(group.bytes for group in groups)),
        "starloom_frames_refused": list(refused.items()),
        "starloom_frames_solved_ratio": [((node,), solved[node] / n) for node, n in judged.items()],
    }


def _histogram(name: str, values: list[float], bounds: tuple[float, ...]) -> Metric:
    counts = Counter(bisect_left(bounds, value) for value in values)
    names = [*map(str, bounds), "+Inf"]
    totals = list(accumulate(counts[i] for i in range(len(names))))
    return GaugeHistogramMetricFamily(
        name,
        ARCHIVE[name].meaning,
        buckets=[(name, float(total)) for name, total in zip(names, totals, strict=True)],
        gsum_value=sum(values),
    )


def prefect_metrics(settings: Settings, prefect: PrefectApi) -> Iterator[Metric]:
    """Ask Prefect what waits for a worker and what ended badly.

    Raises
    ------
    Unavailable
        It does not answer.
    """
    load = load_of(prefect, settings.work_pool)
    samples: Samples = {
        "starloom_prefect_up": _one(1),
        "starloom_queue_runs": [
            sample
            for queue, (late, active) in load.queues.items()
            for sample in (((queue, "late"), late), ((queue, "active"), active))
        ],
        "starloom_queue_lag_seconds": _one(load.lag_s),
        "starloom_runs_ended": [((state.lower(),), n) for state, n in load.ended_badly.items()],
    }
    yield from _metrics(samples)


def disk_metrics(settings: Settings) -> Iterator[Metric]:
    """Look at the disks that this process sees."""
    disks = disk_usages(settings)
    yield from _metrics(
        {
            "starloom_disk_size_bytes": [((name,), use.used + use.free) for name, (_, use) in disks.items()],
            "starloom_disk_free_bytes": [((name,), use.free) for name, (_, use) in disks.items()],
        }
    )


class RelayMetrics:
    """What a relay counts of its own work."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        def said(name: str) -> tuple[str, str, tuple[str, ...]]:
            return name, RELAY[name].meaning, RELAY[name].labels

        self.round_s = Histogram(*said("starloom_relay_round_seconds"), buckets=ROUND_BOUNDS_S, registry=registry)
        self.troubles = CounterMetric(*said("starloom_relay_troubles_total"), registry=registry)
        self.told = CounterMetric(*said("starloom_relay_told_total"), registry=registry)
        for how in ("event", "run"):  # there from the beginning: a rate needs the step from nothing to one
            self.told.labels(how)
        self.good_round_at = Gauge(*said("starloom_relay_good_round_timestamp_seconds"), registry=registry)


def registry_of(settings: Settings, archive: Archive, prefect: PrefectApi | None) -> CollectorRegistry:
    """Return everything that can be asked from here; a relay adds its own `RelayMetrics`.

    Parameters
    ----------
    prefect
        None where no server is configured.
    """
    sources = [
        Source("archive", lambda: archive_metrics(archive), lambda: _metrics({"starloom_archive_up": _one(0)})),
        Source("disks", lambda: disk_metrics(settings)),
    ]
    if prefect is not None:
        sources.append(
            Source(
                "prefect",
                lambda: prefect_metrics(settings, prefect),
                lambda: _metrics({"starloom_prefect_up": _one(0)}),
            )
        )
    registry = CollectorRegistry()
    registry.register(Sources(*sources))
    ProcessCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """Return the text of all metrics and its content type, in the newest form that the ``Accept`` header names."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
