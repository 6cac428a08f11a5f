"""IngestService: parse, submit, render."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime

from grpc.aio import ServicerContext

from tillsync.v1 import ingest_service_pb2 as pb
from tillsync.v1.event_pb2 import Event
from tillsync.v1.ingest_service_pb2_grpc import IngestServiceServicer
from tillsync_service.foundation import identity, limits
from tillsync_service.foundation.identity import Device
from tillsync_service.ingest import wire
from tillsync_service.ingest.examine import Batch, examine
from tillsync_service.ingest.group_commit import GroupCommit
from tillsync_service.ingest.store import Receipt


class IngestServicer(IngestServiceServicer):
    """`clock` gives the service's time, aware, in UTC."""

    def __init__(self, group_commit: GroupCommit, clock: Callable[[], datetime]) -> None:
        self._group_commit = group_commit
        self._clock = clock
        self._turn = asyncio.Lock()

    async def Ingest(  # gRPC's name
        self,
        request: pb.IngestRequest,
        context: ServicerContext[pb.IngestRequest, pb.IngestResponse],
    ) -> pb.IngestResponse:
        receipt = await self._store(request)
        return wire.fill(pb.IngestResponse(), receipt, self._clock())

    async def IngestStream(
        self,
        request_iterator: AsyncIterator[pb.IngestStreamRequest],
        context: ServicerContext[pb.IngestStreamRequest, pb.IngestStreamResponse],
    ) -> AsyncIterator[pb.IngestStreamResponse]:
        async for request in request_iterator:
            receipt = await self._store(request)
            yield wire.fill(pb.IngestStreamResponse(), receipt, self._clock())

    async def _store(self, request: pb.IngestRequest | pb.IngestStreamRequest) -> Receipt:
        device = identity.current_device()
        batch = await self._examined(wire.events_of(request), device)
        return await self._group_commit.submit(device.tenant_id, batch)

    async def _examined(self, events: Sequence[Event], device: Device) -> Batch:
        """One batch at a time, slice by slice: meanwhile a transaction holds a tenant's head row,
        and its next statement waits for this loop."""
        now = self._clock()
        parts: list[Batch] = []
        async with self._turn:
            for start in range(0, len(events), limits.EXAMINE_SLICE_EVENTS):
                if parts:
                    await asyncio.sleep(0)
                part = events[start : start + limits.EXAMINE_SLICE_EVENTS]
                parts.append(examine(part, device, now))
        return Batch.joined(parts)
