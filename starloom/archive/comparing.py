"""What changed from one published revision of a mission to another: frames, parameters, products."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlmodel import Session, col, select

from starloom.archive.missions import get_mission
from starloom.archive.models import Frame, Photometry, Product, Revision, RevisionInput, Solution
from starloom.archive.staleness import difference
from starloom.errors import BadInput

#: Of a product's summary: how deep it is, and of what it was made.
DEPTH = ("n_frames", "n_used", "exposure_s", "zero_point_mag", "zero_point_err", "noise_factor", "shape")


def compare(
    session: Session, mission_id: str, *, since: int | None = None, until: int | None = None
) -> dict[str, Any]:
    """Return what is different between two published revisions, by default the newest and the one before it.

    Returns
    -------
    dict
        ``mission_id, since, until``; ``frames``, rows ``id, name, node, change, reason, amount, weight_since,
        weight_until`` with ``change`` one of ``added``, ``removed``, ``done-again``, ``weighted-otherwise``;
        ``unchanged`` frames, a count; ``parameters`` and ``products``, rows ``…, name, since, until``.

    Raises
    ------
    BadInput
        ``unknown-mission``, ``no-such-revision``.
    """
    get_mission(session, mission_id)
    known = session.exec(
        select(Revision)
        .where(Revision.mission_id == mission_id, Revision.status == "published")
        .order_by(col(Revision.n))
    ).all()
    numbers = [revision.n for revision in known]
    last = until if until is not None else max(numbers, default=0)
    first = since if since is not None else max((n for n in numbers if n < last), default=0)
    chosen = {revision.n: revision for revision in known if revision.n in (first, last)}
    if len(chosen) < 2:
        have = ", ".join(f"r{n}" for n in numbers) or "none"
        asked = " and ".join(f"r{n}" for n in (first, last) if n) or "two"
        raise BadInput(
            f"mission {mission_id} has no two revisions to compare: asked for {asked}, published {have}",
            code="no-such-revision",
            hint="Give two of those that are published with --from and --to.",
        )
    then, now = chosen[first], chosen[last]
    rows, unchanged = _frames(session, then, now)
    return {
        "mission_id": mission_id,
        "since": first,
        "until": last,
        "frames": rows,
        "unchanged": unchanged,
        "parameters": _parameters(then, now),
        "products": _products(session, then, now),
    }


def _parts(session: Session, revision: Revision) -> dict[str, Any]:
    found = session.exec(
        select(RevisionInput, Frame)
        .join(Frame, col(Frame.id) == RevisionInput.frame_id)
        .where(RevisionInput.revision_id == revision.id)
    ).all()
    return {frame.id: (part, frame) for part, frame in found}


def _by_id(session: Session, table: Any, ids: Iterable[int | None]) -> dict[int, Any]:
    return {row.id: row for row in session.exec(select(table).where(col(table.id).in_(set(ids)))).all()}


def _done_again(session: Session, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return, by frame, reason and amount of the difference for frames that were solved or measured again."""
    pairs = [(before[key][0], *after[key]) for key in before.keys() & after.keys()]
    again = [
        (old, new, frame)
        for old, new, frame in pairs
        if (old.solution_id, old.photometry_id) != (new.solution_id, new.photometry_id)
    ]
    if not again:
        return {}
    solutions = _by_id(session, Solution, (part.solution_id for row in again for part in row[:2]))
    measured = _by_id(session, Photometry, (part.photometry_id for row in again for part in row[:2]))
    return {
        frame.id: difference(
            session,
            frame,
            (solutions[old.solution_id], solutions[new.solution_id]),
            (measured[old.photometry_id], measured[new.photometry_id]),
            old.calibration_id,
        )
        for old, new, frame in again
    }


def _share(part: RevisionInput | None, total: float) -> float | None:
    return None if part is None else (part.weight or 0.0) / total


def _frames(session: Session, then: Revision, now: Revision) -> tuple[list[dict[str, Any]], int]:
    before, after = _parts(session, then), _parts(session, now)
    sums = [sum(row[0].weight or 0.0 for row in parts.values()) or 1.0 for parts in (before, after)]
    again = _done_again(session, before, after)
    rows, unchanged = [], 0
    for frame_id in sorted(before.keys() | after.keys()):
        old, new = before.get(frame_id), after.get(frame_id)
        frame: Frame = (new or old)[1]  # type: ignore[index]
        change, reason, amount = _change(old, new, again.get(frame_id))
        if change is None:
            unchanged += 1
            continue
        rows.append(
            {
                "id": frame_id,
                "name": frame.name,
                "node": frame.node_id,
                "change": change,
                "reason": reason,
                "amount": amount,
                "weight_since": _share(old and old[0], sums[0]),
                "weight_until": _share(new and new[0], sums[1]),
            }
        )
    return rows, unchanged


def _change(old: Any, new: Any, again: Any) -> tuple[str | None, str | None, float | None]:
    if old is None:
        return "added", new[0].reason or "late", None
    if new is None:
        frame: Frame = old[1]
        return "removed", frame.disposition_hint or frame.disposition_code or "no longer usable", None
    if again is not None:
        reason, amount = again
        return "done-again", reason or "nothing that matters", amount
    if old[0].reason != new[0].reason:
        return "weighted-otherwise", f"{old[0].reason or 'used'} → {new[0].reason or 'used'}", None
    return None, None, None


def _parameters(then: Revision, now: Revision) -> list[dict[str, Any]]:
    rows = _rows(
        then.parameters or {}, now.parameters or {}, {**(then.parameters or {}), **(now.parameters or {})}
    )
    return rows + _rows(
        {"COADD_VERSION": then.coadd_version}, {"COADD_VERSION": now.coadd_version}, ["COADD_VERSION"]
    )


def _rows(old: dict[str, Any], new: dict[str, Any], names: Any) -> list[dict[str, Any]]:
    return [
        {"name": name, "since": old.get(name), "until": new.get(name)}
        for name in names
        if old.get(name) != new.get(name)
    ]


def _products(session: Session, then: Revision, now: Revision) -> list[dict[str, Any]]:
    def of(revision: Revision) -> dict[tuple[str, int, str], dict[str, Any]]:
        found: Sequence[Product] = session.exec(select(Product).where(Product.revision_id == revision.id)).all()
        return {(p.band, p.pointing, p.track): {"sha256": p.sha256, **(p.summary or {})} for p in found}

    old, new = of(then), of(now)
    rows = []
    for place in sorted(old.keys() | new.keys()):
        where = dict(zip(("band", "pointing", "track"), place, strict=True))
        if place not in old or place not in new:
            made = "made" if place in new else "not made"
            rows.append(
                where | {"name": "product", "since": "made" if place in old else "not made", "until": made}
            )
            continue
        rows += [where | row for row in _rows(old[place], new[place], DEPTH)]
    return rows
