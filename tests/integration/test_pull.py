"""What a till is sent: all of it, whole, and nothing twice; whatever happens meanwhile."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from uuid import uuid4

import pytest

from support.service import failure_of
from support.sync import Copy, HeadOffice, PullingDevice, sync_served
from tillsync.v1.sync_service_pb2 import LoadReason
from tillsync_service.databases import utc_now
from tillsync_service.sync import cursors, wire
from tillsync_service.sync.forgetting import Forgetting
from tillsync_service.sync.scopes import TENANT


@pytest.fixture
async def office(database, migrator, device):
    office = HeadOffice(database, migrator, device.tenant_id)
    await office.define("product", keys=("barcode",))
    await office.define("price", order=10)
    return office


@pytest.fixture
async def served(database, database_url, office):
    async with sync_served(database, database_url, page_records=3) as served:
        office.changed = served.wakeups.tell
        yield served


@pytest.fixture
async def till(served, device):
    async with PullingDevice(served.address, device) as till:
        yield till


def products(count, price=100):
    return {f"p{n:03}": {"barcode": f"40{n}", "price": price} for n in range(count)}


async def test_a_new_till_gets_everything_of_the_tenant_and_of_its_store(office, till, device):
    """A till that was just unpacked holds the tenant's and its own store's records after its first
    load, prices first, and no other store's."""
    await office.write("product", products(10))
    await office.write("price", {"p001": {"minor": 120}})
    await office.write("price", {"p001": {"minor": 99}}, scope=device.store_id)
    await office.write("price", {"p001": {"minor": 1}}, scope=uuid4())

    copy = await till.pull()

    assert copy.records == await office.records(device.store_id)
    assert copy.loads == [LoadReason.LOAD_REASON_FIRST]
    order = [block.collection for message in copy.received for block in message.blocks]
    assert order == sorted(order, key=["price", "product"].index)
    assert set(copy.collections) == {"price", "product"}


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_f25_no_page_size_loses_or_repeats_a_change(
    database, database_url, office, device, size
):
    """However a catalogue is cut into pages, a till has each record once and all of them."""
    await office.write("product", products(7))
    async with (
        sync_served(database, database_url, page_records=size) as served,
        PullingDevice(served.address, device) as till,
    ):
        await till.pull()
        await office.write("product", products(7, price=90))
        till.copy.received.clear()
        copy = await till.pull()

    assert copy.records == await office.records(device.store_id)
    sent = [
        id_ for message in copy.received for block in message.blocks for id_ in block.record_ids
    ]
    assert sorted(sent) == sorted(products(7))


async def test_a_live_till_hears_of_a_change_at_once(office, till, device):
    """A price changed at head office is on a connected till without the till asking again."""
    await office.write("product", products(2))
    async with aclosing(till.responses(live=True)) as responses:
        while not (await anext(responses)).HasField("checkpoint"):
            pass
        version = await office.write("product", {"p000": {"price": 1}, "p001": None})
        message = await asyncio.wait_for(anext(responses), 10)

    assert message.checkpoint.version == version
    assert till.copy.records == await office.records(device.store_id)


async def test_a_live_till_hears_of_a_new_collection_with_all_others(office, till):
    """Head office begins to keep customers: a connected till hears of it at once, with all the
    collections that it had; and where only records change, of none."""
    await office.write("product", products(1))
    async with aclosing(till.responses(live=True)) as responses:
        while not (await anext(responses)).HasField("checkpoint"):
            pass
        await office.define("visitor")
        defined = await asyncio.wait_for(anext(responses), 10)
        await office.write("product", products(1, price=7))
        changed = await asyncio.wait_for(anext(responses), 10)

    names = {each.name for each in defined.checkpoint.collections}
    assert names == set(till.copy.collections) > {"visitor", "product"}
    assert changed.HasField("checkpoint")
    assert list(changed.checkpoint.collections) == []


async def test_f4_a_first_load_while_head_office_writes_ends_equal(served, office, device):
    """Head office changes, adds and deletes records between any two pages of a till's first load;
    the till ends with what head office has, by count and digest."""
    await office.write("product", products(30))
    copy, step, writes = Copy(), None, 0
    while step is None or step.checkpoint is None:
        step = await served.reads.step(device, step and step.cursor, ())
        copy.receive(wire.pull_response(device.tenant_id, step, utc_now()))
        if step.checkpoint is None and writes < 12:
            writes += 1
            await office.write("product", {f"p{writes * 2:03}": None, "p029": {"price": writes}})
            await office.write("price", {f"p{writes:03}": {"minor": writes}})
            await office.write("product", {f"a{writes}": {"new": True}})

    assert writes == 12
    assert copy.records == await office.records(device.store_id)


