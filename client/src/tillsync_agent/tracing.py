"""A sale's trace, from the program that recorded it to head office, where OpenTelemetry is there.

Its API is optional: without it nothing here does anything. A point of sale that traces itself gets
its own trace continued; the agent sends spans of its own where `OTEL_EXPORTER_OTLP_ENDPOINT` says
so and `tillsync-agent[telemetry]` is installed.
"""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from logging import getLogger
from typing import Any

from tillsync.v1.event_pb2 import Event

trace: Any
try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    trace = None

_log = getLogger(__name__)

FLUSH_SECONDS = 3.0
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
# Of one batch: a backlog of thousands is one story, told thousands of times.
MAX_SPANS = 32
_SAMPLED_ENDS = tuple("13579bdf")


@contextmanager
def recording(given: str) -> Iterator[str]:
    """While an event is recorded: gives the traceparent that it goes with. One that the program
    gave is its own; else that of a span around the recording, if anybody keeps it."""
    if given or trace is None:
        yield given
        return
    with trace.get_tracer("tillsync").start_as_current_span("tillsync.record") as span:
        context = span.get_span_context()
        kept = context.is_valid and context.trace_flags.sampled
        yield f"00-{context.trace_id:032x}-{context.span_id:016x}-01" if kept else ""


def uploaded(envelopes: Iterable[bytes], began_ns: int, ended_ns: int) -> None:
    """Events went to head office and were answered: a span in the trace of each that has one. Times
    are nanoseconds since 1970."""
    if trace is None or not _is_kept():
        return
    tracer, spans = trace.get_tracer("tillsync"), 0
    for envelope in envelopes:
        traceparent = Event.FromString(envelope).traceparent
        if traceparent.endswith(_SAMPLED_ENDS):
            parent = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
            span = tracer.start_span("tillsync.upload", parent, start_time=began_ns)
            span.end(ended_ns)
            spans += 1
            if spans == MAX_SPANS:
                return


def _is_kept() -> bool:
    """Whether this process has an SDK, and not the API alone."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@contextmanager
def exported() -> Iterator[None]:
    """Sends this process' spans where the environment says. A trace is a help and never a reason
    to sell nothing: what is missing for it is a warning."""
    provider = None
    if os.environ.get(ENDPOINT):
        try:
            provider = _provider()
        except ImportError as error:
            _log.warning(
                "%s is set, and no span is sent: install tillsync-agent[telemetry] (%s)",
                ENDPOINT,
                error,
            )
    try:
        yield
    finally:
        if provider is not None:
            ending = threading.Thread(target=provider.shutdown, daemon=True)
            ending.start()
            ending.join(FLUSH_SECONDS)


def _provider() -> Any:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415 - optional
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - optional
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - optional
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - optional

    resource = Resource.create({"service.name": "tillsync-agent"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider
