"""How far named consumers have come, what is refused, and what becomes of them at a restore."""

import asyncio
from contextlib import aclosing
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest
from google.protobuf.any_pb2 import Any

from support.builders import an_event
from support.feed import (
    Reader,
    Tills,
    declare_restored,
    feed_served,
    integrator_as_token,
    operator_as_token,
)
from support.fleet import app_served
from support.polling import eventually
from support.service import Caller, failure_of, ids_as_token
from tillsync.v1 import feed_service_pb2 as pb
from tillsync.v1.admin_service_pb2 import ListTenantsRequest
from tillsync.v1.admin_service_pb2_grpc import AdminServiceStub
from tillsync.v1.feed_service_pb2_grpc import FeedServiceStub
from tillsync_service.app import App
from tillsync_service.config import Settings
from tillsync_service.databases import token_issuer
from tillsync_service.feed import cursors
from tillsync_service.feed.cursors import Cursor
from tillsync_service.feed.lag import LagWatch
from tillsync_service.fleet.keys import create_key_file
from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Database


@pytest.fixture
async def served(database):
    async with feed_served(database) as served:
        yield served


@pytest.fixture
async def reader(served, device):
    async with Reader.of(served.address, device.tenant_id) as reader:
        yield reader


async def sold(served, reader, device, count=5):
    """The keys of some sales, and the cursors after each of them."""
    keys = await served.tills.sell_many(device, count)
    return keys, [page.cursor for page in await reader.read(page_size=1)]


async def test_a_consumer_goes_on_where_it_committed(served, reader, device):
    """The ERP was restarted on another machine: by its name it goes on after what it booked."""
    keys, after = await sold(served, reader, device)

    committed = await reader.commit("erp", after[1])

    assert (committed.name, committed.position, committed.lag_events) == ("erp", 2, 3)
    assert await reader.keys(consumer="erp") == keys[2:]
    assert await reader.keys(consumer="archive") == keys
    assert await reader.keys(consumer="erp", cursor=after[3]) == keys[4:]
    assert await reader.keys(consumer="archive", from_head=True) == []
    assert await reader.keys(consumer="erp", from_head=True) == keys[2:]


