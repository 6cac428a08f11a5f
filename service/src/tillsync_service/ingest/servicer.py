"""IngestService: parse, submit, render."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime

from grpc.aio import ServicerContext

from tillsync.v1 import ingest_service_pb2 as pb
from tillsync.v1.ingest_service_pb2_grpc import IngestServiceServicer
from tillsync_service.foundation import identity
from tillsync_service.ingest import wire
from tillsync_service.ingest.group_commit import GroupCommit
from tillsync_service.ingest.store import Receipt


class IngestServicer(IngestServiceServicer):
    """`clock` gives the service's time, aware, in UTC."""

    def __init__(self, group_commit: GroupCommit, clock: Callable[[], datetime]) -> None:
        self._group_commit = group_commit
        self._clock = clock

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
        batch = wire.examined(request, device, self._clock())
        return await self._group_commit.submit(device.tenant_id, batch)
