"""SyncService: parse, call, render."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime

from grpc.aio import ServicerContext

from tillsync.v1 import sync_service_pb2 as pb
from tillsync.v1.sync_service_pb2_grpc import SyncServiceServicer
from tillsync_service.foundation import identity
from tillsync_service.sync import cursors, mutations, wire
from tillsync_service.sync.edit_store import EditStore
from tillsync_service.sync.streams import Pulls


class SyncServicer(SyncServiceServicer):
    """For devices. `clock` gives the service's time, aware, in UTC."""

    def __init__(self, pulls: Pulls, edits: EditStore, clock: Callable[[], datetime]) -> None:
        self._pulls = pulls
        self._edits = edits
        self._clock = clock

    async def Pull(  # gRPC's name
        self,
        request: pb.PullRequest,
        context: ServicerContext[pb.PullRequest, pb.PullResponse],
    ) -> AsyncIterator[pb.PullResponse]:
        device = identity.current_device()
        cursor = cursors.decoded(device.tenant_id, request.cursor)
        reload = cursors.reload_of(request.reload_collections, cursor)
        steps = self._pulls.stream(device, cursor, reload, live=request.live)
        async with aclosing(steps):
            async for step in steps:
                yield wire.pull_response(device.tenant_id, step, self._clock())

    async def Push(
        self,
        request: pb.PushRequest,
        context: ServicerContext[pb.PushRequest, pb.PushResponse],
    ) -> pb.PushResponse:
        device = identity.current_device()
        edits = mutations.edits_of(request)
        receipt = await self._edits.push(device, request.epoch, edits)
        return wire.push_response(edits[0].sequence, receipt)
