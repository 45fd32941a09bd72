"""Masters built from what an instrument has sent: biases, darks and flats, and defects learnt from its lights.

What there is to do is computed from the archive, never signalled, so a run that was killed is simply run again.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from pydantic import BaseModel
from sqlmodel import Session

from starloom.archive import frames as rows
from starloom.archive import masters as master_rows
from starloom.archive.engine import database_now
from starloom.archive.models import Frame, Instrument, Master
from starloom.calibration.apply import MasterSet, zero_level
from starloom.calibration.calibrated_file import Planes, write_planes
from starloom.calibration.combining import FrameStack
from starloom.calibration.defects import learn_defects
from starloom.calibration.grouping import BUILD_ORDER, CalFrame, GroupOptions, groups
from starloom.calibration.masters import (
    MASTER_VERSION,
    MIN_FRAMES,
    MasterFrame,
    build_bias,
    build_dark,
    build_flat,
    saturation_of_flats,
)
from starloom.calibration.matching import FrameFacts, Match, facts_of, match
from starloom.calibration.mosaic import mosaic_layout
from starloom.calibration.sensor import sensor_pixels
from starloom.calibration.step import choose, header_values, load_masters, master_facts
from starloom.errors import BadInput
from starloom.frames import read_frame, sha256_of
from starloom.lake import keys

if TYPE_CHECKING:
    from starloom.hub import Hub

log = logging.getLogger(__name__)

#: Lights from which a defect map is learnt: the first one, and at most.
DEFECT_FRAMES, MOST_DEFECT_FRAMES = 10, 20
#: A new map after so many days, if there are as many new lights as the first one needed.
DEFECT_DAYS = 14.0
#: More defects than that are none, but a sky that stood still or a camera that was covered.
MOST_DEFECTS = 0.03
#: A master that nothing was added to for so many days stays as it is: no pause within a series is as long.
FINISHED_D = 60.0
_CODE = str(MASTER_VERSION)
#: Cards that a master takes over from its first frame.
_KEPT = ("INSTRUME", "XBINNING", "YBINNING", "GAIN", "FILTER", "BAYERPAT", "ROWORDER", "XBAYROFF", "YBAYROFF")


class MasterWork(BaseModel):
    """An instrument that has masters to build: what `build-masters` takes."""

    instrument_id: int
    name: str
    key: str
    """Changes with what is to be built, and every hour: a run that failed is not the last one."""


@dataclass(frozen=True)
class Wanted:
    """A master that there could be, and where it stands.

    ``state`` is ``build``, or ``wait`` with the reason in ``why``.
    """

    kind: str
    facts: FrameFacts
    frame_ids: list[str]
    state: str
    why: str = ""


def due(hub: Hub, *, every_s: float | None = None) -> list[MasterWork]:
    """Return the instruments with masters to build.

    Parameters
    ----------
    every_s
        Seconds that must have passed on this machine since the last look; None: as long as a series must be quiet,
        for nothing is to be found before.
    """
    every_s = hub.settings.masters_quiet_s if every_s is None else every_s
    stamp = hub.settings.home / "run" / "masters-looked-at"
    if stamp.is_file() and time.time() - stamp.stat().st_mtime < every_s:
        return []
    with hub.archive.session() as session:
        news = master_rows.instruments_with_news(session, lights_needed=DEFECT_FRAMES)
    found = []
    for instrument_id in news:
        with hub.archive.session() as session:
            instrument = session.get(Instrument, instrument_id)
            hour = f"{database_now(session):%Y%m%d%H}"
            build = [w for w in wanted(session, instrument_id, hub.settings.masters_quiet_s) if w.state == "build"]
        if build and instrument is not None:
            text = " ".join([hour, str(instrument_id), *(" ".join([w.kind, *w.frame_ids]) for w in build)])
            found.append(
                MasterWork(
                    instrument_id=instrument_id,
                    name=f"{instrument.node_id} {instrument.camera}".strip(),
                    key="masters:" + hashlib.sha256(text.encode()).hexdigest()[:32],
                )
            )
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.touch()
    return found


def wanted(session: Session, instrument_id: int, quiet_s: float) -> list[Wanted]:
    """Return what could be built of an instrument's frames and has not been, in the order of building.

    Looked at are the frames that masters of the last `FINISHED_D` days may hold, and what has come since: some
    months of them, whatever the instrument's age.

    Parameters
    ----------
    quiet_s
        Seconds without a new frame after which a series counts as complete.
    """
    now = database_now(session)
    tried = master_rows.attempts(session, instrument_id)
    since, finished = _finished(tried, now)
    frames = {frame.id: frame for frame in master_rows.calibration_frames(session, instrument_id, since)}
    found = []
    for group in groups(map(_cal_frame, frames.values()), finished=finished):
        if _is_done(group.kind, group.ids, tried):
            continue
        newest = max(frames[frame_id].received_at for frame_id in group.ids)
        done_before = {letter for letter in (group.facts.calstat or "").upper() if letter in "BDF"}
        if done_before and (group.kind != "flat" or "F" in done_before):
            state, why = "wait", f"CALSTAT {group.facts.calstat}: only raw frames make a master"
        elif not group.complete:
            state, why = "wait", f"{len(group.frames)} of at least {MIN_FRAMES} frames"
        elif now - newest < timedelta(seconds=quiet_s):
            state, why = "wait", "frames are still coming"
        else:
            state, why = "build", ""
        found.append(Wanted(group.kind, group.facts, group.ids, state, why))
    defects = _wanted_defects(session, instrument_id, tried, now)
    return [*found, *([defects] if defects is not None else [])]


def _finished(tried: Sequence[Master], now: datetime) -> tuple[datetime, dict[str, datetime]]:
    """Return since when the frames have come that are still to be grouped, and when finished masters were made.

    The latter by frame. Frames come after they were taken, so all of a series came after its first was taken.
    """
    horizon = now - timedelta(days=FINISHED_D)
    standing = [m for m in tried if m.kind != "defects" and (m.current or not m.n_frames)]
    first = min([horizon, *(m.valid_from for m in standing if m.created_at >= horizon)])
    done = {key: m.created_at for m in standing if m.created_at < horizon for key in m.frame_ids}
    return first - timedelta(days=max(GroupOptions().span_days.values())), done


def _cal_frame(frame: Frame) -> CalFrame:
    shape = (frame.height or 0, frame.width or 0)
    facts = facts_of({**header_values(frame), "start_utc": frame.start_utc}, shape, frame.kind)
    return CalFrame(frame.id, facts, frame.received_at)


def _is_done(kind: str, ids: list[str], tried: Sequence[Master]) -> bool:
    """Tell whether these frames were made a master, or were tried in vain with all that there is now."""
    for attempt in tried:
        if attempt.kind != kind or sorted(attempt.frame_ids) != ids or attempt.code_version != _CODE:
            continue
        if attempt.n_frames or attempt.stats.get("code") != "flat-needs-bias":
            return True
        helps = (m for m in tried if m.kind in ("bias", "dark") and m.n_frames and m.current)
        if not any(master.created_at > attempt.created_at for master in helps):
            return True
    return False


def _wanted_defects(session: Session, instrument_id: int, tried: Sequence[Master], now: datetime) -> Wanted | None:
    """Return the defect map that the lights ask for: of an instrument whose node sends no darks."""
    lights = master_rows.lights(session, instrument_id, limit=4 * MOST_DEFECT_FRAMES)
    if not lights or any(m.kind == "dark" and m.current for m in tried):
        return None
    size = (lights[0].width, lights[0].height)
    lights = [frame for frame in lights if (frame.width, frame.height) == size]
    # Of one exposure: a defect is what shines alike in all frames.
    usual = Counter(frame.exposure_s for frame in lights).most_common(1)[0][0]
    lights = [frame for frame in lights if frame.exposure_s == usual]
    maps = [m for m in tried if m.kind == "defects" and m.code_version == _CODE]
    last = max(maps, key=lambda m: m.id or 0, default=None)
    if last is not None:
        known = set(last.frame_ids)
        new = sum(frame.id not in known for frame in lights)
        ripe = len(last.frame_ids) < MOST_DEFECT_FRAMES or now - last.created_at > timedelta(days=DEFECT_DAYS)
        if new < DEFECT_FRAMES or not ripe:
            return None
    chosen = _spread_over(lights, MOST_DEFECT_FRAMES)
    shape = (lights[0].height or 0, lights[0].width or 0)
    facts = facts_of({**header_values(lights[0]), "start_utc": lights[0].start_utc}, shape, "defects")
    if len(lights) < DEFECT_FRAMES:
        why = f"{len(lights)} of at least {DEFECT_FRAMES} lights"
        return Wanted("defects", facts, [frame.id for frame in chosen], "wait", why)
    return Wanted("defects", facts, sorted(frame.id for frame in chosen), "build")


def _spread_over(frames: Sequence[Frame], most: int) -> list[Frame]:
    """Take frames evenly over the time they cover: the farther apart, the less of the sky stays on a pixel."""
    places = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))
    return [frames[i] for i in places]


def build(hub: Hub, instrument_id: int, *, quiet_s: float | None = None) -> list[dict[str, Any]]:
    """Build all masters that an instrument's frames ask for; return one row a master, for tables.

    Each is committed by itself. One that cannot be built leaves the reason in the archive and stops no other.
    """
    quiet_s = hub.settings.masters_quiet_s if quiet_s is None else quiet_s
    done = []
    for kind in (*BUILD_ORDER, "defects"):
        with hub.archive.session() as session:
            todo = [w for w in wanted(session, instrument_id, quiet_s) if w.kind == kind and w.state == "build"]
        for item in todo:
            try:
                master = _build_one(hub, instrument_id, item)
            except BadInput as refused:
                about = {"instrument": instrument_id}
                log.warning("%s: %s (%s)", kind, refused.message, refused.code, extra=about)
                master = _attempt(instrument_id, item, {"code": refused.code, "hint": refused.hint})
                master.stats["message"] = refused.message
            with hub.archive.transaction() as session:
                filed = master_rows.publish(session, master)
                if filed is not None:
                    done.append(row_of(filed))
    return done


def _attempt(instrument_id: int, item: Wanted, stats: dict[str, Any]) -> Master:
    facts = item.facts
    assert facts.start is not None
    return Master(
        instrument_id=instrument_id,
        kind=item.kind,
        code_version=_CODE,
        gain=facts.gain,
        offset_adu=facts.offset_adu,
        temperature_c=facts.temperature_c,
        exposure_s=facts.exposure_s if item.kind == "dark" else None,
        filter=facts.filter if item.kind == "flat" else None,
        binning=facts.binning,
        width=facts.width,
        height=facts.height,
        valid_from=facts.start,
        valid_to=facts.start,
        n_frames=0,
        frame_ids=item.frame_ids,
        key="",
        sha256="",
        stats=stats,
    )


def _build_one(hub: Hub, instrument_id: int, item: Wanted) -> Master:
    with hub.archive.session() as session:
        frames = sorted((rows.get(session, i) for i in item.frame_ids), key=lambda f: (f.start_utc, f.id))
        masters = master_rows.current(session, instrument_id)
        instrument = session.get(Instrument, instrument_id)
    assert instrument is not None
    with tempfile.TemporaryDirectory(prefix="starloom-master-") as folder, FrameStack(Path(folder)) as stack:
        headers = [_add(hub, frame, stack) for frame in frames]
        made = _combined(hub, item, stack, headers, masters)
        planes = Planes(made.data, _header(item, made, headers[0]), made.mask, made.variance)
        path = write_planes(planes, Path(folder) / "master.fits.fz")
        digest = sha256_of(path)
        stored = hub.lake.put_file(path, keys.master(instrument.node_id, instrument_id, item.kind, digest))
    used = [frames[i] for i in made.used]
    starts = [frame.start_utc for frame in used if frame.start_utc is not None]
    master = _attempt(instrument_id, item, {**made.stats, "masked": int(np.count_nonzero(made.mask))})
    master.n_frames = len(used)
    master.height, master.width = made.mask.shape
    master.valid_from, master.valid_to = min(starts), max(starts)
    master.key, master.lake_version, master.sha256 = stored.key, stored.version, digest
    return master


def _add(hub: Hub, frame: Frame, stack: FrameStack) -> fits.Header:
    assert frame.raw_key is not None
    with hub.lake.local_copy(frame.raw_key, version=frame.raw_version) as path:
        sensor = sensor_pixels(*read_frame(path))
    if stack.shape is not None and sensor.data.shape != stack.shape:
        raise BadInput(
            f"{frame.name}: {sensor.data.shape} once trimmed, its companions {stack.shape}",
            code="master-size",
            hint="Section cards differ within the series; send frames of one read-out mode together.",
        )
    stack.add(sensor)
    return sensor.header


def _combined(
    hub: Hub, item: Wanted, stack: FrameStack, headers: Sequence[fits.Header], masters: Sequence[Master]
) -> MasterFrame:
    mosaic = mosaic_layout(headers[0]) is not None
    said = headers[0].get("SATURATE", headers[0].get("SATLEVEL"))
    saturation = float(said) if isinstance(said, int | float) and said > 0 else None
    if item.kind == "defects":
        return _defects(stack, 2 if mosaic else 1)
    if item.kind == "bias":
        return build_bias(stack)
    found = match(_as_light(item.facts), [master_facts(m) for m in masters if m.kind in ("bias", "dark")])
    if item.kind == "dark":
        bias = load_masters(hub, masters, Match(bias=_nearest_bias(item, masters))).bias
        return build_dark(
            stack,
            item.facts.exposure_s or 0.0,
            bias=None if bias is None else bias.data,
            saturation_adu=saturation,
            step=2 if mosaic else 1,
        )
    chosen = load_masters(hub, masters, found)
    if chosen.bias is None and chosen.dark is None and not stack.zeroed and not item.facts.calstat:
        raise BadInput(
            "flats, and neither a bias nor a dark of their exposure: divided by them, stars would be wrong",
            code="flat-needs-bias",
            hint="Send biases, or darks of the flats' exposure; the flats are kept and tried again.",
        )
    zero = zero_level(MasterSet(chosen.bias, chosen.dark, dark_scale=chosen.dark_scale))[0]
    stats = {master.id: master.stats for master in masters}
    noise = stats.get(found.bias, {}).get("read_noise_adu") or stats.get(found.dark, {}).get("noise_adu")
    return build_flat(
        stack,
        subtract=zero if isinstance(zero, np.ndarray) else None,
        read_noise_adu=noise,
        saturation_adu=saturation_of_flats(stack, saturation),
        mosaic=mosaic,
    )


def _as_light(facts: FrameFacts) -> FrameFacts:
    return FrameFacts(**{**vars(facts), "kind": "light"})


def _nearest_bias(item: Wanted, masters: Sequence[Master]) -> int | None:
    """Return the bias that fits a dark: as if it were a light for which there is no dark."""
    return match(_as_light(item.facts), [master_facts(m) for m in masters if m.kind == "bias"]).bias


def _defects(stack: FrameStack, step: int) -> MasterFrame:
    found = learn_defects(stack, step=step)
    share = float(np.count_nonzero(found.mask)) / found.mask.size
    if share > MOST_DEFECTS:
        raise BadInput(
            f"{share:.1%} of the pixels would be defects",
            code="too-many-defects",
            hint="The lights show the same sky, or no sky; a map is tried again with other lights.",
        )
    stats = {"stars_moved": found.moved, "defects": int(np.count_nonzero(found.mask))}
    # The map is the mask itself: what a reader of FITS shows.
    variance = np.zeros(found.mask.shape, np.float32)
    return MasterFrame(found.mask.astype(np.float32), found.mask, variance, list(range(len(stack))), stats)


def _header(item: Wanted, made: MasterFrame, first: fits.Header) -> fits.Header:
    """Return the header of a master: what it is and of what, for people and for other programs."""
    header = fits.Header()
    header["IMAGETYP"] = (f"Master {item.kind}", "combined calibration frame")
    header["NCOMBINE"] = (len(made.used), "frames that were combined")
    if item.facts.exposure_s is not None and item.kind == "dark":
        header["EXPTIME"] = (item.facts.exposure_s, "[s] exposure of one frame")
    if item.facts.temperature_c is not None:
        header["CCD-TEMP"] = (item.facts.temperature_c, "[degC] sensor")
    for card in _KEPT:
        if card in first:
            header[card] = (first[card], first.comments[card])
    header["BUNIT"] = "adu" if item.kind in ("bias", "dark") else ""
    return header


def row_of(master: Master) -> dict[str, Any]:
    """Return a master as a row for people and JSON."""
    known = master.model_dump(exclude={"frame_ids", "stats"})
    state = "current" if master.current else ("replaced" if master.n_frames else "failed")
    return {**known, "state": state, "code": master.stats.get("code"), "stats": master.stats}


def outdated(hub: Hub, instrument_id: int) -> list[tuple[Frame, list[str]]]:
    """Return the lights of an instrument that today's masters would calibrate better, and with what.

    Better means: a master of a kind that the frame had none of, or one in place of a master that was rebuilt.
    """
    with hub.archive.session() as session:
        masters = master_rows.current(session, instrument_id)
        ids = {master.id for master in masters}
        frames = master_rows.calibrated_lights(session, instrument_id)
    found = []
    for frame, done in frames:
        shape = (frame.height or 0, frame.width or 0)
        best = choose(frame, masters, shape)
        gains = []
        for kind in ("bias", "dark", "flat", "defects"):
            has, could = getattr(done, f"{kind}_id"), getattr(best, kind)
            if could is None or could == has:
                continue
            if has is None:
                gains.append(f"no {kind} before")
            elif has not in ids:
                gains.append(f"{kind} rebuilt")
        if gains:
            found.append((frame, gains))
    return found


def calibrate_again_by_itself(hub: Hub, instrument_id: int) -> list[Frame]:
    """Do frames again that had no bias, dark or flat, if the settings say so; else only say how many there are."""
    if hub.settings.recalibrate:
        return calibrate_again(hub, instrument_id, rebuilt=False)
    waiting = outdated(hub, instrument_id)
    if waiting:
        about = {"instrument": instrument_id}
        log.info("%d frames could be calibrated better", len(waiting), extra=about)
    return []


def calibrate_again(hub: Hub, instrument_id: int, *, rebuilt: bool = True) -> list[Frame]:
    """Have the outdated lights of an instrument done again from their raw pixels; return those that will be.

    Parameters
    ----------
    rebuilt
        Also those whose masters were merely rebuilt, or that lack only a defect map.
    """
    again = []
    for frame, gains in outdated(hub, instrument_id):
        if not rebuilt and not any(g in ("no bias before", "no dark before", "no flat before") for g in gains):
            continue
        with hub.archive.transaction() as session:
            redone = rows.reprocess(session, frame.id, "calibrate")
        if redone is not None:
            again.append(redone)
    return again
