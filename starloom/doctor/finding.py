"""What a check is, and what it may find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from starloom.errors import StarloomError
from starloom.settings import Settings

Level = Literal["ok", "warning", "problem"]


class Trouble(Exception):
    """Raised by a check that found something wrong.

    Parameters
    ----------
    found
        What was seen.
    remedy
        What to do about it, one sentence.
    level
        ``warning`` for what a hub can live with.
    """

    def __init__(self, found: str, remedy: str, level: Level = "problem") -> None:
        super().__init__(found)
        self.found, self.remedy, self.level = found, remedy, level


@dataclass(frozen=True)
class Finding:
    """What one check has found.

    Parameters
    ----------
    why
        What goes wrong where this is not as it should be.
    remedy
        What to do; empty where all is well.
    """

    group: str
    check: str
    level: Level
    found: str
    why: str
    remedy: str


@dataclass(frozen=True)
class Check:
    """One question to the hub.

    Parameters
    ----------
    name
        What is looked at.
    why
        See `Finding`.
    look
        Says what it found, or raises `Trouble` or one of our errors.
    """

    name: str
    why: str
    look: Callable[[Settings], str]

    def finding(self, group: str, settings: Settings) -> Finding:
        """Look, and say what was found; whatever goes wrong is a finding too."""
        level: Level = "ok"
        remedy = ""
        try:
            found = self.look(settings)
        except Trouble as trouble:
            level, found, remedy = trouble.level, trouble.found, trouble.remedy
        except StarloomError as error:
            level, found, remedy = "problem", error.message, error.hint
        except Exception as error:  # noqa: BLE001 - a doctor who falls ill at the bedside says so
            level, found, remedy = "problem", f"{type(error).__name__}: {error}", "Report this."
        return Finding(group, self.name, level, found, self.why, remedy)


@dataclass(frozen=True)
class Group:
    """Checks of one part of the hub.

    Parameters
    ----------
    gate
        What has to hold before the others can be asked: one cause, one message.
    """

    name: str
    gate: Check
    checks: tuple[Check, ...]

    def findings(self, settings: Settings) -> list[Finding]:
        """Make all checks, or the gate's alone where that fails."""
        first = self.gate.finding(self.name, settings)
        if first.level == "problem":
            return [first]
        return [first, *(check.finding(self.name, settings) for check in self.checks)]
