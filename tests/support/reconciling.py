"""Ingest and Reconcile behind a real socket, and a till that knows what it recorded."""

import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import grpc

from support.builders import BUSINESS_DAY
from support.service import OPTIONS, Caller, IdsAsToken, ids_as_token, kept_in_order
from tillsync.v1 import reconcile_service_pb2 as pb
from tillsync.v1.event_pb2 import Event
from tillsync.v1.ingest_service_pb2_grpc import add_IngestServiceServicer_to_server
from tillsync.v1.reconcile_service_pb2_grpc import (
    ReconcileServiceStub,
    add_ReconcileServiceServicer_to_server,
)
from tillsync_service.books.servicer import ReconcileServicer
from tillsync_service.books.store import ReconcileStore
from tillsync_service.databases import utc_now
from tillsync_service.foundation.db import Database
from tillsync_service.foundation.doorkeeper import Doorkeeper
from tillsync_service.foundation.identity import Device
from tillsync_service.ingest.group_commit import GroupCommit
from tillsync_service.ingest.servicer import IngestServicer
from tillsync_service.ingest.store import IngestStore

EPOCH = 7  # that of builders.an_event


class ReconcilingTill(Caller):
    """A device that offers events and asks whether all are there."""

    def __init__(self, address: str, device: Device, token: str = "") -> None:
        super().__init__(address, token or ids_as_token(device))
        self.device = device
        self._reconciling = ReconcileServiceStub(self.channel)

    async def reconcile(
        self,
        *,
        last: int | None = None,
        days: Iterable[pb.DayClaim] = (),
        spans: Iterable[tuple[int, int]] = (),
    ) -> pb.ReconcileResponse:
        """Claims that the outbox EPOCH counted up to `last`; asks for spans of it."""
        request = pb.ReconcileRequest(days=days)
        if last is not None:
            request.outboxes.add(epoch=EPOCH, last_sequence=last)
        for first, end in spans:
            request.spans.add(epoch=EPOCH, first=first, last=end)
        return await self.ask(request)

    async def ask(self, request: pb.ReconcileRequest) -> pb.ReconcileResponse:
        return await self._reconciling.Reconcile(request, metadata=self.metadata, timeout=30)


@asynccontextmanager
async def reconciling_served(database: Database) -> AsyncIterator[str]:
    """Its address."""
    doorkeeper = Doorkeeper(IdsAsToken())
    server = grpc.aio.server(interceptors=(doorkeeper,), options=OPTIONS)
    ingest = IngestServicer(GroupCommit(IngestStore(database)), utc_now)
    add_IngestServiceServicer_to_server(ingest, server)
    add_ReconcileServiceServicer_to_server(
        ReconcileServicer(ReconcileStore(database), utc_now), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with kept_in_order(doorkeeper):
            yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def digest_of(*events: Event) -> bytes:
    """The digests' sum of events, as the contract states it."""
    sums = (
        hashlib.sha256(event.body.type_url.encode() + b"\0" + event.body.value).digest()[:16]
        for event in events
    )
    return (sum(int.from_bytes(one, "big") for one in sums) % 2**128).to_bytes(16, "big")


def a_book(*events: Event, currency: str = "USD") -> pb.DayBook:
    """What the events come to in the currency."""
    money = sum(
        amount.minor_units
        for event in events
        for amount in event.amounts
        if amount.currency == currency
    )
    return pb.DayBook(
        currency=currency,
        event_count=len(events),
        amount_minor=str(money),
        digest=digest_of(*events),
    )


def a_day(*events: Event, close: bool = False, day: str = BUSINESS_DAY) -> pb.DayClaim:
    """The claim of a day in one currency."""
    return pb.DayClaim(business_day=day, books=[a_book(*events)] if events else (), close=close)


def spans_of(spans: Iterable[pb.SequenceSpan]) -> list[tuple[int, int]]:
    return [(span.first, span.last) for span in spans]
