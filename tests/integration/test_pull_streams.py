"""Live streams end at a stop, and say things in sizes that can be taken."""

import asyncio
from uuid import UUID

import grpc
import pytest

from support.fleet import app_served
from support.service import failure_of
from support.sync import HeadOffice
from tillsync.v1 import sync_service_pb2 as pb
from tillsync.v1.sync_service_pb2_grpc import SyncServiceStub
from tillsync_service.app import App
from tillsync_service.databases import token_issuer


@pytest.fixture
async def fleet(database_url, tmp_path):
    async with app_served(database_url, tmp_path) as fleet:
        yield fleet


async def a_live_pull(channel, token):
    """A stream that has had its checkpoint and waits for news."""
    metadata = (("authorization", f"Bearer {token}"),)
    call = SyncServiceStub(channel).Pull(pb.PullRequest(live=True), metadata=metadata, timeout=60)
    while not (await call.read()).HasField("checkpoint"):
        pass
    return call


async def test_a_revoked_till_hears_no_more_prices(fleet):
    """A till is stolen and revoked while its stream is open: the stream ends within seconds, also
    while nothing changes."""
    till = await fleet.an_enrolled_till()
    call = await a_live_pull(fleet.channel, (await till.issue()).access_token)

    await fleet.operator().call(
        "RevokeDevice", tenant_id=till.identity.tenant_id, device_id=till.identity.device_id
    )

    failure = await failure_of(asyncio.wait_for(call.read(), 20))
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "DEVICE_REVOKED",
    )


async def test_a_stop_does_not_wait_for_live_streams(settings, device):
    """The service is updated while tills are connected: their streams are told to come again, and
    the stop says that nothing was cut."""
    async with App(settings) as app, grpc.aio.insecure_channel(app.address) as channel:
        token, _ = token_issuer(settings).device_token(device)
        calls = [await a_live_pull(channel, token) for _ in range(3)]

        report = await app.stop()

        assert (report.outcome, report.calls_cut) == ("drained", 0)
        assert report.seconds < 10
        for call in calls:
            failure = await failure_of(asyncio.wait_for(call.read(), 20))
            assert failure.code is grpc.StatusCode.UNAVAILABLE


async def test_a_live_till_is_told_in_messages_that_it_can_take(fleet, database, migrator):
    """Head office changes many long records in a few seconds: a connected till hears of all of
    them, in messages of a size that gRPC takes."""
    till = await fleet.an_enrolled_till()
    office = HeadOffice(database, migrator, UUID(till.identity.tenant_id))
    await office.define("text")
    call = await a_live_pull(fleet.channel, (await till.issue()).access_token)
    for number in range(80):
        await office.write("text", {f"t{number}": {"text": "x" * 60_000}})

    seen = set()
    while len(seen) < 80:
        message = await asyncio.wait_for(call.read(), 20)
        assert message.ByteSize() < 2_000_000
        seen |= {id_ for block in message.blocks for id_ in block.record_ids}
