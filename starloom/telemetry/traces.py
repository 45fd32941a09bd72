"""Traces by OpenTelemetry: one for each frame, from its node to READY, and one for each stack, linked to those.

Off, with nothing of OpenTelemetry loaded, unless the extra ``otel`` is installed and the standard environment
names a receiver: ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``.

References
----------
W3C Trace Context, https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import SpanContext, Tracer

log = logging.getLogger(__name__)

#: What a stranger may call a trace context.
TRACEPARENT = r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"
#: Frames whose traces a stack is linked to, at most: OpenTelemetry's own bound for a span.
MAX_LINKS = 128
_RECEIVERS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Tell whether the environment asks for traces."""
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    off = off or environment.get("OTEL_TRACES_EXPORTER") == "none"
    return not off and any(environment.get(name) for name in _RECEIVERS)


@lru_cache(maxsize=1)
def provider() -> TracerProvider | None:
    """Return where this process's spans go, None where traces are off.

    It is ours alone, not OpenTelemetry's global one: Prefect would send spans of its own through that.
    """
    if not is_wanted(os.environ):
        return None
    if importlib.util.find_spec("opentelemetry.exporter.otlp") is None:
        log.warning("traces are asked for, but the extra `otel` is not installed")
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    os.environ.setdefault("OTEL_SERVICE_NAME", "starloom")
    made = TracerProvider(resource=Resource.create())
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made


def _tracer() -> Tracer | None:
    found = provider()
    return None if found is None else found.get_tracer("starloom")


@contextmanager
def span(name: str, *, parent: str | None = None, **attributes: object) -> Iterator[None]:
    """Time a block as a span; nothing where traces are off.

    Parameters
    ----------
    parent
        Trace context that it belongs to; the span around it where there is none.
    attributes
        What it is about; ``starloom.`` is put before each name, None is left out.
    """
    tracer = _tracer()
    if tracer is None:
        yield
        return
    named: dict[str, Any] = {f"starloom.{key}": value for key, value in attributes.items() if value is not None}
    with tracer.start_as_current_span(name, context=_context(parent), attributes=named):
        yield


def link(traceparents: Iterable[str | None]) -> None:
    """Link the span around to others, at most `MAX_LINKS`."""
    if _tracer() is None:
        return
    from opentelemetry.trace import get_current_span

    places = [place for said in traceparents if (place := _place(said)) is not None]
    for place in places[:MAX_LINKS]:
        get_current_span().add_link(place)


def traceparent() -> str | None:
    """Return the trace context of the span around, None where traces are off."""
    place = _current()
    return None if place is None else f"00-{place.trace_id:032x}-{place.span_id:016x}-{int(place.trace_flags):02x}"


def trace_id() -> str | None:
    """Return the id of the trace around, as log lines carry it."""
    place = _current()
    return None if place is None else f"{place.trace_id:032x}"


def _current() -> SpanContext | None:
    if _tracer() is None:
        return None
    from opentelemetry.trace import get_current_span

    place = get_current_span().get_span_context()
    return place if place.is_valid else None


def _context(parent: str | None) -> Context | None:
    """Return a trace context as the SDK takes it; None, the one around, where nothing usable is said."""
    if parent is None or _place(parent) is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": parent})


def _place(traceparent: str | None) -> SpanContext | None:
    if traceparent is None:
        return None
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    place = get_current_span(
        TraceContextTextMapPropagator().extract({"traceparent": traceparent})
    ).get_span_context()
    return place if place.is_valid and place.is_remote else None
