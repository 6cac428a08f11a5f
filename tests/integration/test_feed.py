"""What an integrator reads: every event of its tenant, in order, from wherever it stopped."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import grpc
import pytest
from google.protobuf.any_pb2 import Any

from support.builders import an_event
from support.feed import Reader, feed_served
from support.polling import eventually
from tillsync.v1.event_pb2 import EventFlag
from tillsync_service.foundation import limits

SALE = "type.googleapis.com/tillsync.v1.Sale"
OTHER = "type.example.com/stock.Counted"


@pytest.fixture
async def served(database):
    async with feed_served(database) as served:
        yield served


@pytest.fixture
async def reader(served, device):
    async with Reader.of(served.address, device.tenant_id) as reader:
        yield reader


async def test_an_integrator_gets_every_event_as_the_till_sent_it(served, reader, device):
    """The ERP books what the till recorded: key, body to the byte, money, day, times and numbers
    are those of the sale."""
    sale = an_event(
        number=3,
        amounts=(("USD", 1250), ("EUR", -5), ("EUR", -6)),
        clock_offset_ms=-40,
        traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01",
        occurred_at=datetime(1969, 12, 31, 23, 59, 59, 123456, tzinfo=UTC),
    )
    unknown = an_event(amounts=(), body=Any(type_url=OTHER, value=bytes(range(256))))
    bare = an_event(amounts=(), occurred_at=None, business_day="")
    began = datetime.now(UTC)
    await served.tills.sell(device, sale, unknown, bare)

    (page,) = await reader.read()

    expected = an_event(sale.key, amounts=())
    expected.CopyFrom(sale)
    del expected.amounts[:]
    expected.amounts.add(currency="EUR", minor_units=-11)
    expected.amounts.add(currency="USD", minor_units=1250)
    first, second, third = page.events
    first.event.amounts.sort(key=lambda amount: amount.currency)
    assert [first.event, second.event, third.event] == [expected, unknown, bare]
    assert [event.position for event in page.events] == [1, 2, 3]
    assert {(event.store_id, event.device_id) for event in page.events} == {
        (str(device.store_id), str(device.device_id))
    }
    assert abs(first.received_at.ToDatetime(tzinfo=UTC) - began) < timedelta(seconds=30)
    assert EventFlag.EVENT_FLAG_CLOCK_IMPLAUSIBLE in first.flags
    assert set(third.flags) == {
        EventFlag.EVENT_FLAG_CLOCK_ABSENT,
        EventFlag.EVENT_FLAG_DAY_UNDECLARED,
    }
    assert (page.head_position, page.caught_up) == (3, True)


async def test_money_beyond_what_one_amount_holds_still_adds_up(served, reader, device):
    """A device declares the largest amount three times in one currency: the feed goes on, and the
    entries add up to what the books count."""
    largest = 2**63 - 1
    sale = an_event(amounts=(("USD", largest), ("USD", largest), ("USD", largest)))
    await served.tills.sell(device, sale, an_event("after"))

    first, second = await reader.events()

    assert sum(amount.minor_units for amount in first.event.amounts) == 3 * largest
    assert second.event.key == "after"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 5000])
async def test_no_page_size_loses_or_repeats_an_event(served, reader, device, size):
    """However the history is cut into pages, and wherever reading stops, each event comes once."""
    keys = await served.tills.sell_many(device, 7)

    pages = await reader.read(page_size=size)

    assert [event.event.key for page in pages for event in page.events] == keys
    assert all(len(page.events) <= size for page in pages)
    for number, page in enumerate(pages, start=1):
        assert await reader.keys(cursor=page.cursor) == keys[number * size :]


async def test_a_page_is_no_larger_than_grpc_takes(database, device):
    """Megabyte bodies and the longest of keys: every page fits into a message with gRPC's own
    limit, and nothing is left out."""
    events = [
        an_event(key=f"{n}" + "é" * 190, body=Any(type_url=OTHER, value=b"x" * size))
        for n, size in enumerate([1024 * 1024, 10, 1024 * 1024, 400_000, 400_000, 10])
    ]
    many = [an_event(key=f"{n:04}" + "漢" * 196, amounts=()) for n in range(1000)]
    async with (
        feed_served(database) as served,
        Reader.of(served.address, device.tenant_id) as reader,
    ):
        for event in events:
            await served.tills.sell(device, event)
        await served.tills.sell(device, *many)
        pages = await reader.read(page_size=5000)

    assert [e.event.key for page in pages for e in page.events] == [e.key for e in events + many]
    assert max(page.ByteSize() for page in pages) < 2 * 1024 * 1024
    assert len(pages) < 10


async def test_a_filter_leaves_out_what_it_says(served, reader, device, books):
    """The warehouse wants one store's stock counts of an hour: it gets those and nothing else."""
    other_till = await books.enrol(device.tenant_id)
    count = Any(type_url=OTHER, value=b"1")
    await served.tills.sell(device, an_event("a"), an_event("b", body=count))
    await served.tills.sell(other_till, an_event("c"), an_event("d", body=count))
    first, *_ = await reader.events()
    earlier = first.received_at.ToDatetime() - timedelta(hours=1)
    later = first.received_at.ToDatetime() + timedelta(hours=1)
    here, nowhere = str(device.store_id), str(uuid4())

    assert await reader.keys(filter={"type_urls": [OTHER]}) == ["b", "d"]
    assert await reader.keys(filter={"type_urls": [OTHER, SALE]}) == ["a", "b", "c", "d"]
    assert await reader.keys(filter={"store_ids": [here, nowhere]}) == ["a", "b"]
    assert await reader.keys(filter={"store_ids": [here], "type_urls": [OTHER]}) == ["b"]
    assert await reader.keys(filter={"received_from": later}) == []
    assert await reader.keys(filter={"received_before": earlier}) == []
    window = {"received_from": earlier, "received_before": later}
    assert await reader.keys(filter=window) == ["a", "b", "c", "d"]


