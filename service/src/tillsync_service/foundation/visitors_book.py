"""Each call in the book: its request id, its span, how long it took and how it ended."""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic, perf_counter
from typing import Any, TypeAlias
from uuid import uuid4

import grpc
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from tillsync_service.foundation import tracing
from tillsync_service.foundation.errors import RenderedStatus, ServiceError, render
from tillsync_service.foundation.identity import Device
from tillsync_service.foundation.metrics import Metrics, Reading

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

REQUEST_ID = "x-request-id"
_REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_MAX_STORES = 10_000
_SERVERS_FAULT = frozenset({"UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNIMPLEMENTED"})


class Visitor:
    """One call."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.code = "OK"

    def status(self, error: BaseException) -> RenderedStatus:
        """What the caller is told of the error, its request id with it."""
        rendered = render(error)
        self.code = rendered.code.name
        metadata = (*rendered.trailing_metadata, (REQUEST_ID, self.request_id))
        return replace(rendered, trailing_metadata=metadata)


class VisitorsBook:
    """Kept by the doorkeeper."""

    def __init__(self, metrics: Metrics, tracer: Tracer) -> None:
        self._metrics = metrics
        self._tracer = tracer
        self._heard: dict[tuple[str, str], float] = {}
        metrics.gauge(
            "store_silent",
            "Since a store's tills were last heard, of those heard since the start.",
            self._silent,
            unit="s",
        )

    def heard(self, device: Device) -> None:
        """A message of a device was let in."""
        store = (str(device.tenant_id), str(device.store_id))
        self._heard.pop(store, None)  # so that the one that is forgotten is the longest silent
        self._heard[store] = monotonic()
        if len(self._heard) > _MAX_STORES:
            del self._heard[next(iter(self._heard))]

    def _silent(self) -> Reading:
        now = monotonic()
        for (tenant, store), heard_at in list(self._heard.items()):
            yield now - heard_at, {"tenant": tenant, "store": store}

    def gauge(self, inside: Callable[[], Mapping[str, int]]) -> None:
        """Shows how many calls are inside, by method."""
        self._metrics.gauge(
            "rpc_inside",
            "Calls that are open.",
            lambda: [(count, {"method": method}) for method, count in inside().items()],
        )

    @contextmanager
    def signed(self, method: str, context: Context) -> Iterator[Visitor]:
        """From the call's arrival to its end. Its id is the caller's own, or else a new one, and
        goes back with the answer."""
        began = perf_counter()
        given = dict(context.invocation_metadata() or ())
        visitor = Visitor(_request_id(given))
        tracing.work_for(visitor.request_id)
        context.set_trailing_metadata(((REQUEST_ID, visitor.request_id),))
        span = self._span(method, given, visitor)
        try:
            yield visitor
        except (asyncio.CancelledError, GeneratorExit):
            visitor.code = "CANCELLED"  # by the caller, or by its deadline
            raise
        except ServiceError as error:
            visitor.code = error.code.name
            raise
        finally:
            self._metrics.rpc(method, visitor.code, perf_counter() - began)
            span.set_attribute("rpc.response.status_code", visitor.code)
            if visitor.code in _SERVERS_FAULT:
                span.set_status(Status(StatusCode.ERROR))
            span.end()

    def _span(self, method: str, given: Mapping[str, Any], visitor: Visitor) -> Span:
        traceparent = given.get("traceparent", "")
        span = self._tracer.start_span(
            method.lstrip("/"),
            tracing.context_of(traceparent if isinstance(traceparent, str) else ""),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system.name": "grpc",
                "rpc.method": method.lstrip("/"),
                "tillsync.request_id": visitor.request_id,
            },
        )
        tracing.work_in(span)
        return span


def _request_id(given: Mapping[str, Any]) -> str:
    theirs = given.get(REQUEST_ID)
    if isinstance(theirs, str) and _REQUEST_ID.fullmatch(theirs):
        return theirs
    return uuid4().hex
