"""The watchdog's memory and voice: told once, again every hour while it lasts, and once when it is over."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from starloom.dispatch.watchdog import Finding, in_words, look
from starloom.dispatch.webhook import call, check_url
from starloom.errors import BadInput, StarloomError
from starloom.settings import Settings

#: A restart of a service is over within this; nobody is told of it.
GRACE_S = 120.0
REMIND_S = 3600.0
PROGRAM_S = 60.0

#: For each dead check: since when (ISO 8601), and when it was last told.
Memory = dict[str, dict[str, str | None]]


@dataclass(frozen=True)
class Voice:
    """Whom to tell.

    Parameters
    ----------
    webhook
        URL that alarms are POSTed to as JSON ``{subject, body, text, dead}``.
    program
        Program that is started with the subject as its only argument and the body on its standard input.
    heartbeat_url
        URL that is called when all is well, and only then: whoever listens there notices its absence.
    """

    webhook: str = ""
    program: Path | None = None
    heartbeat_url: str = ""

    def check(self) -> None:
        """Refuse at the start what would fail when it is needed.

        Raises
        ------
        BadInput
            ``bad-url``, ``bad-program``.
        """
        for url in filter(None, (self.webhook, self.heartbeat_url)):
            check_url(url)
        program = self.program
        if program is not None and not (
            program.is_absolute() and program.is_file() and os.access(program, os.X_OK)
        ):
            raise BadInput(
                f"{program} is no program",
                code="bad-program",
                hint="Give the whole path of an executable file, without arguments: no shell is involved.",
            )

    def tell(self, subject: str, findings: Sequence[Finding]) -> None:
        """Tell everybody, also where telling one fails.

        Raises
        ------
        StarloomError
            ``alarm-failed``: somebody could not be told.
        """
        body = in_words(findings)
        failed = []
        if self.webhook:
            dead = [finding.check for finding in findings if not finding.ok]
            try:
                call(self.webhook, {"subject": subject, "body": body, "text": f"{subject}\n{body}", "dead": dead})
            except StarloomError as error:
                failed.append(error.message)
        if self.program is not None:
            failed += self._start(self.program, subject, body)
        if failed:
            raise StarloomError(
                "; ".join(failed), code="alarm-failed", hint="It is tried again with the next look."
            )

    @staticmethod
    def _start(program: Path, subject: str, body: str) -> list[str]:
        try:
            done = subprocess.run(  # a list, no shell: what a check has read stays text
                [str(program), subject], input=body, text=True, capture_output=True, timeout=PROGRAM_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return [f"{program.name}: {error}"]
        return [f"{program.name} ended with {done.returncode}: {done.stderr[-200:]}"] if done.returncode else []


@dataclass(frozen=True)
class Told:
    """What one look came to: findings, the alarm that was raised (empty: none), and what could not be said."""

    findings: list[Finding]
    alarm: str
    trouble: str

    @property
    def well(self) -> bool:
        """Whether everything lives and everybody heard."""
        return all(finding.ok for finding in self.findings) and not self.trouble


def judge(
    findings: Sequence[Finding],
    memory: Memory,
    now: datetime,
    *,
    grace_s: float = GRACE_S,
    remind_s: float = REMIND_S,
) -> tuple[str, Memory]:
    """Decide whether to raise an alarm.

    Returns
    -------
    subject, memory
        What to say, empty for nothing; and what to remember once it has been said.
    """
    # What was not looked at, because it lies behind a server that is dead, is as it was.
    seen = {finding.check for finding in findings}
    after: Memory = {name: known for name, known in memory.items() if name not in seen}
    tell = []
    for finding in findings:
        if finding.ok:
            continue
        known = memory.get(finding.check, {"since": now.isoformat(), "told": None})
        after[finding.check] = known
        since, told = datetime.fromisoformat(str(known["since"])), known["told"]
        due = timedelta(seconds=remind_s)
        if now - since >= timedelta(seconds=grace_s) and (
            told is None or now - datetime.fromisoformat(told) >= due
        ):
            tell.append(finding.check)
    over = [name for name, known in memory.items() if name not in after and known["told"] is not None]
    if tell:
        after |= {name: {**after[name], "told": now.isoformat()} for name in tell}
        return f"starloom at {socket.gethostname()}: {', '.join(tell)} dead", after
    if over:
        return f"starloom at {socket.gethostname()}: {', '.join(over)} alive again", after
    return "", after


def look_and_tell(
    settings: Settings,
    voice: Voice,
    skip: Collection[str] = (),
    *,
    relay_url: str = "",
    grace_s: float = GRACE_S,
    now: datetime | None = None,
) -> Told:
    """Look once, raise or end an alarm, prove life if all is well.

    The memory is a file of the home, so that a program started every minute by cron or a timer tells once. Where
    it cannot be written (a full disk), the alarm is raised with every look: rather too often than never.
    """
    findings = look(settings, skip, relay_url)
    path = settings.home / "run" / "watchdog.json"
    before = _remembered(path)
    subject, after = judge(findings, before, now or datetime.now(UTC), grace_s=grace_s)
    troubles = []
    if subject:
        try:
            voice.tell(subject, findings)
        except StarloomError as error:
            troubles.append(error.message)
            # The moment it began is kept; that it was told is not.
            after = {name: {**known, "told": before.get(name, {}).get("told")} for name, known in after.items()}
            after |= {name: known for name, known in before.items() if name not in after}
    try:
        _remember(path, after)
    except OSError as error:
        troubles.append(f"nothing is remembered: {error}")
    if voice.heartbeat_url and all(finding.ok for finding in findings):
        try:
            call(voice.heartbeat_url)
        except StarloomError as error:
            troubles.append(f"life was not proven: {error.message}")
    return Told(findings, subject, "; ".join(troubles))


def _remembered(path: Path) -> Memory:
    try:
        said: Any = json.loads(path.read_text(encoding="utf-8"))
        for known in said.values():
            for word in (known["since"], known["told"] or known["since"]):
                datetime.fromisoformat(word)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # never written, or torn: the alarm is raised anew
    memory: Memory = said
    return memory


def _remember(path: Path, memory: Memory) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps(memory), encoding="utf-8")
    draft.replace(path)
