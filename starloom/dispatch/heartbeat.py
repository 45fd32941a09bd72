"""Signs of life of a long-running program: a small file that says when it last went round and what troubled it."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

#: A round may take as long as a database waits for its lock.
GRACE_S = 60.0


@dataclass
class Heartbeat:
    """The file ``run/NAME.json`` of one home, written after every round.

    Parameters
    ----------
    home
        The hub's home.
    name
        Name of the program.
    """

    home: Path
    name: str
    _complained: bool = field(default=False, repr=False)

    @property
    def path(self) -> Path:
        """Where the last sign of life is kept."""
        return self.home / "run" / f"{self.name}.json"

    def beat(self, *, trouble: str = "", next_s: float = 0.0) -> None:
        """Write a sign of life.

        Parameters
        ----------
        trouble
            What went wrong in the last round; empty if nothing.
        next_s
            Seconds until the next round begins.
        """
        said = {"at": datetime.now(UTC).isoformat(), "pid": os.getpid(), "trouble": trouble, "next_s": next_s}
        draft = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(said), encoding="utf-8")
            draft.replace(self.path)
            self._complained = False
        except OSError as error:  # a full or read-only disk must not stop the program whose life it shows
            if not self._complained:
                log.warning("%s: no sign of life written: %s", self.name, error)
            self._complained = True

    def stop(self) -> None:
        """Remove the file: the program ended on purpose."""
        self.path.unlink(missing_ok=True)

    def read(self) -> dict[str, Any] | None:
        """Return ``{at, pid, trouble, next_s, alive}``, or None where nothing was ever written."""
        try:
            said: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            last = datetime.fromisoformat(said["at"])
        except (OSError, ValueError, KeyError):
            return None
        said["alive"] = datetime.now(UTC) < last + timedelta(seconds=float(said.get("next_s", 0.0)) + GRACE_S)
        return said
