"""Tills on bad networks open and lose their streams all day: the service's memory stays flat."""

import asyncio
import os

import grpc
import psutil
import pytest

from support.service import ServiceProcess
from support.sync import HeadOffice
from tillsync.v1 import sync_service_pb2 as pb
from tillsync.v1.sync_service_pb2_grpc import SyncServiceStub

STREAMS = int(os.environ.get("TILLSYNC_TEST_SOAK_STREAMS", "20000"))
AT_ONCE = 50
# Flat: what the second half of the soak may add to what the first half has left.
MAY_GROW_BYTES = 8 << 20


@pytest.mark.timeout(300)
async def test_f38_streams_that_come_and_go_leave_nothing_behind(
    database, database_url, migrator, device, tmp_path
):
    """Twenty thousand live pulls are opened and cut off, some at once, some after their first
    message: the service needs as much memory after it as in the middle of it, and serves on."""
    office = HeadOffice(database, migrator, device.tenant_id)
    await office.define("price")
    await office.write("price", {"1": {"minor": 1}})
    async with ServiceProcess(database_url, tmp_path) as service:
        metadata = service.caller(device).metadata
        async with grpc.aio.insecure_channel(service.address) as channel:
            stub = SyncServiceStub(channel)

            async def come_and_go(number: int) -> None:
                call = stub.Pull(pb.PullRequest(live=True), metadata=metadata)
                if number % 4:
                    assert isinstance(await call.read(), pb.PullResponse)
                call.cancel()
                await asyncio.gather(call.code(), return_exceptions=True)

            async def soak(streams: int) -> int:
                for start in range(0, streams, AT_ONCE):
                    await asyncio.gather(*(come_and_go(start + n) for n in range(AT_ONCE)))
                return psutil.Process(service.pid).memory_info().rss

            middle = await soak(STREAMS // 2)
            end = await soak(STREAMS // 2)

            assert end - middle < MAY_GROW_BYTES
            call = stub.Pull(pb.PullRequest(), metadata=metadata, timeout=20)
            assert [message.HasField("checkpoint") async for message in call][-1]