async def test_a_page_without_matches_moves_the_cursor(database, device):
    """The archive wants a rare kind: it is told how far the search has come, in steps that no
    statement takes too long for, and it never searches the same part twice."""
    async with (
        feed_served(database, scan_events=10) as served,
        Reader.of(served.address, device.tenant_id) as reader,
    ):
        await served.tills.sell_many(device, 25)
        await served.tills.sell(device, an_event("rare", body=Any(type_url=OTHER)))
        pages = await reader.read(filter={"type_urls": [OTHER]})
        rest = [await reader.keys(cursor=page.cursor) for page in pages]

    assert [len(page.events) for page in pages] == [0, 0, 1]
    assert [len(keys) for keys in rest] == [16, 6, 0]


async def test_a_live_reader_hears_of_a_sale_at_once(served, reader, device):
    """The ERP is connected: a sale is there as soon as it is stored, and a short silence is not
    taken for the end."""
    await served.tills.sell(device, an_event("before"))
    async with aclosing(reader.pages(live=True)) as pages:
        first = await anext(pages)
        await served.tills.sell(device, an_event("after"))
        second = await asyncio.wait_for(anext(pages), 10)

    assert first.caught_up
    assert second.caught_up
    assert [event.event.key for event in second.events] == ["after"]


async def test_a_live_reader_hears_of_what_another_replica_stored(database, device):
    """Sales come in through another replica, which tells nobody: they are found all the same."""
    async with (
        feed_served(database, wakes=False) as served,
        Reader.of(served.address, device.tenant_id) as reader,
        aclosing(reader.pages(live=True, from_head=True)) as pages,
    ):
        await anext(pages)
        for number in range(3):
            await served.tills.sell(device, an_event(f"{number}"))
            page = await asyncio.wait_for(anext(pages), 10)
            assert [event.event.key for event in page.events] == [f"{number}"]


async def test_a_live_reader_of_another_kind_is_told_how_far_it_is(database, device):
    """Only sales come, and the reader wants stock counts: its cursor moves on with them all the
    same, and says so now and then."""
    async with (
        feed_served(database, heartbeat_seconds=0.3) as served,
        Reader.of(served.address, device.tenant_id) as reader,
        aclosing(reader.pages(live=True, filter={"type_urls": [OTHER]})) as pages,
    ):
        await anext(pages)
        await served.tills.sell_many(device, 5)
        page = await eventually(lambda: _next_at(pages, 5))

        assert page.caught_up
        assert not page.events
        assert await reader.keys(cursor=page.cursor) == []


async def _next_at(pages, head_position):
    page = await asyncio.wait_for(anext(pages), 10)
    return page if page.head_position == head_position else None


