"""Where calibration meets archive and lake: a frame's masters found and applied, mosaics into planes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starloom.archive import frames as rows
from starloom.archive import masters as master_rows
from starloom.archive.models import Frame, Master
from starloom.batches import FrameChunk
from starloom.calibration.apply import CALIBRATION_VERSION, MasterSet, calibrate, has_work
from starloom.calibration.calibrated_file import Planes, read_planes, write_planes
from starloom.calibration.held import HeldPlanes
from starloom.calibration.matching import FrameFacts, MasterFacts, Match, facts_of, match
from starloom.calibration.planes import plane_frame
from starloom.calibration.sensor import BAD_SECTION, sections, trimmed_shape
from starloom.errors import BadInput
from starloom.frames import read_frame, read_header
from starloom.lake import keys
from starloom.receipts import write_receipt, write_receipt_again

if TYPE_CHECKING:
    from starloom.hub import Hub

#: The AAVSO's names of the bands of a colour camera's own filters: tri-colour blue, green, red.
TRICOLOUR = {"R": "TR", "G1": "TG", "G2": "TG", "B": "TB"}
#: What this step says of a frame; a frame calibrated again loses the words that no longer hold.
FLAGS = frozenset({"uncalibrated", "no-dark", "no-flat", BAD_SECTION})
KINDS = ("bias", "dark", "flat", "defects")
#: Masters that a worker holds decoded: bias, dark and flat of 24 Mpix with variance and mask are 0.65 GB.
HELD_BYTES = 1_000_000_000

_HELD = HeldPlanes(HELD_BYTES)


def header_value(frame: Frame, name: str) -> Any:
    """Return one value of the frame's normalised header, None where the header does not say."""
    return ((frame.header or {}).get(name) or {}).get("value")


def header_values(frame: Frame) -> dict[str, Any]:
    """Return the values of the frame's normalised header by name."""
    return {name: entry.get("value") for name, entry in (frame.header or {}).items()}


@contextmanager
def pixels_of(hub: Hub, frame: Frame) -> Iterator[Path]:
    """Lend the file of a frame's best pixels: the calibrated ones where there are any, else the raw ones.

    Of a colour plane it holds that plane alone, cut from its mosaic. The file is gone after the block.
    """
    key, version = frame.calibrated_key, frame.calibrated_version
    if key is None:
        key, version = frame.raw_key, frame.raw_version
    assert key is not None
    with hub.lake.local_copy(key, version=version) as path:
        if frame.plane in (None, rows.MOSAIC):
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="starloom-plane-") as folder:
            yield plane_frame(path, frame.plane, Path(folder) / "plane.fits.fz")


@dataclass(frozen=True)
class _Outcome:
    """What was done to a frame; ``key`` None: nothing."""

    match: Match
    flags: tuple[str, ...]
    values: dict[str, Any]


def run(hub: Hub, frame_id: str) -> None:
    """Calibrate one frame with the masters that fit it; what has none is flagged, a mosaic split into colours.

    ``CALSTAT`` is honoured: what its node did is not done again. The calibrated pixels lie beside the raw ones;
    where there is nothing to do, none are written.
    """
    with hub.archive.transaction() as session:
        frame = rows.claim_step(session, frame_id, "calibrate")
        masters = [] if frame is None else master_rows.current(session, frame.instrument_id)
    if frame is None:
        write_receipt_again(hub, frame_id, "calibrate")
        return
    try:
        outcome = _calibrated(hub, frame, masters)
    except BadInput as refused:
        with hub.archive.transaction() as session:
            stored = rows.settle_step(
                session, frame_id, "calibrate", code=refused.code, hint=refused.hint or refused.message
            )
        write_receipt(hub, stored)
        return
    _record(hub, frame, outcome)


def _calibrated(hub: Hub, frame: Frame, masters: Sequence[Master]) -> _Outcome:
    assert frame.raw_key is not None
    assert frame.start_utc is not None
    with (
        hub.lake.local_copy(frame.raw_key, version=frame.raw_version) as raw,
        tempfile.TemporaryDirectory(prefix="starloom-calibrate-") as folder,
    ):
        header = read_header(raw)
        shape = (int(header["NAXIS2"]), int(header["NAXIS1"]))
        found = choose(frame, masters, trimmed_shape(header, shape))
        flags = found.flags if sections(header, shape)[2] else (*found.flags, BAD_SECTION)
        values = dict.fromkeys(("key", "lake_version", "masked_fraction", "saturation_adu"))
        gain, noise = _noise_of(frame, masters, found)
        values |= {"gain_e_per_adu": gain, "read_noise_adu": noise}
        chosen = load_masters(hub, masters, found)
        if not has_work(header, shape, chosen):
            return _Outcome(found, flags, values)
        done = calibrate(*read_frame(raw), chosen, gain_e_per_adu=gain, read_noise_adu=noise)
        if done is None:
            return _Outcome(found, flags, values)
        path = write_planes(done.planes, Path(folder) / "calibrated.fits.fz")
        stored = hub.lake.put_file(path, keys.calibrated(frame.node_id, frame.start_utc, frame.id, frame.version))
    return _Outcome(
        found,
        flags,
        values
        | {
            "key": stored.key,
            "lake_version": stored.version,
            "masked_fraction": done.masked_fraction,
            "saturation_adu": done.saturation_adu,
        },
    )


