"""Conditions as operators write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from starloom.archive import Archive
from starloom.archive.models import Frame, Photometry, Solution
from starloom.archive.selecting import COLUMNS, condition, every_frame_where, frames_where
from starloom.errors import BadInput

START = datetime(2025, 12, 1, 1, 30, tzinfo=UTC)


@pytest.fixture
def filled(archive: Archive) -> Archive:
    """Four frames: three solved with 10, 20 and 30 matches, one not."""
    with archive.transaction() as session:
        for i in range(4):
            session.add(
                Frame(
                    id=str(i) * 32,
                    name=f"f_{i}",
                    node_id="T42" if i < 2 else "T7",
                    band="V" if i else None,
                    start_utc=START + timedelta(days=i),
                    solve="ok" if i < 3 else "failed",
                    flags=[[], ["trailed"], ["cloudy", "trailed"], ["cloudy"]][i],
                )
            )
            session.flush()
            if i == 3:
                continue
            found = Solution(
                frame_id=str(i) * 32, solver="seiza", catalog="Tycho-2" if i else "Gaia DR3", code_version="1",
                ra_deg=1, dec_deg=2, scale_arcsec=2.5, rotation_deg=0, parity=1, rms_arcsec=0.4, rms_px=0.2,
                matches=10 * (i + 1), order=1,
            )  # fmt: skip
            session.add(found)
            session.flush()
            assert found.id is not None
            session.add(
                Photometry(
                    frame_id=str(i) * 32,
                    solution_id=found.id,
                    fwhm_px=2,
                    fwhm_arcsec=5,
                    sky_adu=1,
                    sky_sigma_adu=1,
                    zero_point_mag=20.0 + i if i else None,
                )
            )
    return archive


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], "0123"),
        (["node=T42"], "01"),
        (["node != T42"], "23"),
        (["matches<25"], "01"),
        (["matches>=20", "node=T7"], "2"),
        (["catalog=Tycho*"], "12"),
        (["catalog!=Tycho*"], "03"),
        (["name=f_1"], "1"),
        (["name=f*"], "0123"),
        (["name=f_*"], "0123"),
        (["name=_*"], ""),
        (["band=none"], "0"),
        (["zero_point_mag!=none"], "12"),
        (["zero_point_mag != 21"], "023"),
        (["start>=2025-12-03"], "23"),
        (["start<2025-12-02T01:30"], "0"),
        (["solve=failed"], "3"),
        (["node=T42' OR '1'='1"], ""),
        (["flag=trailed"], "12"),
        (["flag!=trailed"], "03"),
        (["flag=trailed", "flag=cloudy"], "2"),
        (["flag=none"], "0"),
        (["flag!=none"], "123"),
        (["flag=trail"], ""),
    ],
)
def test_conditions_select(filled: Archive, conditions: list[str], expected: str) -> None:
    with filled.session() as session:
        found = frames_where(session, conditions, limit=10)
    assert "".join(frame.id[0] for frame in found) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "node",
        "node=",
        "nodes=T42",
        "matches<few",
        "start>yesterday",
        "matches<none",
        "1=1",
        "node~T42",
        "flag<trailed",
        "flag=x%",
    ],
)
def test_what_is_no_condition_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        condition(text)
    assert caught.value.code == "bad-condition"


def test_every_frame_is_listed_whatever_became_of_it_newest_first(filled: Archive) -> None:
    with filled.transaction() as session:
        for frame in every_frame_where(session, [], limit=10):
            frame.received_at = START + timedelta(hours=int(frame.id[0]))
            frame.disposition = "quarantined" if frame.id[0] == "3" else "active"
    with filled.session() as session:
        assert "".join(f.id[0] for f in every_frame_where(session, [], limit=3)) == "321"
        assert [f.id[0] for f in every_frame_where(session, [], limit=9, disposition="quarantined")] == ["3"]
        assert [f.id[0] for f in every_frame_where(session, ["matches>0"], limit=9, node="T42")] == ["1", "0"]
        assert every_frame_where(session, [], limit=9, node="T*") == []  # to the letter


def test_every_column_that_may_be_named_takes_a_condition() -> None:
    for name, column in COLUMNS.items():
        kind = column.type.python_type
        value = {datetime: "2025-12-01", int: "1", float: "1"}.get(kind, "x")
        assert str(condition(f"{name}={value}").compile()).endswith(f" = :{column.key}_1")
