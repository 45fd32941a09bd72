"""Log lines of the hub's programs: text for people, or one JSON object a line for what collects them."""

from __future__ import annotations

import logging
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from starloom.settings import Settings
from starloom.telemetry import context

TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class JsonLines(JsonFormatter):
    """A log record as one line of JSON: ``time``, ``level``, ``logger``, ``message`` and what the line is about.

    ``exception`` holds a traceback. Python's ``dictConfig`` and Prefect's logging.yml may name this class: the
    format string that they give is not looked at.
    """

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__(timestamp="time", rename_fields={"exc_info": "exception"})

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Put the fields in the order in which people read them."""
        ours = isinstance(record, context.AboutRecord)
        everything: dict[str, Any] = {}
        super().add_fields(everything, record, message_dict)
        log_data |= {
            "time": everything["time"],
            "level": record.levelname,
            "logger": record.name,
            "message": record.said() if isinstance(record, context.AboutRecord) else record.getMessage(),
        }
        if ours:
            log_data |= record.subject()  # type: ignore[attr-defined]
        if "run" not in log_data and (run := getattr(record, "flow_run_id", None)):  # Prefect's own lines
            log_data["run"] = run
        if "exception" in everything:
            log_data["exception"] = everything["exception"]


def configure(settings: Settings) -> None:
    """Send this program's lines to its standard error, as ``STARLOOM_LOG_FORMAT`` and ``…_LEVEL`` say.

    For programs of our own. Prefect's take the same from `prefect_environment`.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if settings.log_format == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def prefect_environment(settings: Settings) -> dict[str, str]:
    """Return the variables that give the lines of Prefect's programs, and of runs, the same form and level."""
    env = {"PREFECT_LOGGING_LEVEL": settings.log_level, "PREFECT_LOGGING_EXTRA_LOGGERS": "starloom"}
    if settings.log_format == "json":
        # Each overrides an entry of Prefect's logging.yml, and holds in containers too, where no file of ours is.
        env |= {
            "PREFECT_LOGGING_FORMATTERS_JSON_CLASS": f"{__name__}.{JsonLines.__name__}",
            "PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "json",
            "PREFECT_LOGGING_HANDLERS_DEBUG_FORMATTER": "json",
            "PREFECT_LOGGING_COLORS": "false",
        }
    return env