def choose(frame: Frame, masters: Sequence[Master], shape: tuple[int, ...]) -> Match:
    """Return the masters that fit a frame whose sensor has ``shape``, and why there is none of a kind."""
    facts = facts_of({**header_values(frame), "start_utc": frame.start_utc}, shape, "light")
    return match(facts, [master_facts(master) for master in masters])


def master_facts(master: Master) -> MasterFacts:
    """Return a master as the matching sees it."""
    assert master.id is not None
    facts = FrameFacts(
        kind=master.kind,
        width=master.width,
        height=master.height,
        binning=master.binning,
        gain=master.gain,
        offset_adu=master.offset_adu,
        temperature_c=master.temperature_c,
        exposure_s=master.exposure_s,
        filter=master.filter,
    )
    return MasterFacts(master.id, facts, master.valid_from, master.valid_to, master.n_frames)


def load_masters(hub: Hub, masters: Sequence[Master], found: Match) -> MasterSet:
    """Fetch the planes of the masters that were chosen."""
    by_id = {master.id: master for master in masters}

    def planes(master_id: int | None) -> Planes | None:
        if master_id is None:
            return None
        master = by_id[master_id]

        def fetch() -> Planes:
            with hub.lake.local_copy(master.key, version=master.lake_version) as path:
                return read_planes(path)

        return _HELD.get(master.key, fetch)

    return MasterSet(
        planes(found.bias), planes(found.dark), planes(found.flat), planes(found.defects), found.dark_scale or 1.0
    )


def _noise_of(frame: Frame, masters: Sequence[Master], found: Match) -> tuple[float | None, float | None]:
    """Return gain (e-/ADU) and read noise (ADU): measured from flats and biases, else what the header says."""
    by_id = {master.id: master for master in masters}

    def measured(master_id: int | None, name: str) -> float | None:
        value = None if master_id is None else by_id[master_id].stats.get(name)
        return float(value) if value is not None and value > 0 else None

    said = header_value(frame, "gain_e_per_adu")
    gain = measured(found.flat, "gain_e_per_adu") or (float(said) if said else None)
    return gain, measured(found.bias, "read_noise_adu") or measured(found.dark, "noise_adu")


def _record(hub: Hub, frame: Frame, outcome: _Outcome) -> None:
    with hub.archive.transaction() as session:
        stored = rows.still_pending(session, frame.id, "calibrate")
        if stored is None:
            return
        mosaic = stored.plane in (None, rows.MOSAIC) and header_value(stored, "bayer_pattern") is not None
        calibrated = [stored]
        _say(stored, outcome.flags)
        if mosaic:
            calibrated += rows.add_planes(session, stored, {plane: TRICOLOUR[plane] for plane in rows.PLANES})
            for plane in calibrated[1:]:
                _say(plane, outcome.flags)
        master_rows.publish_calibration(
            session,
            calibrated,
            code_version=str(CALIBRATION_VERSION),
            bias_id=outcome.match.bias,
            dark_id=outcome.match.dark,
            flat_id=outcome.match.flat,
            defects_id=outcome.match.defects,
            dark_scale=outcome.match.dark_scale,
            flags=list(outcome.flags),
            **outcome.values,
        )
        settled = rows.settle(session, stored, "calibrate", plane=rows.MOSAIC if mosaic else stored.plane)
    if mosaic:
        write_receipt(hub, settled)


def _say(frame: Frame, flags: Sequence[str]) -> None:
    frame.flags = sorted({*(flag for flag in frame.flags if flag not in FLAGS), *flags})


def with_planes(hub: Hub, chunk: FrameChunk) -> FrameChunk:
    """Return the chunk with the colour planes of its mosaics, which take the next steps in their place."""
    with hub.archive.session() as session:
        ids = []
        for frame_id in chunk.frame_ids:
            frame = rows.get(session, frame_id)
            ids += rows.plane_ids(frame) if frame.plane == rows.MOSAIC else [frame_id]
    return chunk.model_copy(update={"frame_ids": ids})
