"""What the hub tells of itself: log lines with their subject, metrics, traces (docs/observability.md)."""

from starloom.telemetry import context, traces


def begin() -> None:
    """Have this process's log records say what they are about, the trace included."""
    context.install()
    context.provide("trace", traces.trace_id)
