"""FeedService: parse, call, render."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

from grpc.aio import ServicerContext

from tillsync.v1 import feed_service_pb2 as pb
from tillsync.v1.feed_service_pb2_grpc import FeedServiceServicer
from tillsync_service.feed import cursors, wire
from tillsync_service.feed.store import FeedStore
from tillsync_service.feed.streams import Feeds
from tillsync_service.foundation import identity


class FeedServicer(FeedServiceServicer):
    """For integrators, and for operators who may manage the tenant."""

    def __init__(self, store: FeedStore, feeds: Feeds) -> None:
        self._store = store
        self._feeds = feeds

    async def Subscribe(
        self,
        request: pb.SubscribeRequest,
        context: ServicerContext[pb.SubscribeRequest, pb.SubscribeResponse],
    ) -> AsyncIterator[pb.SubscribeResponse]:
        tenant_id = identity.feed_tenant(request.tenant_id)
        wanted = wire.wanted_of(request)
        consumer = wire.consumer_of(request.consumer) if request.consumer else ""
        if request.cursor:
            cursor = cursors.decoded(tenant_id, request.cursor)
        else:
            cursor = await self._store.start(tenant_id, consumer, from_head=request.from_head)
        render = partial(wire.page_message, tenant_id)
        pages = self._feeds.stream(tenant_id, cursor, wanted, render, live=request.live)
        async with aclosing(pages):
            async for page in pages:
                yield page
                del page  # the next one may be minutes away

    async def CommitCursor(
        self,
        request: pb.CommitCursorRequest,
        context: ServicerContext[pb.CommitCursorRequest, pb.CommitCursorResponse],
    ) -> pb.CommitCursorResponse:
        tenant_id = identity.feed_tenant(request.tenant_id)
        consumer = wire.consumer_of(request.consumer)
        cursor = cursors.decoded(tenant_id, request.cursor)
        committed = await self._store.commit(tenant_id, consumer, cursor, rewind=request.rewind)
        (message,) = wire.consumer_messages(committed)
        return pb.CommitCursorResponse(consumer=message)

    async def ListConsumers(
        self,
        request: pb.ListConsumersRequest,
        context: ServicerContext[pb.ListConsumersRequest, pb.ListConsumersResponse],
    ) -> pb.ListConsumersResponse:
        consumers = await self._store.consumers(identity.feed_tenant(request.tenant_id))
        return pb.ListConsumersResponse(
            consumers=wire.consumer_messages(consumers),
            head_position=consumers.head.position,
            history_id=str(consumers.head.history_id),
        )

    async def DeleteConsumer(
        self,
        request: pb.DeleteConsumerRequest,
        context: ServicerContext[pb.DeleteConsumerRequest, pb.DeleteConsumerResponse],
    ) -> pb.DeleteConsumerResponse:
        tenant_id = identity.feed_tenant(request.tenant_id)
        await self._store.delete(tenant_id, wire.consumer_of(request.consumer))
        return pb.DeleteConsumerResponse()
