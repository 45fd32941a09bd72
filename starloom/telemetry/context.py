"""What a log line is about: mission, frame, node, bound once and present on every line below.

The fields travel in a context variable, so that threads of one run do not mix them up. `install` makes every log
record carry those that are bound where it is made; ``extra={"mission": …}`` adds to them for one line.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

#: What a line may be about, in the order in which it is written.
SUBJECT = ("mission", "event", "frame", "node", "instrument")
#: Where it comes from: Prefect's flow run, and the trace.
ORIGIN = ("run", "trace")

_bound: ContextVar[Mapping[str, object]] = ContextVar("starloom_about", default=MappingProxyType({}))
_origins: dict[str, Callable[[], str | None]] = {}


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Bind fields for the lines of a block; None leaves a field as it is outside."""
    token = _bound.set({**_bound.get(), **{name: value for name, value in fields.items() if value is not None}})
    try:
        yield
    finally:
        _bound.reset(token)


def provide(name: str, origin: Callable[[], str | None]) -> None:
    """Name who knows one of `ORIGIN`; asked for every line, so it must be cheap."""
    _origins[name] = origin


class AboutRecord(logging.LogRecord):
    """A log record that knows what it is about.

    Handlers that show the message alone (Prefect's log of a run, a terminal) get the subject as ``frame=… node=…``
    before it; a formatter that has places for the fields takes `subject` and `said`.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.bound: dict[str, object] = dict(_bound.get())
        for name, origin in _origins.items():
            if value := origin():
                self.bound.setdefault(name, value)

    def subject(self, names: tuple[str, ...] = SUBJECT + ORIGIN) -> dict[str, object]:
        """Return those of the fields that are known; what the line itself says comes before what is bound."""
        known = {**self.bound, **{name: self.__dict__[name] for name in names if name in self.__dict__}}
        return {name: known[name] for name in names if known.get(name) is not None}

    def said(self) -> str:
        """Return the message without its subject."""
        return super().getMessage()

    def getMessage(self) -> str:
        """Return the message behind its subject, where the line is the hub's own."""
        if not (self.name or "").startswith("starloom"):  # `logging.makeLogRecord` makes records without a name
            return self.said()
        return " ".join([*(f"{name}={value}" for name, value in self.subject(SUBJECT).items()), self.said()])


def install() -> None:
    """Have every log record of this process made as an `AboutRecord`."""
    logging.setLogRecordFactory(AboutRecord)
