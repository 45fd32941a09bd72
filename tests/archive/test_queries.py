"""What the hub asks of a large archive: the named queries are those of the code, and indexes answer them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.archive_asks import ASKS, Key, ask, keys, normalised
from benchmarks.archive_rows import fill
from benchmarks.archive_scale import as_text, named_queries
from starloom.archive import Archive
from starloom.dispatch.services import checkout
from tests.conftest import fresh_database

#: Tables that grow with every frame or mission for ever.
BIG = {
    "frame", "solution", "photometry", "calibration", "conditions", "frame_cell", "raw_check", "revision_input",
    "revision", "mission", "status_event", "product",
}  # fmt: skip
#: What is asked of missions that changed lately: where these are a large part of a small archive, a walk is right.
CHOSEN = "stale stacks"


@pytest.fixture(scope="module")
def large(postgres_url: str) -> Iterator[Archive]:
    """An archive like the one that is measured, as small as it may be."""
    url = fresh_database(postgres_url)
    fill(url, 6000, per_day=1500)  # four days, so that an index of what is new helps
    archive = Archive(url)
    yield archive
    archive.dispose()


@pytest.fixture(scope="module")
def some(large: Archive) -> list[Key]:
    return keys(large, 3)


def test_the_named_queries_are_those_of_the_code(large: Archive) -> None:
    written = (checkout() / "benchmarks" / "queries.sql").read_text(encoding="utf-8")
    assert as_text(named_queries(large)) == written, "python -m benchmarks.archive_scale queries"


@pytest.mark.parametrize("name", [name for name in ASKS if not name.endswith(CHOSEN)])
def test_no_ask_walks_a_table_that_grows_for_ever(large: Archive, some: list[Key], name: str) -> None:
    walked = []
    for said in ask(large, name, some[0]):
        with large.engine.connect() as connection:
            # Of few rows a walk is cheapest; what is left of walks when they are dear has no index.
            connection.exec_driver_sql(
                "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"
            )
            plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {said.sql}", said.values).scalar_one()
            connection.rollback()
        if said.sql.startswith("SELECT count(*) AS count_1"):
            continue  # of raw objects, where there are few
        walked += [f"{table}: {normalised(said.sql)}" for table in walks(plan[0]["Plan"])]
    assert walked == []


def walks(node: dict[str, Any]) -> Iterator[str]:
    """Yield the big tables that a plan reads whole: row by row, or through an index without a condition."""
    table = node.get("Relation Name")
    if table in BIG and not node.get("Index Cond"):
        whole_index = "Index" in node["Node Type"] and not _is_partial(node["Index Name"])
        if node["Node Type"] == "Seq Scan" or (whole_index and not node.get("Limited")):
            yield f"{node['Node Type']} of {table}"
    for child in node.get("Plans", ()):
        # Below a LIMIT, an index in the wanted order ends early.
        limited = node["Node Type"] == "Limit" or (node.get("Limited") and "Sort" not in node["Node Type"])
        yield from walks({**child, "Limited": limited})


def _is_partial(index: str) -> bool:
    """Tell whether an index holds only rows with something to be done, of which there are few."""
    return index in {
        "ix_frame_waiting", "ix_frame_unsettled", "ix_frame_stray", "ix_revision_untold", "ix_raw_check_damaged",
        "ix_status_event_surplus", "uq_revision_held",
    }  # fmt: skip