async def test_a_consumer_goes_back_only_where_it_says_so(served, reader, device):
    """A commit that was on its way for too long does not make the ERP book everything again; a
    person who wants that can say it."""
    keys, after = await sold(served, reader, device)
    await reader.commit("erp", after[3])

    late = await failure_of(reader.commit("erp", after[1]))
    same = await reader.commit("erp", after[3])

    assert (late.code, late.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CURSOR_BEHIND")
    assert same.position == 4
    assert await reader.keys(consumer="erp") == keys[4:]
    assert (await reader.commit("erp", after[0], rewind=True)).position == 1
    assert await reader.keys(consumer="erp") == keys[1:]


async def test_consumers_are_listed_and_deleted(served, reader, device):
    """An operator sees who reads and how far behind, and forgets the one that was switched off."""
    _, after = await sold(served, reader, device)
    await reader.commit("warehouse", after[4])
    await reader.commit("erp", after[1])

    listed = await reader.consumers()

    assert [(c.name, c.position, c.lag_events) for c in listed.consumers] == [
        ("erp", 2, 3),
        ("warehouse", 5, 0),
    ]
    assert all(c.committed_at.seconds for c in listed.consumers)
    assert listed.head_position == 5
    await reader.delete("erp")
    assert [c.name for c in (await reader.consumers()).consumers] == ["warehouse"]
    assert (await failure_of(reader.delete("erp"))).reason == "NOT_FOUND"


async def test_a_tenant_has_no_more_consumers_than_it_may(served, reader, device, monkeypatch):
    """A program that invents a name at each start is told, and those that are there go on."""
    monkeypatch.setattr(limits, "MAX_FEED_CONSUMERS", 2)
    _, after = await sold(served, reader, device)
    await reader.commit("one", after[0])
    await reader.commit("two", after[0])

    failure = await failure_of(reader.commit("three", after[0]))

    assert (failure.code, failure.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "STATE_FORBIDS",
    )
    assert (await reader.commit("two", after[1])).position == 2


async def test_f35_a_commit_that_fails_once_skips_nothing_and_sticks_nowhere(
    database_url, device, admin_database_url, monkeypatch
):
    """The ERP books a page and its commit times out in the database. It is told so, starts again
    where it last committed, books nothing less, and commits as ever from then on."""
    monkeypatch.setattr(limits, "LOCK_TIMEOUT_MS", 200)
    database = await Database.connect(database_url)
    holder = await asyncpg.connect(admin_database_url)
    try:
        async with (
            feed_served(database) as served,
            Reader.of(served.address, device.tenant_id) as reader,
        ):
            keys, after = await sold(served, reader, device, 6)
            await reader.commit("erp", after[1])
            async with holder.transaction():
                await holder.execute("SELECT FROM tillsync.feed_consumer FOR UPDATE")
                failed = await failure_of(reader.commit("erp", after[3]))

            assert (failed.code, failed.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "DATABASE_UNAVAILABLE",
            )
            assert failed.pushback_ms
            assert await reader.keys(consumer="erp") == keys[2:]
            for number in (3, 4, 5):
                assert (await reader.commit("erp", after[number])).position == number + 1
                assert await reader.keys(consumer="erp") == keys[number + 1 :]
    finally:
        await holder.close()
        await database.close()


async def test_two_commits_at_once_end_at_the_later_place(served, reader, device):
    """Two machines run the same consumer by mistake: whichever commit comes last, the consumer does
    not go back."""
    keys, after = await sold(served, reader, device)
    for _ in range(10):
        await reader.commit("erp", after[0], rewind=True)
        await asyncio.gather(
            *(reader.commit("erp", after[n]) for n in (3, 1, 4, 2)), return_exceptions=True
        )
        assert await reader.keys(consumer="erp") == keys[5:]


async def test_a_read_that_fails_costs_a_repeat(
    database_url, device, admin_database_url, monkeypatch
):
    """The database does not answer in time while the ERP reads: its stream ends as UNAVAILABLE, and
    it goes on from its last page and misses nothing."""
    monkeypatch.setattr(limits, "LOCK_TIMEOUT_MS", 200)
    database = await Database.connect(database_url)
    holder = await asyncpg.connect(admin_database_url)
    try:
        async with (
            feed_served(database) as served,
            Reader.of(served.address, device.tenant_id) as reader,
        ):
            keys, after = await sold(served, reader, device)
            async with holder.transaction():
                await holder.execute("LOCK TABLE tillsync.event")
                failure = await failure_of(reader.read(cursor=after[1]))
            assert (failure.code, failure.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "DATABASE_UNAVAILABLE",
            )
            assert failure.pushback_ms
            assert await reader.keys(cursor=after[1]) == keys[2:]
    finally:
        await holder.close()
        await database.close()


def tampered(tenant_id, history_id):
    """Cursors that nobody was given, by what is wrong with them."""
    good = cursors.encoded(tenant_id, Cursor(history_id, 2))
    return {
        "cut off": good[:-1],
        "longer": good + b"\0",
        "another place": good[:-1] + bytes([good[-1] ^ 1]),
        "another check": bytes([good[0] ^ 1]) + good[1:],
        "garbage": b"garbage",
        "large": b"\xff" * 100_000,
        "another tenant's": cursors.encoded(uuid4(), Cursor(history_id, 2)),
        "from the future": cursors.encoded(tenant_id, Cursor(history_id, 6)),
        "negative": cursors.encoded(tenant_id, Cursor(history_id, -1)),
    }


async def test_cursors_that_are_none_are_refused_by_name(served, reader, device):
    """A file was cut off, copied from another shop, or edited: the reader is told, and nothing is
    skipped in silence."""
    await sold(served, reader, device)
    history_id = UUID((await reader.consumers()).history_id)
    for name, cursor in tampered(device.tenant_id, history_id).items():
        for call in (reader.read(cursor=cursor), reader.commit("erp", cursor)):
            failure = await failure_of(call)
            assert failure.code is grpc.StatusCode.INVALID_ARGUMENT, name
            assert failure.reason == "CURSOR_INVALID", name
            assert failure.details["BadRequest"].field_violations[0].field == "cursor", name
    assert not (await reader.consumers()).consumers


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"page_size": -1}, "page_size"),
        ({"page_size": 5001}, "page_size"),
        ({"consumer": " "}, "consumer"),
        ({"consumer": "a\0b"}, "consumer"),
        ({"consumer": "x" * 101}, "consumer"),
        ({"tenant_id": "erp"}, "tenant_id"),
        ({"filter": {"type_urls": [""]}}, "filter.type_urls"),
        ({"filter": {"type_urls": ["a\0"]}}, "filter.type_urls"),
        ({"filter": {"type_urls": ["t"] * 51}}, "filter.type_urls"),
        ({"filter": {"store_ids": ["one"]}}, "filter.store_ids"),
        ({"filter": {"store_ids": [str(uuid4())] * 1001}}, "filter.store_ids"),
        ({"filter": {"received_from": {"seconds": 2**62}}}, "filter.received_from"),
        ({"filter": {"received_before": {"seconds": -(2**62)}}}, "filter.received_before"),
    ],
)
async def test_a_bad_request_is_told_which_field(reader, fields, field):
    """A programmer is told what to correct, by its name."""
    failure = await failure_of(reader.read(**fields))

    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.details["BadRequest"].field_violations[0].field == field