async def test_a_load_that_was_cut_goes_on_where_it_was(office, till, device):
    """The link breaks at nine tenths of the first load: the till is sent the last tenth only."""
    await office.write("product", products(30))
    await till.pull_some(10)
    had = len(till.copy.staged)
    till.copy.received.clear()

    copy = await till.pull()

    sent = [
        id_ for message in copy.received for block in message.blocks for id_ in block.record_ids
    ]
    assert had + len(sent) == 30
    assert copy.loads == [LoadReason.LOAD_REASON_FIRST]
    assert copy.records == await office.records(device.store_id)


async def test_f26_a_till_that_moves_gets_the_old_records_of_its_new_store(office, till, device):
    """A till is carried into another store: it receives that store's records that were written long
    before, and the old store's are gone, in one checkpoint."""
    there = uuid4()
    await office.write("price", {"p001": {"minor": 1}}, scope=device.store_id)
    await office.write("price", {"p001": {"minor": 2}, "p002": {"minor": 2}}, scope=there)
    await till.pull()
    await office.move(device, there)

    copy = await till.pull()

    assert copy.loads[-1] == LoadReason.LOAD_REASON_SCOPE_GAINED
    assert copy.records == await office.records(there)
    assert {store for _, store, _ in copy.records} == {str(there)}


async def test_f26_a_live_till_that_moves_is_told_without_asking(office, till, device):
    """The till is connected while an operator moves it: its stream goes on with the new store."""
    there = uuid4()
    await office.write("price", {"p001": {"minor": 2}}, scope=there)
    async with aclosing(till.responses(live=True)) as responses:
        await anext(responses)
        await office.move(device, there)
        async for message in responses:
            if message.HasField("checkpoint") and message.checkpoint.store_id == str(there):
                break

    assert till.copy.records == await office.records(there)


async def test_f27_a_record_moved_between_scopes_leaves_the_till(office, till, device):
    """A price of the tenant becomes another store's own: this till lets go of it."""
    await office.write("price", {"p001": {"minor": 1}})
    await till.pull()
    await office.write("price", {"p001": None})
    await office.write("price", {"p001": {"minor": 1}}, scope=uuid4())

    assert (await till.pull()).records == {}


async def test_f23_a_till_behind_the_horizon_starts_anew(office, till, device):
    """A till was off for so long that deletions after its last visit are forgotten: it is told to
    load everything anew, and what was deleted does not come back to life on it."""
    await office.write("product", products(3))
    await till.pull()
    await office.write("product", {"p001": None})
    await office.forget_deletions()

    copy = await till.pull()

    assert copy.loads[-1] == LoadReason.LOAD_REASON_BEHIND_HORIZON
    assert copy.records == await office.records()
    assert ("product", "", "p001") not in copy.records


async def test_f23_old_deletions_are_forgotten_and_young_ones_are_not(
    office, till, database, migrator, device
):
    """Deletions older than the setting are forgotten, with the horizon moved before them: a till
    that has heard of them goes on, and one that has not begins anew."""
    await office.write("product", products(3))
    await till.pull()
    await office.write("product", {"p000": None})
    await migrator.execute(
        "UPDATE tillsync.record SET changed_at = now() - interval '91 days' WHERE body IS NULL"
    )
    version = await office.write("product", {"p001": None})

    assert await Forgetting(database, 90).forget(device.tenant_id) == 1

    assert await migrator.fetchval("SELECT count(*) FROM tillsync.record WHERE body IS NULL") == 1
    copy = await till.pull()
    assert copy.loads[-1] == LoadReason.LOAD_REASON_BEHIND_HORIZON
    assert (copy.version, copy.records) == (version, await office.records())
    loads = len(copy.loads)
    await Forgetting(database, 90).forget(device.tenant_id)
    assert len((await till.pull()).loads) == loads


async def test_f23_the_horizon_may_pass_in_the_middle_of_a_load(office, till):
    """Deletions are forgotten while a till is loading: the load begins anew and ends equal."""
    await office.write("product", products(9))
    await till.pull_some(2)
    await office.write("product", {"p000": None})
    await office.forget_deletions()

    copy = await till.pull()

    assert copy.loads[-1] == LoadReason.LOAD_REASON_BEHIND_HORIZON
    assert copy.records == await office.records()


