"""Logs: structured, on standard error, and holding only what is on the list."""

import logging
import sys
import traceback
from collections.abc import Iterator, MutableMapping
from typing import Any

import structlog

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
        "database",
        "device_id",
        "error",
        "method",
        "outcome",
        "seconds",
        "sqlstate",
        "store_id",
        "tenant_id",
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
            _exception_without_text,
            _only_allowed,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )


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