async def test_a_silent_stream_says_that_it_lives(database, device):
    """Nothing is sold at night: the reader hears that its link lives, and need not guess."""
    async with (
        feed_served(database, heartbeat_seconds=0.2) as served,
        Reader.of(served.address, device.tenant_id) as reader,
        aclosing(reader.pages(live=True)) as pages,
    ):
        for _ in range(3):
            page = await asyncio.wait_for(anext(pages), 10)
            assert not page.events
            assert page.caught_up


async def test_a_stream_ends_after_its_time(database, device):
    """A stream is not for ever: it ends with OK, and goes on from its last cursor."""
    async with (
        feed_served(database, max_seconds=0.5) as served,
        Reader.of(served.address, device.tenant_id) as reader,
    ):
        pages = await asyncio.wait_for(reader.read(live=True), 10)
        await served.tills.sell(device, an_event("later"))
        again = await asyncio.wait_for(reader.read(live=True, cursor=pages[-1].cursor), 10)

    assert pages[-1].caught_up
    assert [event.event.key for page in again for event in page.events] == ["later"]


async def test_a_reader_may_begin_with_what_comes_next(served, reader, device):
    """A new integration does not want ten years of sales: it begins at the head."""
    await served.tills.sell_many(device, 3)

    (page,) = await reader.read(from_head=True)

    assert not page.events
    await served.tills.sell(device, an_event("next"))
    assert await reader.keys(cursor=page.cursor) == ["next"]


async def test_events_that_are_kept_no_more_are_passed_over(served, reader, device, migrator):
    """Old events were pruned: a reader from the beginning gets those that are there."""
    keys = await served.tills.sell_many(device, 5)
    await migrator.execute("DELETE FROM tillsync.event WHERE position IN (1, 2, 4)")

    assert await reader.keys() == [keys[2], keys[4]]


async def test_nothing_of_another_tenant_is_sent(served, reader, device, books):
    """Two retailers on one service: each reads its own sales, whatever it filters by."""
    stranger = await books.enrol()
    await served.tills.sell(stranger, an_event("theirs"))
    await served.tills.sell(device, an_event("ours"))

    assert await reader.keys() == ["ours"]
    assert await reader.keys(filter={"store_ids": [str(stranger.store_id)]}) == []
    async with Reader.of(served.address, stranger.tenant_id) as theirs:
        assert await theirs.keys() == ["theirs"]


async def test_a_reader_that_takes_nothing_holds_up_nobody(database, device, monkeypatch):
    """An ERP opens as many feeds as it may and reads none of them: another reads to the end, and
    the service holds two pages for each and no more."""
    monkeypatch.setattr(limits, "MAX_FEED_STREAMS_PER_TENANT", 4)
    body = Any(type_url=OTHER, value=b"x" * 50_000)
    async with (
        feed_served(database) as served,
        Reader.of(served.address, device.tenant_id) as slow,
        Reader.of(served.address, device.tenant_id) as quick,
    ):
        keys = await served.tills.sell_many(device, 150, body=body)
        read, page = [], served.store.page

        async def counted(*arguments):
            read.append(arguments[1].position)
            return await page(*arguments)

        served.store.page = counted
        unread = [slow.call(page_size=10) for _ in range(3)]
        for call in unread:
            await call.read()
        # As far as gRPC takes messages on; then nothing moves.
        before = await eventually(lambda: _settled(read))

        assert await asyncio.wait_for(quick.keys(), 30) == keys
        assert before < 3 * 15
        for call in unread:
            call.cancel()
        await eventually(lambda: served.feeds._open_streams == 0)


async def _settled(read):
    before = len(read)
    await asyncio.sleep(0.3)
    return before if len(read) == before else None


async def test_a_tenant_opens_no_more_feeds_than_it_may(database, device, books, monkeypatch):
    """A program that opens feeds in a loop is told to come again; its neighbour is not."""
    monkeypatch.setattr(limits, "MAX_FEED_STREAMS_PER_TENANT", 2)
    neighbour = await books.enrol()
    seen = []
    async with (
        feed_served(database, observe=seen.append) as served,
        Reader.of(served.address, device.tenant_id) as reader,
        Reader.of(served.address, neighbour.tenant_id) as other,
        aclosing(reader.pages(live=True)) as first,
        aclosing(reader.pages(live=True)) as second,
    ):
        await anext(first)
        await anext(second)

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await reader.read()

        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await other.read()
        await first.aclose()
        await eventually(lambda: seen[-1] == 1)
        await reader.read()