async def test_i11_a_restored_service_sends_everything_anew(office, till, device):
    """The service was restored from a backup: a till's cursor of the other history is not believed,
    also on a stream that is open."""
    await office.write("product", products(2))
    async with aclosing(till.responses(live=True)) as responses:
        await anext(responses)
        await office.restored()
        async for message in responses:
            if message.HasField("load_begun"):
                break

    assert message.load_begun.reason == LoadReason.LOAD_REASON_HISTORY_CHANGED


async def test_i11_a_service_cut_short_without_a_word_is_recognised(office, till, migrator):
    """Somebody restored a backup and told nobody: a cursor ahead of the head is not believed."""
    await office.write("product", products(4))
    await till.pull()
    await migrator.execute(
        "DELETE FROM tillsync.record; DELETE FROM tillsync.record_digest;"
        " UPDATE tillsync.tenant_head SET position = 3 WHERE stream = 'record'"
    )

    copy = await till.pull()

    assert copy.loads[-1] == LoadReason.LOAD_REASON_AHEAD_OF_HISTORY
    assert copy.records == {}


async def test_a_collection_that_a_till_does_not_trust_is_sent_whole(office, till, device):
    """A till whose copy of the prices is damaged asks for them, and gets them and nothing else."""
    await office.write("product", products(3))
    await office.write("price", {"p001": {"minor": 5}})
    await till.pull()
    till.copy.records = {k: v for k, v in till.copy.records.items() if k[0] != "price"}
    till.copy.records["price", "", "ghost"] = "{}"
    till.copy.received.clear()

    copy = await till.pull(reload=("price",))

    assert copy.records == await office.records()
    assert {block.collection for m in copy.received for block in m.blocks} == {"price"}


async def test_cursors_that_are_none_are_refused_by_name(office, till, books, device, served):
    """A forged, a cut and another tenant's cursor, and an unknown collection, each get an error
    that names the field; the till's copy is what it was."""
    await office.write("product", products(1))
    await till.pull()
    good = till.copy.cursor
    other = await books.enrol()
    forged = good[:-1] + bytes([good[-1] ^ 1])

    for bad in (forged, good[:20], b"x", b"\xff" * 100):
        failure = await failure_of(till.pull(cursor=bad))
        assert (failure.reason, failure.text.split(":")[0]) == ("CURSOR_INVALID", "cursor")
    async with PullingDevice(served.address, other) as stranger:
        assert (await failure_of(stranger.pull(cursor=good))).reason == "CURSOR_INVALID"
    unknown = await failure_of(till.pull(reload=("prise",)))
    assert unknown.reason == "COLLECTION_UNKNOWN"
    assert "reload_collections" in unknown.text
    assert till.copy.records == await office.records()


async def test_a_forged_cursor_shows_no_other_stores_records(office, till, device):
    """A till that writes its own cursor, checksum and all, is sent nothing of another store, and
    what is no cursor at all is refused like any other."""
    there = uuid4()
    await office.write("price", {"p001": {"minor": 1}}, scope=there)
    await till.pull()
    honest = cursors.decoded(device.tenant_id, till.copy.cursor)

    for forged in (
        replace(honest, whole=False, load=(("price", there),)),
        replace(honest, load=(("price", device.store_id),), after="\0"),
        replace(honest, position=float("inf")),
    ):
        raw = cursors.encoded(device.tenant_id, forged)
        assert (await failure_of(till.pull(cursor=raw))).reason == "CURSOR_INVALID"
    assert till.copy.records == {}


async def test_nothing_of_another_tenant_is_sent(office, till, books, database, migrator):
    """Two retailers use the same ids; a till hears of its own retailer's only."""
    other = HeadOffice(database, migrator, await books.open_tenant())
    await other.define("product")
    await other.write("product", {"p000": {"secret": True}})
    await office.write("product", products(1))

    assert (await till.pull()).records == await office.records(TENANT)


async def test_f21_a_herd_of_tills_is_served_in_turns(
    database, database_url, office, books, device
):
    """The service comes back and sixty tills want everything at once, of which it serves two at a
    time: none is sent away, and each has its copy in the end."""
    await office.write("product", products(40))
    devices = [await books.enrol(device.tenant_id) for _ in range(60)]
    async with sync_served(database, database_url, page_records=10, max_behind=2) as served:

        async def load(each):
            async with PullingDevice(served.address, each) as till:
                while not till.copy.checkpoint_cursor:
                    await till.pull()
                return till.copy.records

        copies = await asyncio.gather(*map(load, devices))

    wanted = await office.records()
    assert all(copy == wanted for copy in copies)
