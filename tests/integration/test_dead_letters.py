"""What could not be projected: looked at, replayed in its place, discarded, and nothing doubled."""

import asyncio

import pytest

from support.projections import (
    PAGE,
    Model,
    Tables,
    a_line,
    a_sale,
    a_void,
    a_worker,
    ingest,
    projected,
    recording,
    unreadable,
)
from tillsync_service.foundation.errors import NotFound, StateForbids
from tillsync_service.projections.dead_letters import Asked, DeadLetterStore, Done, Filter

ALL = Asked(Filter(), 0, 100)
# What ingest wrote, and nothing else may.
ACCEPTED = ("event", "event_key", "quarantine", "tenant_head", "device_day", "device_progress")


@pytest.fixture
def tables(migrator, device):
    return Tables(migrator, device.tenant_id)


@pytest.fixture
def dead_letters(database):
    return DeadLetterStore(database)


async def arrive(database, device, model, *events):
    for position, event in zip(await ingest(database, device, *events), events, strict=True):
        model.take(position, event, device)
    await projected(database, device.tenant_id)


async def early_voids(database, device, count=1, *, sold=True):
    """Voids that came before the sales that they name."""
    model = Model()
    voids = [recording(f"void {n}", a_void(f"sale {n}")) for n in range(count)]
    await arrive(database, device, model, *voids)
    if sold:
        sales = [recording(f"sale {n}", a_sale(a_line(f"{n}"))) for n in range(count)]
        await arrive(database, device, model, *sales)
    return model


async def accepted(tables):
    return {table: list(map(str, await tables.rows(table))) for table in ACCEPTED}


async def test_f34_a_replay_projects_in_place_and_a_second_finds_nothing(
    database, device, tables, dead_letters
):
    """The void of a sale that came later: replayed, it takes the sale back, once. A second replay
    finds nothing, and nothing moved the cursor."""
    model = await early_voids(database, device)
    cursor = (await tables.projection())["position"]
    assert model.replay(1)

    first = await dead_letters.replay(device.tenant_id, ALL)
    second = await dead_letters.replay(device.tenant_id, ALL)

    assert (first, second) == (Done(1, 1, 1), Done())
    assert (await tables.projection())["position"] == cursor
    await tables.must_be(model)
    await tables.must_add_up()


async def test_f34_a_replay_of_nothing_is_no_error(database, device, dead_letters):
    """An operator replays to be sure: nothing waits, and that is what he hears."""
    assert await dead_letters.replay(device.tenant_id, ALL) == Done()

    await ingest(database, device, recording("s", a_sale()))
    await projected(database, device.tenant_id)
    assert await dead_letters.replay(device.tenant_id, ALL) == Done()


async def test_f34_what_fails_again_waits_with_one_more_attempt(
    database, device, tables, dead_letters
):
    """It is still wrong: it waits on, in the same place, and shows how often it was tried."""
    model = Model()
    await arrive(database, device, model, recording("p", unreadable()))
    for _ in range(3):
        model.replay(1)
        assert await dead_letters.replay(device.tenant_id, ALL) == Done(1, 0, 1)

    await tables.must_be(model)
    (row,) = await tables.rows("dead_letter")
    assert row["attempts"] == 4
    assert row["first_failed_at"] < row["last_failed_at"]


async def test_f34_two_replays_at_once_double_nothing(database, device, tables, dead_letters):
    """Two operators press the button together: each void is carried out once."""
    model = await early_voids(database, device, 40)
    for position in range(1, 41):
        assert model.replay(position)

    answers = await asyncio.gather(*(dead_letters.replay(device.tenant_id, ALL) for _ in range(4)))

    assert sum(answer.changed for answer in answers) == 40
    await tables.must_be(model)
    await tables.must_add_up()


async def test_f34_a_replay_beside_live_sales(database, device, tables, dead_letters):
    """The shops sell on while an operator replays: both get through, nothing is doubled."""
    model = await early_voids(database, device, 30)
    worker = asyncio.create_task(a_worker(database).run())
    try:
        for number in range(30):
            events = [recording(f"live {number}-{n}", a_sale()) for n in range(5)]
            for position, event in zip(
                await ingest(database, device, *events), events, strict=True
            ):
                model.take(position, event, device)
            await dead_letters.replay(device.tenant_id, Asked(Filter(), 0, 1))
            assert model.replay(number + 1)
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    await projected(database, device.tenant_id)

    await tables.must_be(model)
    await tables.must_add_up()


async def test_f34_a_replay_is_no_flood(database, device, tables, dead_letters):
    """A hundred thousand may wait: a call takes a page, and says whether there is more."""
    await early_voids(database, device, 25)
    after, seen = 0, []
    while True:
        done = await dead_letters.replay(device.tenant_id, Asked(Filter(), after, 10))
        seen.append((done.tried, done.last, done.more))
        after = done.last
        if not done.more:
            break

    assert seen == [(10, 10, True), (10, 20, True), (5, 25, False)]
    assert await tables.dead() == {}


