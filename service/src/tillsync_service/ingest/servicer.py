"""IngestService: parse, submit, render."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime
from functools import partial

from grpc.aio import ServicerContext

from tillsync.v1 import ingest_service_pb2 as pb
from tillsync.v1.ingest_service_pb2_grpc import IngestServiceServicer
from tillsync_service.foundation import identity, limits
from tillsync_service.foundation.streams import one_ahead
from tillsync_service.ingest import wire
from tillsync_service.ingest.batch import Batch
from tillsync_service.ingest.examine import examine
from tillsync_service.ingest.group_commit import GroupCommit
from tillsync_service.ingest.observing import Observer
from tillsync_service.ingest.store import Receipt


class IngestServicer(IngestServiceServicer):
    """`clock` gives the service's time, aware, in UTC."""

    def __init__(
        self,
        group_commit: GroupCommit,
        clock: Callable[[], datetime],
        observer: Observer | None = None,
    ) -> None:
        self._group_commit = group_commit
        self._clock = clock
        self._observer = observer or Observer()
        self._turn = asyncio.Lock()

    async def Ingest(  # gRPC's name
        self,
        request: pb.IngestRequest,
        context: ServicerContext[pb.IngestRequest, pb.IngestResponse],
    ) -> pb.IngestResponse:
        receipt = await self._store(await self._examined(request), "call")
        return wire.fill(pb.IngestResponse(), receipt, self._clock())

    async def IngestStream(
        self,
        request_iterator: AsyncIterator[pb.IngestStreamRequest],
        context: ServicerContext[pb.IngestStreamRequest, pb.IngestStreamResponse],
    ) -> AsyncIterator[pb.IngestStreamResponse]:
        # While one batch is answered the next is stored, and the one after it examined. None is
        # stored before the one before it is: a device's events keep their order, whatever happens.
        async with (
            aclosing(one_ahead(request_iterator, self._examined)) as batches,
            aclosing(one_ahead(batches, partial(self._store, source="stream"))) as receipts,
        ):
            async for receipt in receipts:
                yield wire.fill(pb.IngestStreamResponse(), receipt, self._clock())

    async def _store(self, batch: Batch, source: str) -> Receipt:
        with self._observer.batch(batch, source) as receipts:
            receipt = await self._group_commit.submit(batch.device.tenant_id, batch)
            receipts.append(receipt)
        return receipt

    async def _examined(self, request: pb.IngestRequest | pb.IngestStreamRequest) -> Batch:
        """One batch at a time, slice by slice: meanwhile a transaction holds a tenant's head row,
        and its next statement waits for this loop."""
        events, device, now = wire.events_of(request), identity.current_device(), self._clock()
        parts: list[Batch] = []
        async with self._turn:
            for start in range(0, len(events), limits.EXAMINE_SLICE_EVENTS):
                if parts:
                    await asyncio.sleep(0)
                stop = min(start + limits.EXAMINE_SLICE_EVENTS, len(events))
                parts.append(examine(events, device, now, range(start, stop)))
        return Batch.joined(parts)
