"""From raw events to tables: every sale once, whatever stands between it and its rows."""

import asyncio
from contextlib import asynccontextmanager
from decimal import Decimal
from uuid import uuid4

import pytest

from support.builders import BUSINESS_DAY
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
from tillsync.v1 import retail_pb2 as pb
from tillsync_service.foundation import limits
from tillsync_service.projections import enrich
from tillsync_service.projections.store import ProjectionStore
from tillsync_service.projections.worker import Worker

TENANT_LOCK = "SELECT FROM tillsync.projection WHERE tenant_id = $1 FOR UPDATE"


@pytest.fixture
def tables(migrator, device):
    return Tables(migrator, device.tenant_id)


@asynccontextmanager
async def working(*workers):
    """They run, as the application lets them."""
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def level(tables):
    """Whether the projection has come to the head."""
    return await tables.connection.fetchval(
        "SELECT p.position = h.position FROM tillsync.projection p JOIN tillsync.tenant_head h"
        " USING (tenant_id) WHERE p.tenant_id = $1 AND h.stream = 'event'",
        tables.tenant_id,
    )


async def arrive(database, device, model, *events):
    for position, event in zip(await ingest(database, device, *events), events, strict=True):
        model.take(position, event, device)


async def test_a_sale_becomes_a_row_with_its_lines_and_tenders(database, device, tables):
    """Head office asks by SQL what was sold: the receipt, its lines and how it was paid are rows,
    with the digits that the till wrote."""
    sale = a_sale(
        a_line("4711", 2, 500),
        a_line("milk", 1250, 300, scale=3),
        discounts=[pb.Discount(reason="club", amount_minor=50)],
        taxes=[
            pb.Tax(code="A", amount_minor=70, included=True),
            pb.Tax(code="B", amount_minor=30),
        ],
        total_minor=780,
        cashier_id="c1",
        customer_id="k9",
    )
    await ingest(database, device, recording("one", sale))

    await projected(database, device.tenant_id)

    (row,) = await tables.rows("sale")
    assert (row["kind"], row["key"], row["currency"], row["total_minor"]) == (
        "sale",
        "one",
        "EUR",
        780,
    )
    assert (row["discount_minor"], row["tax_minor"]) == (50, 100)
    assert (row["store_id"], row["device_id"]) == (device.store_id, device.device_id)
    assert (row["business_day"].isoformat(), row["cashier_id"]) == (BUSINESS_DAY, "c1")
    first, second = await tables.rows("sale_line")
    assert (first["number"], first["product_id"], first["total_minor"]) == (1, "4711", 500)
    assert str(second["quantity"]) == "1.250"
    (tender,) = await tables.rows("tender")
    assert (tender["kind"], tender["amount_minor"]) == ("cash", 800)
    assert (await tables.stock())[device.store_id, "milk"] == Decimal("-1.250")


async def test_every_kind_of_document_counts_where_it_should(database, device, tables):
    """Sales, returns, cash, deliveries, the count in the evening and what was voided: stock and
    the day come to what a person adds up by hand."""
    model = Model()
    await arrive(
        database,
        device,
        model,
        recording("delivery", stock("4711", 100)),
        recording("sale", a_sale(a_line("4711", 3, 300))),
        recording("wrong", a_sale(a_line("4711", 50, 5000))),
        recording("void", a_void("wrong")),
        recording("back", a_return(a_line("4711", 1, 100), sale_key="sale")),
        recording("pickup", cash(-150)),
        recording("card", unknown()),
        recording("evening", day_close("2026-11-22", EUR=50, USD=7)),
        recording("float", cash(1000)),
        recording("no float", a_void("float")),
    )

    await projected(database, device.tenant_id)

    await tables.must_be(model)
    await tables.must_add_up()
    assert await tables.stock() == {(device.store_id, "4711"): Decimal(98)}
    assert (await tables.days())[device.store_id, BUSINESS_DAY, "EUR"] == (
        *(1, 300, 1, -100),
        *(2, -150, 50),
    )
    assert await tables.dead() == {}


POISON = {
    "unreadable": unreadable(),
    "does not add up": a_sale(a_line(total=100), total_minor=99),
    "currency": a_sale(currency="EURO"),
    "void of nothing": a_void("nobody"),
    "NUL": a_sale(a_line("4\x00711")),
    "long": a_sale(a_line("4" * 201)),
    "scale": a_sale(a_line(scale=19)),
    "money": pb.Sale(currency="EUR", lines=[a_line(total=2**63 - 1)] * 2),
    "discounts": a_sale(
        pb.SaleLine(total_minor=1, discounts=[pb.Discount(amount_minor=2**63 - 1)] * 2)
    ),
    "day": day_close("tomorrow"),
    "return": a_return(a_line(total=-5)),
    "no product": stock("", 1),
    "cash": cash(1, ""),
    "lines": a_sale(*[pb.SaleLine()] * (limits.MAX_DOCUMENT_LINES + 1), total_minor=0),
}


