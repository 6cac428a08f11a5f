"""Logs: structured, on standard error, and holding only what is on the list."""

import logging
import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import structlog
from opentelemetry._logs import Logger, SeverityNumber
from opentelemetry.trace import format_span_id, format_trace_id

from tillsync_service.foundation import identity, tracing

# An allow-list, because a block-list forgets: no payload, token or personal data can get in by a
# field that nobody thought of.
ALLOWED_FIELDS = frozenset(
    {
        "event",
        "level",
        "timestamp",
        "logger",
        "exception",
        "address",
        "calls_cut",
        "cause",  # in words of our own: never a database's, which may quote a row
        "count",
        "database",
        "device_id",
        "error",
        "keys",
        "method",
        "outcome",
        "position",
        "request_id",
        "seconds",
        "span_id",
        "sqlstate",
        "store_id",
        "tenant_id",
        "trace_id",
        "version",
    }
)


def configure(level: str, log_format: str) -> None:
    """Sets logging up for the process. Again is harmless."""
    renderer = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _with_ids,
            _exception_without_text,
            _only_allowed,
            _to_others,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )


# Where else lines go: what has no place in a process' one configuration comes and goes here.
_others: list[Logger] = []

_SEVERITIES = {
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
}


def also_to(logger: Logger) -> Callable[[], None]:
    """Lines go to an OpenTelemetry logger too, until what this gives is called."""
    _others.append(logger)
    return lambda: _others.remove(logger) if logger in _others else None


def _to_others(
    _logger: object, method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for other in _others:
        other.emit(
            severity_number=_SEVERITIES.get(fields.get("level", method), SeverityNumber.INFO),
            severity_text=fields.get("level", method),
            body=fields.get("event", ""),
            attributes={
                name: value if isinstance(value, str | int | float) else str(value)
                for name, value in fields.items()
                if name not in {"event", "level", "timestamp"}
            },
            context=tracing.current(),
        )
    return fields


def _with_ids(
    _logger: object, _method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for name, value in identity.current_ids().items():
        fields.setdefault(name, value)
    if (request_id := tracing.current_request_id()) is not None:
        fields.setdefault("request_id", request_id)
    span = tracing.current_span_context()
    if span is not None:
        fields["trace_id"] = format_trace_id(span.trace_id)
        fields["span_id"] = format_span_id(span.span_id)
    return fields


def _exception_without_text(
    _logger: object, _method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Where an exception came from, without its text: Postgres puts rows into it."""
    error = fields.pop("exc_info", None)
    if isinstance(error, BaseException):
        fields["error"] = " < ".join(_chain(error))
        fields["exception"] = [
            f"{frame.filename}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)
        ]
    return fields


def _chain(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield type(error).__qualname__
        error = error.__cause__


def _only_allowed(
    _logger: object, _method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return {name: value for name, value in fields.items() if name in ALLOWED_FIELDS}