async def test_a_commit_needs_a_name_and_a_cursor(reader):
    """Neither is guessed."""
    assert (await failure_of(reader.commit("", b"x"))).details["BadRequest"]
    assert (await failure_of(reader.commit("erp", b""))).reason == "CURSOR_INVALID"
    assert (await failure_of(reader.delete(""))).reason == "FIELD_INVALID"


async def test_nobody_else_may_read(served, device, books):
    """A till's token, another tenant's and one limited to another tenant open nothing; an operator
    of the tenant reads it by naming it."""
    stranger = await books.enrol()
    await served.tills.sell(device, an_event("ours"))
    ours = str(device.tenant_id)
    cases = (
        (f"integrator {stranger.tenant_id}", {"tenant_id": ours}, "PERMISSION_DENIED"),
        (operator_as_token(stranger.tenant_id), {"tenant_id": ours}, "PERMISSION_DENIED"),
        (operator_as_token(), {}, "FIELD_INVALID"),
        (operator_as_token(), {"tenant_id": str(uuid4())}, "TENANT_GONE"),
        (f"integrator {uuid4()}", {}, "TENANT_GONE"),
        (ids_as_token(device), {}, "TOKEN_INVALID"),
    )
    for token, fields, reason in cases:
        async with Reader(served.address, token) as reader:
            for call in (reader.read(**fields), reader.consumers(**fields)):
                assert (await failure_of(call)).reason == reason, (token, fields)
    for token in (operator_as_token(), operator_as_token(device.tenant_id)):
        async with Reader(served.address, token) as reader:
            assert await reader.keys(tenant_id=ours) == ["ours"]


async def test_a_token_ends_with_its_time_under_an_open_stream(served, reader, device):
    """The ERP is connected when its token's time is over: it is told within seconds, also while
    nothing is sold."""
    async with aclosing(reader.pages(live=True)) as pages:
        await anext(pages)
        served.authenticator.spent.add(integrator_as_token(device.tenant_id))

        failure = await failure_of(asyncio.wait_for(anext(pages), 10))

    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")


async def test_consumers_of_two_tenants_know_nothing_of_each_other(served, device, books):
    """Two retailers call their consumers alike: each has its own, and deletes its own only."""
    stranger = await books.enrol()
    async with (
        Reader.of(served.address, device.tenant_id) as ours,
        Reader.of(served.address, stranger.tenant_id) as theirs,
    ):
        _, our_cursors = await sold(served, ours, device)
        _, their_cursors = await sold(served, theirs, stranger)
        await ours.commit("erp", our_cursors[1])
        await theirs.commit("erp", their_cursors[3])
        await theirs.commit("archive", their_cursors[3])

        assert [c.position for c in (await ours.consumers()).consumers] == [2]
        assert (await failure_of(ours.delete("archive"))).reason == "NOT_FOUND"
        await ours.delete("erp")
        listed = (await theirs.consumers()).consumers
        assert [(c.name, c.position) for c in listed] == [("archive", 4), ("erp", 4)]


async def test_i11_a_restored_service_tells_every_reader(served, reader, device, migrator):
    """The database was restored from a backup: a reader that comes again, one that begins by its
    name, one that commits and one that is connected are told, and which history it is now."""
    keys, after = await sold(served, reader, device)
    await reader.commit("erp", after[2])
    async with aclosing(reader.pages(live=True, cursor=after[4])) as pages:
        await anext(pages)
        history_id = await declare_restored(migrator, device.tenant_id)

        for call in (
            asyncio.wait_for(anext(pages), 10),
            reader.read(cursor=after[2]),
            reader.read(consumer="erp"),
            reader.commit("erp", after[3]),
            reader.commit("erp", after[3], rewind=True),
        ):
            failure = await failure_of(call)
            assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
            assert failure.reason == "HISTORY_CHANGED"
            assert failure.details["ErrorInfo"].metadata == {"history_id": history_id}

    listed = (await reader.consumers()).consumers
    assert [(c.history_changed, c.lag_events) for c in listed] == [(True, 5)]
    # It begins anew, and its place in the present history needs no rewind.
    pages = await reader.read(page_size=1)
    assert [page.events[0].event.key for page in pages] == keys
    assert (await reader.commit("erp", pages[0].cursor)).position == 1
    assert await reader.keys(consumer="erp") == keys[1:]


async def test_i11_a_live_reader_is_told_that_the_history_was_cut_short(
    served, reader, device, migrator
):
    """Somebody put an old backup in place and told nobody: a reader that is ahead of it hears so,
    instead of waiting for positions to be given out twice."""
    _, after = await sold(served, reader, device)
    async with aclosing(reader.pages(live=True, cursor=after[4])) as pages:
        await anext(pages)
        await migrator.execute("DELETE FROM tillsync.event WHERE position > 3")
        await migrator.execute("UPDATE tillsync.tenant_head SET position = 3")

        failure = await failure_of(asyncio.wait_for(anext(pages), 10))

    assert failure.reason == "CURSOR_INVALID"


