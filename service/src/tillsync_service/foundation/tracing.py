"""The span that a task works in, and the traces that events bring with them.

OpenTelemetry's own current span is attached and detached, which a generator that is closed by
another task cannot do. A call has a task of its own here, so its span is set and never taken back.
"""

from contextvars import ContextVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_current: ContextVar[Span | None] = ContextVar("tillsync_span", default=None)
_request_id: ContextVar[str | None] = ContextVar("tillsync_request_id", default=None)
_propagator = TraceContextTextMapPropagator()
_NONE = Context()
_CHARACTERS = 55  # of a traceparent of version 00


def work_in(span: Span) -> None:
    """Makes `span` this task's."""
    _current.set(span)


def work_for(request_id: str) -> None:
    """Makes the request this task's."""
    _request_id.set(request_id)


def current_request_id() -> str | None:
    """The request that this task works for, None for work of the service's own."""
    return _request_id.get()


def current() -> Context:
    """The context of this task's span, for what is begun within it."""
    span = _current.get()
    return _NONE if span is None else trace.set_span_in_context(span, _NONE)


def current_span_context() -> SpanContext | None:
    """The span of this task, None without one."""
    span = _current.get()
    context = span.get_span_context() if span is not None else None
    return context if context is not None and context.is_valid else None


def context_of(traceparent: str) -> Context:
    """The context that a W3C traceparent names; an empty one where it is none."""
    return _propagator.extract({"traceparent": traceparent}, _NONE) if traceparent else _NONE


def context_of_span(span: SpanContext) -> Context:
    """The context of a span that is somebody else's."""
    return trace.set_span_in_context(NonRecordingSpan(span), _NONE)


def is_sampled(traceparent: str) -> bool:
    """Whether whoever began the trace keeps it: the last digit of version 00's flags is odd."""
    return len(traceparent) == _CHARACTERS and traceparent[-1] in "13579bdf"