@pytest.mark.parametrize(
    ("poison", "place"),
    [*((poison, 10) for poison in POISON), ("unreadable", 0), ("unreadable", 19)],
)
async def test_i9_a_poison_event_delays_no_other(database, device, tables, poison, place):
    """A document that makes no sense is put aside with its reason, wherever it stands, and what
    stands around it is in the tables."""
    events = [recording(f"{n}", a_sale()) for n in range(19)]
    events.insert(place, recording("poison", POISON[poison]))
    positions = await ingest(database, device, *events)

    await projected(database, device.tenant_id)

    assert len(await tables.rows("sale")) == 19
    ((position, (_, attempts, state)),) = (await tables.dead()).items()
    assert (position, attempts, state) == (positions[place], 1, "waiting")
    (row,) = await tables.rows("dead_letter")
    assert row["description"]
    assert (row["key"], row["store_id"]) == ("poison", device.store_id)
    await tables.must_add_up()


async def test_i9_a_thousand_poison_events_in_a_row(database, device, tables):
    """A till with broken software sends a thousand of them: the sale after them is in the tables
    as soon as if they were good ones."""
    events = [recording(f"{n}", unreadable()) for n in range(998)]
    await ingest(database, device, *events, recording("last", a_sale()))

    await projected(database, device.tenant_id, limits.PROJECT_PAGE_EVENTS)

    assert len(await tables.dead()) == 998
    assert len(await tables.rows("sale")) == 1


async def refuse(migrator, receipt, sqlstate="22003"):
    """From now on Postgres refuses a sale with this receipt number."""
    await migrator.execute(
        f"""
        CREATE FUNCTION public.refuse_sale() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.receipt_number = '{receipt}' THEN
                RAISE EXCEPTION 'refused' USING ERRCODE = '{sqlstate}';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON tillsync.sale
        FOR EACH ROW EXECUTE FUNCTION public.refuse_sale()
        """
    )


@pytest.mark.parametrize("places", [[0], [40], [99], [3, 4, 5, 98], range(30, 60)])
async def test_i9_a_document_that_only_postgres_refuses_is_found(
    database, device, tables, migrator, places
):
    """What no check of ours foresaw, and the database does not take: it alone is put aside, in the
    database's words."""
    await refuse(migrator, "odd")
    events = [
        recording(f"{n}", a_sale(receipt_number="odd" if n in places else "r")) for n in range(100)
    ]
    positions = await ingest(database, device, *events)

    await projected(database, device.tenant_id, 64)

    assert await tables.dead() == {
        positions[place]: ("DATABASE_REFUSED", 1, "waiting") for place in places
    }
    assert len(await tables.rows("sale")) == 100 - len(places)
    await tables.must_add_up()


async def test_a_body_that_breaks_our_own_program_is_put_aside(
    database, device, tables, monkeypatch
):
    """A mistake of ours, met at one event: that one waits until it is mended, the others go on."""

    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(enrich, "_must_be_products", broken)
    await ingest(
        database, device, recording("a", cash(1)), recording("b", a_sale()), recording("c", cash(2))
    )

    await projected(database, device.tenant_id)

    assert [reason for reason, *_ in (await tables.dead()).values()] == ["PROJECTION_FAILED"]
    assert len(await tables.rows("movement")) == 2


async def test_a_void_takes_back_once(database, device, tables):
    """Two people void the same receipt: it is taken back once, and the second is shown."""
    model = Model()
    await arrive(
        database,
        device,
        model,
        recording("early", a_void("s")),
        recording("s", a_sale()),
        recording("v1", a_void("s")),
        recording("v2", a_void("s")),
        recording("v3", a_void("v1")),
    )

    await projected(database, device.tenant_id)

    await tables.must_be(model)
    assert [reason for reason, *_ in (await tables.dead()).values()] == [
        "VOID_UNKNOWN",
        "VOID_REPEATED",
        "VOID_UNKNOWN",
    ]


