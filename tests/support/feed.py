"""The feed behind a real socket, tills that store events, and a reader of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Self
from uuid import UUID

import asyncpg
import grpc

from support.builders import an_event, examined
from support.service import kept_in_order
from tillsync.v1 import feed_service_pb2 as pb
from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync.v1.event_pb2 import Event
from tillsync.v1.feed_service_pb2_grpc import FeedServiceStub, add_FeedServiceServicer_to_server
from tillsync_service.feed.heads import Heads
from tillsync_service.feed.servicer import FeedServicer
from tillsync_service.feed.store import FeedStore
from tillsync_service.feed.streams import Feeds
from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Database
from tillsync_service.foundation.doorkeeper import Doorkeeper
from tillsync_service.foundation.errors import Unauthenticated
from tillsync_service.foundation.identity import Device, Integrator, Operator
from tillsync_service.ingest.store import IngestStore


def integrator_as_token(tenant_id: UUID) -> str:
    return f"integrator {tenant_id}"


def operator_as_token(tenant_id: UUID | None = None) -> str:
    return f"operator {tenant_id or ''}"


class NamesAsToken:
    """An authenticator that believes every token of the two above while it is not spent."""

    def __init__(self) -> None:
        self.spent: set[str] = set()

    def authenticate(self, token: str) -> Integrator | Operator:
        if token in self.spent:
            raise Unauthenticated(
                "The token's time is over.", reason=ErrorReason.ERROR_REASON_TOKEN_EXPIRED
            )
        kind, _, tenant = token.partition(" ")
        if kind == "integrator":
            return Integrator(UUID(tenant), "erp")
        if kind == "operator":
            return Operator(UUID(tenant) if tenant else None, "test")
        raise Unauthenticated("Not a token.")


class Tills:
    """Store events through the ingest transaction."""

    def __init__(
        self, database: Database, stored: Callable[[UUID], None] = lambda _tenant_id: None
    ) -> None:
        self._store = IngestStore(database, stored)

    async def sell(self, device: Device, *events: Event) -> list[int]:
        """Their positions."""
        (receipt,) = await self._store.commit(device.tenant_id, [examined(device, *events)])
        return list(receipt.verdicts.positions)

    async def sell_many(self, device: Device, count: int, **fields: object) -> list[str]:
        """Their keys, in order."""
        events = [an_event(**fields) for _ in range(count)]
        for start in range(0, count, limits.MAX_BATCH_EVENTS):
            await self.sell(device, *events[start : start + limits.MAX_BATCH_EVENTS])
        return [event.key for event in events]


@dataclass
class FeedServed:
    """The service's end, in this process."""

    address: str
    store: FeedStore
    feeds: Feeds
    heads: Heads
    tills: Tills
    authenticator: NamesAsToken


@asynccontextmanager
async def feed_served(
    database: Database,
    *,
    page_bytes: int = limits.MAX_FEED_PAGE_BYTES,
    scan_events: int = limits.MAX_FEED_SCAN_EVENTS,
    wakes: bool = True,
    **settings: object,
) -> AsyncIterator[FeedServed]:
    """FeedService behind the doorkeeper, on a port of its own. `wakes`: its tills are in the same
    replica, and tell."""
    store = FeedStore(database, page_bytes=page_bytes, scan_events=scan_events)
    heads = Heads(store)
    feeds = Feeds(store, heads, **settings)
    authenticator = NamesAsToken()
    doorkeeper = Doorkeeper(authenticator)
    server = grpc.aio.server(interceptors=(doorkeeper,), options=(("grpc.so_reuseport", 0),))
    add_FeedServiceServicer_to_server(FeedServicer(store, feeds), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    polling = asyncio.create_task(heads.poll())
    tills = Tills(database, heads.wake if wakes else lambda _tenant_id: None)
    try:
        async with kept_in_order(doorkeeper):
            yield FeedServed(address, store, feeds, heads, tills, authenticator)
    finally:
        await server.stop(None)
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)


class Reader:
    """An integrator's side of the wire."""

    def __init__(self, address: str, token: str) -> None:
        self.channel = grpc.aio.insecure_channel(
            address, options=(("grpc.use_local_subchannel_pool", 1),)
        )
        self._metadata = (("authorization", f"Bearer {token}"),)
        self.stub = FeedServiceStub(self.channel)

    @classmethod
    def of(cls, address: str, tenant_id: UUID) -> Self:
        return cls(address, integrator_as_token(tenant_id))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    def call(self, request: pb.SubscribeRequest | None = None, **fields: object):
        """An open stream."""
        request = request or pb.SubscribeRequest(**fields)
        return self.stub.Subscribe(request, metadata=self._metadata, timeout=60)

    async def pages(self, **fields: object) -> AsyncIterator[pb.SubscribeResponse]:
        call = self.call(**fields)
        try:
            async for page in call:
                yield page
        finally:
            call.cancel()

    async def read(self, **fields: object) -> list[pb.SubscribeResponse]:
        """All pages until caught up."""
        async with aclosing(self.pages(**fields)) as pages:
            return [page async for page in pages]

    async def events(self, **fields: object) -> list[pb.FeedEvent]:
        return [event for page in await self.read(**fields) for event in page.events]

    async def keys(self, **fields: object) -> list[str]:
        return [event.event.key for event in await self.events(**fields)]

    async def commit(self, consumer: str, cursor: bytes, **fields: object) -> pb.FeedConsumer:
        request = pb.CommitCursorRequest(consumer=consumer, cursor=cursor, **fields)
        answer = await self.stub.CommitCursor(request, metadata=self._metadata, timeout=20)
        return answer.consumer

    async def consumers(self, **fields: object) -> pb.ListConsumersResponse:
        request = pb.ListConsumersRequest(**fields)
        return await self.stub.ListConsumers(request, metadata=self._metadata, timeout=20)

    async def delete(self, consumer: str, **fields: object) -> None:
        request = pb.DeleteConsumerRequest(consumer=consumer, **fields)
        await self.stub.DeleteConsumer(request, metadata=self._metadata, timeout=20)


async def declare_restored(migrator: asyncpg.Connection, tenant_id: UUID) -> str:
    """What `tillsync-service restored` does to the history; gives the new one."""
    return str(
        await migrator.fetchval(
            "UPDATE tillsync.tenant_head SET history_id = gen_random_uuid()"
            " WHERE tenant_id = $1 AND stream = 'event' RETURNING history_id",
            tenant_id,
        )
    )
