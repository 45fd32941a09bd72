"""Every metric there is, with its meaning and labels: the table of docs/observability.md is held to this one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Family:
    """A metric: its name (which ends in its unit), what it says, its labels."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter", "histogram", "gaugehistogram"] = "gauge"


def _table(*families: Family) -> dict[str, Family]:
    return {family.name: family for family in families}


#: Read from the archive when somebody asks; the same from whichever program answers.
ARCHIVE = _table(
    Family("starloom_archive_up", "1 where the archive answers, else 0"),
    Family("starloom_archive_size_bytes", "size of the archive's database"),
    Family("starloom_frames", "frames received in the last 24 h, by what became of them", ("node", "state")),
    Family("starloom_frames_last_hour", "frames received in the last hour", ("node",)),
    Family("starloom_frames_bytes", "raw bytes of the frames received in the last 24 h"),
    Family(
        "starloom_frames_refused",
        "frames received in the last 24 h that were set aside, or whose step failed",
        ("state", "code"),
    ),
    Family(
        "starloom_frames_solved_ratio",
        "solved light frames over solved and unsolvable ones, of the last 24 h",
        ("node",),
    ),
    Family("starloom_frames_waiting", "frames with something to be done, by the step that is next", ("step",)),
    Family("starloom_frames_waiting_oldest_seconds", "since the first of them arrived", ("step",)),
    Family("starloom_missions", "missions by status", ("status",)),
    Family("starloom_events_open", "open status events: that ask for a stack, that only tell", ("asks",)),
    Family("starloom_event_oldest_seconds", "age of the first open event that asks for a stack; 0 without one"),
    Family("starloom_claims_held", "missions held under a lease that runs"),
    Family("starloom_missions_outstanding", "missions that are held, or whose event Prefect has and no run yet"),
    Family(
        "starloom_claims", "claims of the last 24 h by what became of them; expired is a lost lease", ("status",)
    ),
    Family(
        "starloom_stack_seconds",
        "from claim to publication, stacks claimed in the last 24 h",
        kind="gaugehistogram",
    ),
    Family("starloom_surplus_runs", "runs that found their mission taken, for events of the last 24 h"),
    Family("starloom_conditions", "alert conditions that last, by kind", ("kind",)),
)
#: The disks that the answering program sees.
DISKS = _table(
    Family("starloom_disk_size_bytes", "what people may use of a disk", ("disk",)),
    Family("starloom_disk_free_bytes", "what is left of it", ("disk",)),
)
#: Asked of Prefect.
PREFECT = _table(
    Family("starloom_prefect_up", "1 where Prefect answers, else 0"),
    Family(
        "starloom_queue_runs",
        "flow runs of a work queue: late (due, not begun), active (begun)",
        ("queue", "state"),
    ),
    Family("starloom_queue_lag_seconds", "how late the run is that waits longest; 0 where none does"),
    Family("starloom_runs_ended", "flow runs that ended badly in the last hour", ("state",)),
)
#: What a relay knows of itself since it began; the other programs do not have these.
RELAY = _table(
    Family("starloom_relay_round_seconds", "time that a round of the relay took", kind="histogram"),
    Family("starloom_relay_troubles_total", "rounds that something troubled", kind="counter"),
    Family(
        "starloom_relay_told_total",
        "attempts that Prefect accepted: events published, runs made",
        ("how",),
        kind="counter",
    ),
    Family("starloom_relay_good_round_timestamp_seconds", "when a round last went well, Unix time"),
)
#: About the questions themselves.
COLLECTING = _table(
    Family("starloom_collect_seconds", "time that the last look at a source took", ("source",)),
)
FAMILIES = ARCHIVE | DISKS | PREFECT | RELAY | COLLECTING