async def test_a_dry_run_says_what_would_be_and_changes_nothing(
    database, device, tables, dead_letters
):
    """Before the button is pressed, the operator sees what it would do."""
    model = await early_voids(database, device, 3)
    await arrive(database, device, model, recording("p", unreadable()))
    dry = Asked(Filter(), 0, 100, dry_run=True)

    assert await dead_letters.replay(device.tenant_id, dry) == Done(4, 3, 7)
    assert await dead_letters.discard(device.tenant_id, dry, "why", "op") == Done(4, 4, 7)

    await tables.must_be(model)


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        (Filter(from_position=2), [2, 3, 4]),
        (Filter(to_position=2), [1, 2]),
        (Filter(reason="VOID_UNKNOWN"), [1, 2, 3]),
        (Filter(reason="TOTAL_WRONG"), []),
        (Filter(type_name="Sale"), [4]),
        (Filter(type_name="tillsync.v1.Void"), [1, 2, 3]),
        (Filter(type_name="type.googleapis.com/tillsync.v1.Void"), [1, 2, 3]),
        (Filter(type_name="ale"), []),
        (Filter(type_name="Void", from_position=2, to_position=3), [2, 3]),
    ],
)
async def test_what_is_chosen_is_listed_replayed_and_discarded(
    database, device, books, dead_letters, chosen, found
):
    """By place, reason, type or store: the list shows what a replay would try and a discard would
    take."""
    model = await early_voids(database, device, 3, sold=False)
    await arrive(database, device, model, recording("p", unreadable()))
    asked = Asked(chosen, 0, 100, dry_run=True)
    elsewhere = await books.enrol(device.tenant_id)

    rows, more = await dead_letters.list_dead_letters(device.tenant_id, asked, "")
    replayed = await dead_letters.replay(device.tenant_id, asked)
    discarded = await dead_letters.discard(device.tenant_id, asked, "why", "op")

    assert [row["position"] for row in rows] == found
    assert not more
    assert replayed.tried == discarded.changed == len(found)
    for store, count in ((device.store_id, 4), (elsewhere.store_id, 0)):
        of_store = Asked(Filter(store_id=store), 0, 100)
        rows, _ = await dead_letters.list_dead_letters(device.tenant_id, of_store, "waiting")
        assert len(rows) == count


async def test_what_was_discarded_stays_so(database, device, tables, dead_letters):
    """An operator gave it up, and said why: no replay brings it back, and it can be looked at."""
    model = await early_voids(database, device)
    model.discarded.add(1)

    done = await dead_letters.discard(device.tenant_id, ALL, "test receipt", "anna")
    again = await dead_letters.discard(device.tenant_id, ALL, "other", "ben")
    replayed = await dead_letters.replay(device.tenant_id, ALL)

    assert (done, again, replayed) == (Done(1, 1, 1), Done(), Done())
    await tables.must_be(model)
    letter, event = await dead_letters.dead_letter(device.tenant_id, 1)
    assert (letter["discarded_by"], letter["discarded_because"]) == ("anna", "test receipt")
    assert event["key"] == "void 0"


async def test_a_pruned_event_cannot_be_replayed_and_says_so(
    database, device, tables, migrator, dead_letters
):
    """The event is gone by age: what is left of it is its dead letter, which says that."""
    await early_voids(database, device, 2)
    await migrator.execute("DELETE FROM tillsync.event WHERE position = 1")

    assert await dead_letters.replay(device.tenant_id, ALL) == Done(2, 1, 2)

    assert await tables.dead() == {1: ("EVENT_PRUNED", 2, "waiting")}
    _, event = await dead_letters.dead_letter(device.tenant_id, 1)
    assert event is None


async def test_a_replay_of_what_postgres_refuses_finds_the_culprit(
    database, device, tables, migrator, dead_letters
):
    """One of many is refused by the database itself: the others are projected."""
    events = [recording(f"{n}", a_sale(receipt_number=f"{n}")) for n in range(9)]
    await migrator.execute(
        "ALTER TABLE tillsync.sale ADD CONSTRAINT odd CHECK (receipt_number > '9')"
    )
    await ingest(database, device, *events)
    await projected(database, device.tenant_id, PAGE)
    assert len(await tables.dead()) == 9
    await migrator.execute("ALTER TABLE tillsync.sale DROP CONSTRAINT odd")
    await migrator.execute(
        "ALTER TABLE tillsync.sale ADD CONSTRAINT odd CHECK (receipt_number <> '4')"
    )

    after, more = 0, True
    while more:
        done = await dead_letters.replay(device.tenant_id, Asked(Filter(), after, 8))
        after, more = done.last, done.more

    assert await tables.dead() == {5: ("DATABASE_REFUSED", 2, "waiting")}
    assert len(await tables.rows("sale")) == 8
    await tables.must_add_up()


async def test_a_dead_letter_of_nobody_is_not_found(device, dead_letters):
    """What does not exist, and what is another's, has one answer."""
    with pytest.raises(NotFound):
        await dead_letters.dead_letter(device.tenant_id, 1)
    for call in (
        dead_letters.replay(device.device_id, ALL),
        dead_letters.discard(device.device_id, ALL, "why", "op"),
        dead_letters.list_dead_letters(device.device_id, ALL, ""),
    ):
        with pytest.raises(NotFound):
            await call


async def test_nothing_is_replayed_into_another_history(database, device, migrator, dead_letters):
    """The database was just restored: positions mean other events, so a replay waits."""
    await early_voids(database, device)
    await migrator.execute("UPDATE tillsync.tenant_head SET history_id = gen_random_uuid()")

    with pytest.raises(StateForbids):
        await dead_letters.replay(device.tenant_id, ALL)


async def test_f45_a_replay_judges_nothing_that_ingest_accepted(
    database, device, tables, dead_letters
):
    """Whatever is replayed or discarded: the history, the ledger of keys, and the devices' books
    are as they were, and no sale gets a new place."""
    await early_voids(database, device, 10)
    before = await accepted(tables)

    await dead_letters.replay(device.tenant_id, Asked(Filter(), 0, 5))
    await dead_letters.discard(device.tenant_id, ALL, "why", "op")

    assert await accepted(tables) == before
