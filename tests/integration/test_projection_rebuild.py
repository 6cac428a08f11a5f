"""All rows anew, in their place: while the shops sell, through a crash, and after a restore."""

import asyncio

import pytest

from support.polling import eventually
from support.projections import (
    PAGE,
    Model,
    Tables,
    a_line,
    a_return,
    a_sale,
    a_void,
    a_worker,
    cash,
    day_close,
    ingest,
    projected,
    recording,
    stock,
    unknown,
    unreadable,
)
from tillsync_service.foundation.errors import NotFound
from tillsync_service.projections import enrich
from tillsync_service.projections.dead_letters import Asked, DeadLetterStore, Filter
from tillsync_service.projections.reasons import Reason, Unprojectable
from tillsync_service.projections.rebuilding import RebuildStore
from tillsync_service.projections.store import HISTORY_CHANGED, ProjectionStore

ACCEPTED = ("event", "event_key", "quarantine", "tenant_head", "device_day", "device_progress")


@pytest.fixture
def tables(migrator, device):
    return Tables(migrator, device.tenant_id)


@pytest.fixture
def rebuilds(database):
    return RebuildStore(database)


@pytest.fixture
async def model(database, device):
    """Five pages of everything, projected, with a void that was replayed and one discarded."""
    model = Model()
    events = [
        recording("early", a_void("s3")),
        recording("given up", a_void("s4")),
        *(recording(f"s{n}", a_sale(a_line(f"{n % 3}", n + 1, 100 * n))) for n in range(10)),
        recording("s3 again", a_void("s3")),
        recording("s5 void", a_void("s5")),
        recording("back", a_return(a_line("1", 1, 100))),
        recording("back void", a_void("back")),
        *(recording(f"p{n}", unreadable()) for n in range(3)),
        recording("card", unknown()),
        recording("pickup", cash(-100)),
        recording("delivery", stock("1", 1234, scale=2)),
        recording("delivery void", a_void("delivery")),
        recording("evening", day_close(EUR=5)),
        *(recording(f"t{n}", a_sale()) for n in range(10)),
    ]
    for position, event in zip(await ingest(database, device, *events), events, strict=True):
        model.take(position, event, device)
    await projected(database, device.tenant_id)
    letters = DeadLetterStore(database)
    await letters.replay(device.tenant_id, Asked(Filter(to_position=1), 0, 10))
    model.replay(1)
    await letters.discard(
        device.tenant_id, Asked(Filter(from_position=2, to_position=2), 0, 10), "why", "op"
    )
    model.discarded.add(2)
    return model


async def test_a_rebuild_ends_where_it_began(database, device, tables, rebuilds, model):
    """An operator rebuilds to be sure: every row and every sum is as before, what was discarded
    stays discarded, and what is still wrong was tried once more."""
    before = await tables.everything()
    model.rebuild(10**6)

    await rebuilds.start(device.tenant_id, "op")
    await projected(database, device.tenant_id)

    assert await tables.everything() == before
    await tables.must_be(model)
    await tables.must_add_up()
    assert (await tables.projection())["rebuild_position"] is None


async def test_a_rebuild_mends_what_somebody_broke(
    database, device, tables, rebuilds, model, migrator
):
    """Rows were changed or lost by hand: after a rebuild they are what the history says."""
    before = await tables.everything()
    model.rebuild(10**6)
    await migrator.execute("UPDATE tillsync.sale_line SET product_id = 'x'")
    await migrator.execute("UPDATE tillsync.sale SET voided_by = NULL")
    await migrator.execute("DELETE FROM tillsync.tender")
    await migrator.execute(
        "DELETE FROM tillsync.stock_level; DELETE FROM tillsync.day_total;"
        "DELETE FROM tillsync.sale; DELETE FROM tillsync.sale_line; DELETE FROM tillsync.movement"
    )

    await rebuilds.start(device.tenant_id, "op")
    await projected(database, device.tenant_id)

    after = await tables.everything()
    # The void that was replayed came before its sale: which of the two is the one is known no more.
    assert after["sale_line"] == before["sale_line"]
    assert after["tender"] == before["tender"]
    assert (after["stock"], after["days"]) == (before["stock"], before["days"])
    await tables.must_add_up()


async def test_readers_see_sums_that_fit_the_rows_all_the_time(
    database, device, tables, rebuilds, model
):
    """Whoever reads while a rebuild goes on adds up the rows and finds the sums, at every page."""
    before = await tables.everything()
    store = ProjectionStore(database)
    await rebuilds.start(device.tenant_id, "op")
    while (await store.rebuild(device.tenant_id, 3)).rebuilding:
        await tables.must_add_up()
        assert await tables.everything() == before


async def test_live_sales_go_on_beside_a_rebuild(database, device, tables, rebuilds, model):
    """The shops sell while all is made anew: their sales are in the tables meanwhile, once."""
    store = ProjectionStore(database)
    until = len(model.positions)
    await rebuilds.start(device.tenant_id, "op")
    for number in range(8):
        await store.rebuild(device.tenant_id, 5)
        event = recording(f"live {number}", a_sale())
        void = recording(f"live void {number}", a_void(f"t{number}"))
        for position, one in zip(
            await ingest(database, device, event, void), (event, void), strict=True
        ):
            model.take(position, one, device)
        await store.advance(device.tenant_id, PAGE)
        await tables.must_add_up()
    await projected(database, device.tenant_id)
    model.rebuild(until)

    await tables.must_be(model)
    await tables.must_add_up()