async def test_a_stop_ends_live_feeds_at_once(database_url, device, tmp_path):
    """The service is updated while readers are connected: they are told to come again, and the stop
    waits for none of them."""
    keys = tmp_path / "keys.json"
    create_key_file(keys)
    settings = Settings(
        database_url=database_url, signing_keys=keys, listen="127.0.0.1:0", stop_grace_seconds=20
    )
    async with App(settings) as app, grpc.aio.insecure_channel(app.address) as channel:
        token = token_issuer(settings).integrator_token("erp", device.tenant_id, 3600)
        metadata = (("authorization", f"Bearer {token}"),)
        stub = FeedServiceStub(channel)
        calls = [stub.Subscribe(pb.SubscribeRequest(live=True), metadata=metadata) for _ in "123"]
        for call in calls:
            await call.read()

        report = await app.stop()

        assert (report.outcome, report.calls_cut) == ("drained", 0)
        assert report.seconds < 10
        for call in calls:
            failure = await failure_of(asyncio.wait_for(call.read(), 20))
            assert failure.reason == "SHUTTING_DOWN"


async def test_a_stop_waits_no_longer_than_its_grace_for_a_reader_that_takes_nothing(
    database, database_url, device, tmp_path
):
    """An ERP hangs in the middle of a page while the service is updated: its stream is cut when the
    grace is over, and the report says so."""
    keys = tmp_path / "keys.json"
    create_key_file(keys)
    settings = Settings(
        database_url=database_url, signing_keys=keys, listen="127.0.0.1:0", stop_grace_seconds=1
    )
    body = Any(type_url="type.example.com/large", value=b"x" * 500_000)
    for _ in range(10):
        await Tills(database).sell_many(device, 6, body=body)
    async with App(settings) as app, grpc.aio.insecure_channel(app.address) as channel:
        token = token_issuer(settings).integrator_token("erp", device.tenant_id, 3600)
        metadata = (("authorization", f"Bearer {token}"),)
        call = FeedServiceStub(channel).Subscribe(pb.SubscribeRequest(), metadata=metadata)
        await call.read()
        await eventually(lambda: _waits_for_its_peer(app))

        report = await app.stop()

        assert (report.outcome, report.calls_cut) == ("deadline", 1)
        assert report.seconds < 5


def _waits_for_its_peer(app):
    (guest,) = app._doorkeeper._house._guests
    since = guest.waits_for_peer_since
    return since is not None and asyncio.get_running_loop().time() - since > 0.3


async def test_the_service_as_it_is_composed_feeds_an_integrator(database_url, tmp_path):
    """A till sells through the service, and the ERP that is connected to it has the sale; its token
    opens nothing else, and a till's does not open the feed."""
    async with app_served(database_url, tmp_path) as fleet:
        tenant, till_token = await _a_selling_tenant(fleet)
        token = fleet.issuer.integrator_token("erp", UUID(tenant), 3600)
        async with Reader(fleet.address, token) as reader:
            assert await reader.keys() == ["a sale"]
        async with Reader(fleet.address, till_token) as reader:
            assert (await failure_of(reader.read())).reason == "PERMISSION_DENIED"
            assert (await failure_of(_tenants(reader.channel, token))).reason == "PERMISSION_DENIED"
        spent = fleet.issuer.integrator_token("erp", UUID(tenant), -60)
        async with Reader(fleet.address, spent) as reader:
            assert (await failure_of(reader.read())).reason == "TOKEN_EXPIRED"


def _tenants(channel, token):
    metadata = (("authorization", f"Bearer {token}"),)
    return AdminServiceStub(channel).ListTenants(ListTenantsRequest(), metadata=metadata)


async def _a_selling_tenant(fleet):
    till = await fleet.an_enrolled_till()
    token = (await till.issue()).access_token
    async with Caller(fleet.address, token) as sender:
        await sender.offer(an_event("a sale"))
    return till.identity.tenant_id, token


async def test_lags_of_all_tenants_are_watched(served, reader, device, books):
    """An operator's alarm sees whose ERP stands still, and forgets those that were deleted."""
    stranger = await books.enrol()
    _, after = await sold(served, reader, device)
    await reader.commit("erp", after[1])
    async with Reader.of(served.address, stranger.tenant_id) as theirs:
        _, their_cursors = await sold(served, theirs, stranger, 3)
        await theirs.commit("erp", their_cursors[2])
    seen = []
    watch = LagWatch(served.store, seen.append)

    await watch.look()
    await reader.delete("erp")
    await watch.look()

    assert seen == [
        {(device.tenant_id, "erp"): 3, (stranger.tenant_id, "erp"): 0},
        {(stranger.tenant_id, "erp"): 0},
    ]