async def test_two_replicas_share_the_tenants_and_double_nothing(database, books, migrator):
    """Two replicas project the same retailers: each sale is in the tables once."""
    devices = [await books.enrol() for _ in range(4)]
    models = [Model() for _ in devices]
    async with working(a_worker(database), a_worker(database)):
        for number in range(20):
            for device, model in zip(devices, models, strict=True):
                events = [recording(f"{number}-{n}", a_sale()) for n in range(10)]
                await arrive(database, device, model, *events)
        for device, model in zip(devices, models, strict=True):
            tables = Tables(migrator, device.tenant_id)
            await eventually(lambda tables=tables: level(tables), within_seconds=20)
            await tables.must_be(model)
            await tables.must_add_up()


async def test_a_woken_worker_does_not_wait_for_its_next_look(database, device, tables):
    """A sale that was just taken in can be in the tables at once: who took it in says so."""
    worker = a_worker(database)
    never = asyncio.Event()

    async def no_more_looks(_seconds):
        await never.wait()

    running = asyncio.create_task(worker.run(no_more_looks))
    await ingest(database, device, recording("s", a_sale()))
    worker.wake(device.tenant_id)
    try:
        await eventually(lambda: level(tables))
    finally:
        running.cancel()


async def test_f35_a_cursor_that_cannot_be_written_is_written_later(
    database, device, tables, migrator, monkeypatch
):
    """The database fails once, twice, a few times at the cursor: nothing of the page is there
    meanwhile, and the worker goes on by itself when the database does."""
    monkeypatch.setattr(limits, "PROJECT_RETRY_SECONDS", 0.01)
    await migrator.execute("CREATE SEQUENCE public.tried")
    await migrator.execute("GRANT ALL ON SEQUENCE public.tried TO PUBLIC")
    await migrator.execute(
        """
        CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('public.tried') <= 3 THEN
                RAISE EXCEPTION 'canceled' USING ERRCODE = '57014';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER fail BEFORE UPDATE ON tillsync.projection
        FOR EACH ROW EXECUTE FUNCTION public.fail()
        """
    )
    await ingest(database, device, *[recording(f"{n}", a_sale()) for n in range(3)])
    store = ProjectionStore(database)
    with pytest.raises(Exception, match="cannot take this now"):
        await store.advance(device.tenant_id, PAGE)
    assert await tables.rows("sale") == []

    async with working(a_worker(database)):
        await eventually(lambda: level(tables), within_seconds=20)

    assert len(await tables.rows("sale")) == 3
    await tables.must_add_up()


async def test_f35_a_worker_outlives_whatever_goes_wrong(database, device, tables, monkeypatch):
    """Something nobody thought of fails again and again: the worker rests, longer each time, and
    does not end; the other retailers are served meanwhile."""
    monkeypatch.setattr(limits, "PROJECT_RETRY_SECONDS", 0.01)
    store = ProjectionStore(database)
    real, failures = store.advance, iter([RuntimeError(), OSError(), ValueError()])

    async def unlucky(*arguments):
        for failure in failures:
            raise failure
        return await real(*arguments)

    monkeypatch.setattr(store, "advance", unlucky)
    await ingest(database, device, recording("s", a_sale()))
    async with working(Worker(store, 1)):
        await eventually(lambda: level(tables), within_seconds=20)


async def test_a_tenant_that_was_deleted_is_let_go(database, device):
    """A tenant that is not there, or not any more, is no failure."""
    assert await ProjectionStore(database).advance(uuid4(), PAGE) is None


async def test_who_is_locked_out_lets_the_other_work(database, device, tables, migrator):
    """Another replica has the tenant: this one does not wait for it."""
    await ingest(database, device, recording("s", a_sale()))
    await projected(database, device.tenant_id)
    async with migrator.transaction():
        await migrator.fetch(TENANT_LOCK, device.tenant_id)

        assert await ProjectionStore(database).advance(device.tenant_id, PAGE) is None


async def test_what_is_done_is_told(database, device):
    """The operator's dashboard: how many were projected, skipped, put aside, and who is behind."""
    told = []
    await ingest(
        database,
        device,
        recording("s", a_sale()),
        recording("u", unknown()),
        recording("p", unreadable()),
    )

    worker = a_worker(
        database, observe=lambda name, value, **labels: told.append((name, value, *labels.values()))
    )
    async with working(worker):
        tenant = str(device.tenant_id)
        await eventually(lambda: ("projection_lag_events", 0, tenant) in told)

    for outcome in ("projected", "skipped", "dead"):
        assert ("projection_events_total", 1, tenant, outcome) in told
    assert ("projection_lag_events", 3, tenant) in told