async def test_two_rebuilds_at_once_are_one(database, device, rebuilds, model):
    """Two operators begin one: the second hears who began, and follows it."""
    first = await rebuilds.start(device.tenant_id, "anna")
    second = await rebuilds.start(device.tenant_id, "ben")

    assert (first.joined, first.started_by) == (False, "anna")
    assert (second.joined, second.started_by) == (True, "anna")
    assert first.total == len(model.positions)
    await projected(database, device.tenant_id)
    done = await rebuilds.watch(device.tenant_id, second)
    assert (done.finished, done.done) == (True, first.total)


async def test_a_rebuild_goes_on_after_a_crash(database, device, tables, rebuilds, model):
    """The service dies in the middle: another one goes on where it was."""
    before = await tables.everything()
    progress = await rebuilds.start(device.tenant_id, "op")
    await ProjectionStore(database).rebuild(device.tenant_id, 5)
    assert (await rebuilds.watch(device.tenant_id, progress)).done == 5

    worker = asyncio.create_task(a_worker(database).run())
    try:
        await eventually(lambda: finished(rebuilds, device, progress))
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)

    assert await tables.everything() == before


async def finished(rebuilds, device, progress):
    return (await rebuilds.watch(device.tenant_id, progress)).finished


async def test_a_void_of_what_is_no_document_any_more_is_shown(
    database, device, tables, rebuilds, monkeypatch
):
    """A newer program finds fault with an old sale that was voided: the sale is put aside, and its
    void with it, and not forgotten."""
    model = Model()
    events = [recording("s", a_sale(receipt_number="old")), recording("v", a_void("s"))]
    for position, event in zip(await ingest(database, device, *events), events, strict=True):
        model.take(position, event, device)
    await projected(database, device.tenant_id)

    def stricter(_field, _code):
        raise Unprojectable(Reason.CURRENCY_INVALID, "currency", "Not any more.")

    monkeypatch.setattr(enrich, "_currency", stricter)
    await rebuilds.start(device.tenant_id, "op")
    await ProjectionStore(database).rebuild(device.tenant_id, 1)

    assert {position: reason for position, (reason, *_) in (await tables.dead()).items()} == {
        1: "CURRENCY_INVALID",
        2: "VOID_UNKNOWN",
    }
    monkeypatch.undo()
    await projected(database, device.tenant_id)
    await DeadLetterStore(database).replay(device.tenant_id, Asked(Filter(), 0, 10))
    assert await tables.dead() == {}
    assert await tables.voided() == {1: 2}
    await tables.must_add_up()


async def test_what_was_pruned_is_kept(database, device, tables, rebuilds, model, migrator):
    """Old events are gone by age: their sales stay in the tables, and a rebuild begins after
    them."""
    before = await tables.everything()
    await migrator.execute("DELETE FROM tillsync.event WHERE position <= 9")

    progress = await rebuilds.start(device.tenant_id, "op")
    await projected(database, device.tenant_id)

    assert progress.total == len(model.positions) - 9
    assert await tables.everything() == before
    await tables.must_add_up()


async def test_i11_a_restored_database_is_projected_anew_by_itself(
    database, device, tables, model, migrator
):
    """The tables hold sales of a history that ended, and its cursor is ahead of what the backup
    has: the projection notices, removes what is no more, and makes the rest anew."""
    # As a backup that lacks the last events, and has others in the place of some.
    gone = 20
    await migrator.execute("DELETE FROM tillsync.event WHERE position > $1", gone)
    await migrator.execute("DELETE FROM tillsync.event_key WHERE position > $1", gone)
    await migrator.execute(
        "UPDATE tillsync.event SET body = $1, type_url = $2 WHERE position = 9",
        a_sale(a_line("other", 7, 700)).SerializeToString(),
        "type.googleapis.com/tillsync.v1.Sale",
    )
    await migrator.execute(
        "UPDATE tillsync.tenant_head SET position = $1, history_id = gen_random_uuid()"
        " WHERE stream = 'event'",
        gone,
    )

    seen = []
    store = ProjectionStore(database)
    while (turn := await store.advance(device.tenant_id, PAGE)).lag:
        await tables.must_add_up()
        seen.append((await tables.projection())["rebuild_by"])
        if turn.rebuilding and seen[-1]:
            break
    await ingest(database, device, recording("after", a_sale(a_line("after"))))
    await projected(database, device.tenant_id)

    assert seen[-1] == HISTORY_CHANGED
    rows = {row["position"]: row["key"] for row in await tables.rows("sale")}
    assert max(rows) == gone + 1
    assert rows[gone + 1] == "after"
    assert (await tables.stock())[device.store_id, "other"] == -7
    assert max(await tables.dead()) <= gone
    await tables.must_add_up()


async def test_f45_a_rebuild_judges_nothing_that_ingest_accepted(
    database, device, tables, rebuilds, model
):
    """All is read again, and nothing of what was accepted is touched: no verdict, no key, no
    position, no book of a device."""
    before = {table: list(map(str, await tables.rows(table))) for table in ACCEPTED}

    await rebuilds.start(device.tenant_id, "op")
    await projected(database, device.tenant_id)

    after = {table: list(map(str, await tables.rows(table))) for table in ACCEPTED}
    assert after == before


async def test_a_tenant_without_events_is_rebuilt_at_once(database, device, rebuilds):
    """Nothing was sold yet: nothing to do, and that is said."""
    progress = await rebuilds.start(device.tenant_id, "op")
    await projected(database, device.tenant_id)

    assert progress.total == 0
    assert (await rebuilds.watch(device.tenant_id, progress)).finished
    with pytest.raises(NotFound):
        await rebuilds.start(device.device_id, "op")
