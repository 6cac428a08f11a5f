"""What a connected till hears while others are busy, slow or many."""

import asyncio
from contextlib import aclosing, asynccontextmanager
from uuid import uuid4

import pytest

from support.polling import eventually
from support.sync import HeadOffice, PullingDevice, sync_served
from tillsync.v1.sync_service_pb2 import LoadReason


@pytest.fixture
async def office(database, migrator, device):
    office = HeadOffice(database, migrator, device.tenant_id)
    await office.define("product")
    return office


@asynccontextmanager
async def live(till):
    """A till that listens, and what comes after its first checkpoint."""

    async def listen():
        async for _ in till.responses(live=True):
            pass

    listening = asyncio.create_task(listen())
    await eventually(lambda: till.copy.version)
    try:
        yield listening
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def test_a_till_is_not_left_in_silence_while_another_store_is_busy(
    database, database_url, office, device
):
    """Another store edits without pause: this store's till hears that its link lives all the same,
    and does not take it for dead."""
    async with (
        sync_served(database, database_url, heartbeat_seconds=0.3) as served,
        PullingDevice(served.address, device) as till,
    ):
        office.changed = served.wakeups.tell
        there = uuid4()
        async with live(till):
            heard = len(till.copy.received)
            for number in range(1000):
                await office.write("product", {"x": {"n": number}}, scope=there)
                if len(till.copy.received) > heard + 2:
                    break
                await asyncio.sleep(0.02)

    assert len(till.copy.received) > heard + 2


async def test_a_till_that_takes_nothing_holds_up_no_other(
    database, database_url, office, device, books
):
    """A till opens its first load and reads none of it: the others wait for its place, hear
    meanwhile that the service lives, and get it."""
    filling = "x" * 1000
    for block in range(10):
        await office.write("product", {f"{block}-{n}": {"f": filling} for n in range(2_000)})
    other = await books.enrol()
    async with (
        sync_served(
            database, database_url, max_behind=1, heartbeat_seconds=0.1, patience_seconds=0.5
        ) as served,
        PullingDevice(served.address, device) as slow,
        PullingDevice(served.address, other) as quick,
        aclosing(slow.responses()) as unread,
    ):
        await anext(unread)
        await asyncio.wait_for(quick.pull(), 20)
        assert not quick.copy.received[0].HasField("checkpoint")  # a word while it waited

        # And the slow one, when it reads on, ends with everything.
        async for _ in unread:
            pass
        await slow.pull()
        assert slow.copy.records == await office.records(device.store_id)


async def test_a_place_is_free_again_when_a_slow_till_hangs_up(
    database, database_url, office, device
):
    """A till hangs up in the middle of its load: whoever comes next has its place at once."""
    filling = "x" * 1000
    for block in range(10):
        await office.write("product", {f"{block}-{n}": {"f": filling} for n in range(2_000)})
    async with (
        sync_served(database, database_url, max_behind=1, patience_seconds=60) as served,
        PullingDevice(served.address, device) as till,
    ):
        for _ in range(3):
            await asyncio.wait_for(till.pull_some(1, cursor=b""), 10)


async def test_i11_a_live_till_hears_that_the_service_was_restored_from_whoever_comes_first(
    database, database_url, office, device
):
    """The service is restored under live tills, and another till comes before anybody has looked:
    those that were there are told all the same."""
    await office.write("product", {"x": {"n": 1}})
    async with (
        sync_served(database, database_url, heartbeat_seconds=0.2) as served,
        PullingDevice(served.address, device) as first,
        PullingDevice(served.address, device) as second,
        live(first),
    ):
        tails = served.tails._tails
        await eventually(lambda: tails and not tails[device.tenant_id].reading)
        await office.restored()
        async with live(second):
            await office.write("product", {"x": {"n": 2}})
            served.tails.wake(None)
            await eventually(lambda: first.copy.records == second.copy.records != {})
            await eventually(lambda: LoadReason.LOAD_REASON_HISTORY_CHANGED in first.copy.loads)


async def test_many_changes_at_once_fit_into_what_a_till_takes(
    database, database_url, office, device
):
    """Head office writes four megabytes in letters that take two bytes each: no message to a live
    till is larger than a till can take, and its stream goes on."""
    records = {f"{n:0199}": {"fill": "\u017c" * 1030} for n in range(1950)}
    async with (
        sync_served(database, database_url) as served,
        PullingDevice(served.address, device) as till,
    ):
        office.changed = served.wakeups.tell
        async with live(till) as listening:
            await office.write("product", records)
            await eventually(lambda: len(till.copy.records) == 1950 or listening.done())
            assert not listening.done()
