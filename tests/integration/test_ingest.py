"""Sales over real sockets into a real Postgres: each counts once, and none is lost or mixed up."""

import asyncio

import pytest

from support.books import CommitGate
from support.builders import a_device, an_event, examined, some_events
from support.polling import eventually
from support.service import Caller, failure_of, ids_as_token, ingest_served, names
from tillsync.v1.event_pb2 import Event, EventFlag
from tillsync.v1.ingest_service_pb2 import IngestStreamRequest
from tillsync_service.foundation.db import Database
from tillsync_service.ingest.group_commit import GroupCommit
from tillsync_service.ingest.store import IngestStore

INT64_MAX = 2**63 - 1


@pytest.fixture
async def served(database):
    async with ingest_served(database) as served:
        yield served


@pytest.fixture
async def till(served, device):
    async with Caller(served.address, ids_as_token(device)) as caller:
        yield caller


async def offer_in_stream(till: Caller, *batches: list[Event]) -> list[list[str]]:
    async def requests():
        for batch in batches:
            yield IngestStreamRequest(events=batch)

    return [names(response.verdicts) async for response in till.stream(requests())]


async def test_a_sale_arrives_whole(till, device, books):
    """What the till recorded is what head office holds, to the byte."""
    event = an_event("key", receipt="17", number=1, clock_offset_ms=-7, traceparent="00-a-b-01")

    response = await till.ingest(event)

    (row,) = await books.events(device.tenant_id)
    assert names(response.verdicts) == ["ACCEPTED"]
    assert (row["key"], row["body"], row["type_url"]) == (
        "key",
        event.body.value,
        event.body.type_url,
    )
    assert (row["store_id"], row["device_id"]) == (device.store_id, device.device_id)
    assert (row["outbox_epoch"], row["device_sequence"], row["clock_offset_ms"]) == (7, 1, -7)
    assert (row["occurred_at"], str(row["business_day"])) == (
        event.occurred_at.ToDatetime(row["occurred_at"].tzinfo),
        "2026-11-22",
    )
    assert (row["amounts"], row["traceparent"]) == ('{"USD": 1250}', "00-a-b-01")
    history_id = await books.connection.fetchval(
        "SELECT history_id::text FROM tillsync.tenant_head WHERE stream = 'event'"
    )
    assert response.history_id == history_id


async def test_i2_a_sale_counts_once_through_every_door(till, served, device, books):
    """The till asks again, in one call, in a stream, from another till of the chain: the sale
    counts once, and everybody hears where it is."""
    sale = an_event("sale", number=1)
    other_till = await books.enrol(device.tenant_id)

    first = await till.offer(sale)
    again = await till.offer(sale, sale)
    streamed = await offer_in_stream(till, [sale], [sale, sale])
    async with Caller(served.address, ids_as_token(other_till)) as caller:
        from_elsewhere = await caller.offer(an_event("sale", number=5, epoch=9))

    assert names(first) == ["ACCEPTED"]
    assert names([*again, *from_elsewhere]) == ["DUPLICATE"] * 3
    assert streamed == [["DUPLICATE"], ["DUPLICATE", "DUPLICATE"]]
    assert {verdict.position for verdict in (*first, *again, *from_elsewhere)} == {1}
    assert await books.keys(device.tenant_id) == ["sale"]
    ((count, money, _),) = (await books.days(device.tenant_id)).values()
    assert (count, money) == (1, 1250)


async def test_i2_many_callers_with_one_sale_at_once_store_it_once(till, device, books):
    """F10: an impatient till asks fifty times at once. One of them stores the sale, the others hear
    DUPLICATE, and the shop next door still gets a connection."""
    sale = an_event("sale")

    verdicts = await asyncio.gather(*(till.offer(sale) for _ in range(50)))

    assert sorted(names(v for each in verdicts for v in each)) == ["ACCEPTED"] + ["DUPLICATE"] * 49
    assert await books.keys(device.tenant_id) == ["sale"]
    connections = await books.connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'tillsync-service'"
    )
    assert connections <= 2


async def test_i2_two_replicas_with_one_sale_store_it_once(database_url, device, books):
    """F10: two replicas get the same sales at the same moment, as after a timeout behind a load
    balancer. Postgres decides, and each sale counts once."""
    pools = [await Database.connect(database_url) for _ in range(2)]
    replicas = [GroupCommit(IngestStore(pool)) for pool in pools]
    sales = [an_event(f"s{number}") for number in range(40)]

    receipts = await asyncio.gather(
        *(
            replica.submit(device.tenant_id, examined(device, sale))
            for sale in sales
            for replica in replicas
        )
    )

    outcomes = [name for receipt in receipts for name in names(receipt.verdicts)]
    assert sorted(outcomes) == ["ACCEPTED"] * 40 + ["DUPLICATE"] * 40
    assert await books.positions(device.tenant_id) == [*range(1, 41)]
    for pool in pools:
        await pool.close()


async def test_i2_a_sale_is_known_long_after_it_was_pruned(till, device, books):
    """F7: a till comes back after years with a sale whose row was archived and deleted long ago. It
    hears DUPLICATE with the old place, and nothing counts twice."""
    await till.offer(an_event("a"), an_event("old", number=2))
    await books.connection.execute("DELETE FROM tillsync.event")

    (verdict,) = await till.offer(an_event("old", number=2))

    assert (names([verdict]), verdict.position) == (["DUPLICATE"], 2)
    assert await books.keys(device.tenant_id) == []
    ((count, money, _),) = (await books.days(device.tenant_id)).values()
    assert (count, money) == (2, 2500)


async def test_i2_keys_compare_byte_by_byte(till, device, books):
    """Keys that merely look alike are different sales: case, blanks, accents made in two
    ways."""
    keys = ["a", "A", "a ", "\u00e9", "e\u0301", "k" * 200, "🛒" * 200]

    verdicts = await till.offer(*(an_event(key) for key in keys))

    assert names(verdicts) == ["ACCEPTED"] * len(keys)
    assert await books.keys(device.tenant_id) == keys


async def test_the_same_key_of_two_chains_is_two_sales(till, served, device, books):
    """F43: two chains that number alike know nothing of each other."""
    other = await books.enrol()
    await till.offer(an_event("k", receipt="1"))

    async with Caller(served.address, ids_as_token(other)) as caller:
        (verdict,) = await caller.offer(an_event("k", receipt="2"))

    assert (names([verdict]), verdict.position) == (["ACCEPTED"], 1)
    assert await books.keys(other.tenant_id) == await books.keys(device.tenant_id) == ["k"]


async def test_i3_another_sale_under_the_same_key_is_kept_aside_once(till, device, books):
    """F8: two tills number their receipts alike. The second sale is neither dropped nor put over
    the first: it waits in quarantine, once, however often it is offered."""
    first, other = an_event("k", receipt="1"), an_event("k", receipt="2", number=3)
    await till.offer(first)

    verdicts = [*await till.offer(other), *await till.offer(other, other)]
    third = await till.offer(an_event("k", receipt="3"))

    assert names([*verdicts, *third]) == ["CONFLICT"] * 4
    assert {verdict.position for verdict in verdicts} == {1}
    assert verdicts[0].refusal.reason == "KEY_CONFLICT"
    (held,) = await books.events(device.tenant_id)
    assert held["body"] == first.body.value
    kept = await books.quarantine(device.tenant_id)
    assert len(kept) == 2
    assert other in [Event.FromString(row["envelope"]) for row in kept]
    assert {row["held_position"] for row in kept} == {1}
    ((count, money, _),) = (await books.days(device.tenant_id)).values()
    assert (count, money) == (1, 1250)


async def test_i3_a_conflict_of_type_alone_is_a_conflict(till):
    """A return must not pass for the sale that has the same bytes."""
    await till.offer(an_event("k", body={"type_url": "x/Sale", "value": b"1"}))

    verdicts = await till.offer(an_event("k", body={"type_url": "x/Return", "value": b"1"}))

    assert names(verdicts) == ["CONFLICT"]


async def test_the_same_key_in_one_batch_with_the_same_and_another_body(till, device, books):
    """A till's bug puts one receipt number on three lines of a batch: one sale counts, its repeat
    is a repeat, the different one is kept aside, and the sale behind them is not touched."""
    verdicts = await till.offer(
        an_event("k"), an_event("k"), an_event("k", receipt="2"), an_event("z")
    )

    assert names(verdicts) == ["ACCEPTED", "DUPLICATE", "CONFLICT", "ACCEPTED"]
    assert [verdict.position for verdict in verdicts] == [1, 1, 1, 2]
    assert len(await books.quarantine(device.tenant_id)) == 1


async def test_i9_a_bad_sale_among_a_thousand_delays_none(till, device, books):
    """F13: one sale of a long backlog has no key. The other 999 land, and the bad one is named."""
    batch = [an_event(f"s{number}", number=number + 1) for number in range(1000)]
    batch[500].key = ""

    verdicts = await till.offer(*batch)

    assert names(verdicts) == ["ACCEPTED"] * 500 + ["REJECTED"] + ["ACCEPTED"] * 499
    assert verdicts[500].refusal.field == "key"
    assert len(await books.keys(device.tenant_id)) == 999
    assert await books.progress(device.tenant_id) == {(device.device_id, 7): {*range(1, 1001)}}
    assert await books.rejections(device.tenant_id) == [
        (device.device_id, 7, 501, "EVENT_NOT_STORABLE", "key")
    ]


@pytest.mark.parametrize("sqlstate", ["22021", "23514", "54000"])
async def test_i9_a_sale_that_only_postgres_refuses_delays_none(till, device, books, sqlstate):
    """F13: a sale that passes every check of ours and that Postgres will not hold is found among a
    thousand, explained, and everything around it is stored, once."""
    await books.refuse_key("s700", sqlstate)
    batch = [an_event(f"s{number}", number=number + 1) for number in range(1000)]

    verdicts = await till.offer(*batch)
    again = await till.offer(*batch)

    assert [n for n, name in enumerate(names(verdicts)) if name == "REJECTED"] == [700]
    assert names(verdicts).count("ACCEPTED") == 999
    assert names(again).count("DUPLICATE") == 999
    refusal = verdicts[700].refusal
    assert (refusal.reason, refusal.field) == ("EVENT_NOT_STORABLE", "")
    assert "refused" not in refusal.description
    assert str(device.tenant_id) not in refusal.description
    assert sorted(await books.positions(device.tenant_id)) == [*range(1, 1000)]
    assert await books.progress(device.tenant_id) == {(device.device_id, 7): {*range(1, 1001)}}
    assert await books.rejections(device.tenant_id) == [
        (device.device_id, 7, 701, "EVENT_NOT_STORABLE", "")
    ]


async def test_i9_a_refused_sale_of_one_till_leaves_the_other_tills_alone(
    till, served, device, books
):
    """A bad sale shares its transaction with the sales of other tills: they are stored and hear
    nothing of it."""
    await books.refuse_key("bad", "22000")
    gate = CommitGate(books.connection)
    await gate.build()
    await gate.close()
    other = await books.enrol(device.tenant_id)
    async with Caller(served.address, ids_as_token(other)) as caller:
        first = asyncio.create_task(till.offer(an_event("first")))
        await eventually(gate.waiting)
        together = [
            asyncio.create_task(till.offer(an_event("a"), an_event("bad"), an_event("b"))),
            asyncio.create_task(caller.offer(an_event("c"))),
        ]
        await gate.open()
        await first
        mixed, good = await asyncio.gather(*together)

    assert names(mixed) == ["ACCEPTED", "REJECTED", "ACCEPTED"]
    assert names(good) == ["ACCEPTED"]
    assert {*await books.keys(device.tenant_id)} == {"first", "a", "b", "c"}


async def test_i10_clocks_refuse_no_sale_and_order_nothing(till, device, books):
    """F29: tills with dead batteries, wrong years and no clock at all sell on. Their sales are
    stored in the order in which they came, each with its own date and a flag."""
    seconds = {
        "1970": 0,
        "2100": 4_102_444_800,
        "negative": -1,
        "year 1": -62_135_596_799,
        "year 9999": 253_402_300_798,
        "out of range": INT64_MAX,
    }
    batch = [an_event(key, occurred_at={"seconds": when}) for key, when in seconds.items()]
    absent = an_event("absent")
    absent.ClearField("occurred_at")

    verdicts = await till.offer(*batch, absent, an_event("right", occurred_at=None))

    assert names(verdicts) == ["ACCEPTED"] * 8
    assert [EventFlag.Name(flag)[11:] for verdict in verdicts for flag in verdict.flags] == [
        *["CLOCK_IMPLAUSIBLE"] * 5,
        "CLOCK_UNREADABLE",
        "CLOCK_ABSENT",
        "CLOCK_ABSENT",
    ]
    rows = await books.connection.fetch(
        "SELECT key, extract(epoch FROM occurred_at) AS seconds, flags"
        " FROM tillsync.event ORDER BY position"
    )
    assert [row["key"] for row in rows] == [*seconds, "absent", "right"]
    assert [row["seconds"] for row in rows] == [*list(seconds.values())[:5], None, None, None]
    assert [row["flags"] for row in rows[5:7]] == [
        1 << EventFlag.EVENT_FLAG_CLOCK_UNREADABLE,
        1 << EventFlag.EVENT_FLAG_CLOCK_ABSENT,
    ]


async def test_money_past_64_bits_is_exact(till, device, books):
    """A currency with many noughts overflows nobody's books, in one sale or over many."""
    sale = an_event("a", amounts=[("VND", INT64_MAX)] * 16)
    small = an_event("b", amounts=[("VND", -(2**63)), ("EUR", -1)])

    await till.offer(sale)
    await till.offer(small)

    days = await books.days(device.tenant_id)
    money = {currency: (count, minor) for (_, _, currency), (count, minor, _) in days.items()}
    assert money == {"VND": (2, 16 * INT64_MAX - 2**63), "EUR": (1, -1)}
    stored = await books.connection.fetchval(
        "SELECT (amounts ->> 'VND')::numeric FROM tillsync.event WHERE key = 'a'"
    )
    assert stored == 16 * INT64_MAX


async def test_odd_currencies_are_stored_as_they_are(till, device, books):
    """A voucher's own unit of value, quotes and all, does not break the books."""
    currencies = ['"', "\\", "'", "{}", "€", "\n"]

    verdicts = await till.offer(an_event("a", amounts=[(name, 1) for name in currencies]))

    assert names(verdicts) == ["ACCEPTED"]
    assert {currency for _, _, currency in await books.days(device.tenant_id)} == {*currencies}


async def test_a_sale_without_money_or_day_counts(till, device, books):
    """An event without amounts and without a day, such as an opened drawer, is counted too."""
    await till.offer(an_event("a", amounts=[], business_day=""))

    (((_, day, currency), (count, money, _)),) = (await books.days(device.tenant_id)).items()
    assert (currency, count, money) == ("XXX", 1, 0)
    assert day.year == 1
    assert (
        await books.connection.fetchval("SELECT business_day::text FROM tillsync.event")
        == "-infinity"
    )


@pytest.mark.parametrize(
    "body",
    [
        {"type_url": "type.googleapis.com/of.a.newer.Agent", "value": b"\x00\xff"},
        {"type_url": "type.googleapis.com/tillsync.v1.Sale", "value": b"\xff\xff not a Sale"},
        {"type_url": "x", "value": b""},
    ],
)
async def test_a_body_that_nobody_here_can_read_is_stored(till, device, books, body):
    """F46: a sale of a newer till, or a damaged one, is kept to the byte for whoever can read
    it."""
    assert names(await till.offer(an_event("a", body=body))) == ["ACCEPTED"]

    (row,) = await books.events(device.tenant_id)
    assert (row["type_url"], row["body"]) == (body["type_url"], body["value"])


async def test_a_reused_number_is_flagged_and_stored(till, device, books):
    """F30: a cloned till sells under numbers that were used before. Its sales count, and the flag
    tells its agent to start anew."""
    await till.offer(an_event("a", number=1), an_event("b", number=2))

    verdicts = await till.offer(an_event("b", number=2), an_event("c", number=2))

    assert names(verdicts) == ["DUPLICATE", "ACCEPTED"]
    assert [list(verdict.flags) for verdict in verdicts] == [[], [EventFlag.EVENT_FLAG_FORKED]]
    row = await books.event(device.tenant_id, "c")
    assert row["flags"] == 1 << EventFlag.EVENT_FLAG_FORKED


async def test_a_sale_that_head_office_lost_is_no_clones(till, device, books):
    """Head office's disk lost a sale and remembers its number. The till gives it back, and nobody
    takes it for a cloned disk; one that is a clone's is flagged in the same batch."""
    await till.offer(*(an_event(f"{number}", number=number) for number in (1, 2, 3)))
    for table in ("event", "event_key"):
        await books.connection.execute(f"DELETE FROM tillsync.{table} WHERE key = '2'")

    verdicts = await till.offer(
        an_event("2", number=2), an_event("3", number=3), an_event("c", number=3)
    )

    assert names(verdicts) == ["ACCEPTED", "DUPLICATE", "ACCEPTED"]
    forked = [EventFlag.EVENT_FLAG_FORKED]
    assert [list(verdict.flags) for verdict in verdicts] == [[], [], forked]


async def test_holes_in_the_numbers_stay_visible(till, device, books):
    """The operator sees which sales of a till never came, whatever the order of the others."""
    for numbers in ([5, 6], [1, 2], [9], [2, 5]):
        await till.offer(*(an_event(f"n{number}", number=number) for number in numbers))

    assert await books.progress(device.tenant_id) == {(device.device_id, 7): {1, 2, 5, 6, 9}}
    stored = await books.connection.fetchval("SELECT sequences::text FROM tillsync.device_progress")
    assert stored == "{[1,3),[5,7),[9,10)}"


async def test_a_stream_answers_batch_by_batch_in_order(till, device, books):
    """A till with a long backlog sends ahead and lets go of each batch as its answer comes."""
    batches = [[an_event(f"{batch}-{n}") for n in range(20)] for batch in range(20)]

    answers = await offer_in_stream(till, *batches)

    assert answers == [["ACCEPTED"] * 20] * 20
    assert await books.keys(device.tenant_id) == [event.key for batch in batches for event in batch]


async def test_a_till_that_hangs_up_takes_nobody_with_it(till, served, device, books):
    """F9: a till is switched off while its batch is being committed together with another till's.
    Both are stored; the one that hung up hears DUPLICATE when it is back."""
    gate = CommitGate(books.connection)
    await gate.build()
    await gate.close()
    other = await books.enrol(device.tenant_id)
    async with Caller(served.address, ids_as_token(other)) as caller:
        cut = [asyncio.create_task(till.offer(an_event("a")))]
        await eventually(gate.waiting)
        cut.append(asyncio.create_task(till.offer(an_event("b"))))
        staying = asyncio.create_task(caller.offer(an_event("c")))
        await eventually(lambda: served.doorkeeper._house.inside == 3)

        for call in cut:
            call.cancel()
        await eventually(lambda: served.doorkeeper._house.inside == 1)
        await gate.open()

        assert names(await staying) == ["ACCEPTED"]
    assert names(await till.offer(an_event("a"), an_event("b"))) == ["DUPLICATE", "DUPLICATE"]
    assert sorted(await books.keys(device.tenant_id)) == ["a", "b", "c"]


async def test_a_chain_in_a_jam_keeps_no_other_chain_waiting(till, served, device, books):
    """While one chain's transactions hang, the sale of another chain is stored and answered."""
    gate = CommitGate(books.connection)
    await gate.build()
    other = await books.enrol()
    async with Caller(served.address, ids_as_token(other)) as caller:
        await books.connection.execute("BEGIN")
        await books.connection.execute(
            "SELECT FROM tillsync.tenant_head WHERE tenant_id = $1 FOR UPDATE", device.tenant_id
        )
        jammed = [asyncio.create_task(till.offer(*some_events(1000))) for _ in range(10)]
        await eventually(lambda: served.doorkeeper._house.inside == 10)

        assert names(await asyncio.wait_for(caller.offer(an_event("a")), 3)) == ["ACCEPTED"]

        await books.connection.execute("ROLLBACK")
        await asyncio.gather(*jammed)
    assert await books.head(device.tenant_id) == 10_000


async def test_off_mode_keeps_every_promise(database, device, books):
    """Without grouping each call has a transaction of its own, and still each sale counts once."""
    group_commit = GroupCommit(IngestStore(database), max_group_events=1, max_groups_per_tenant=10)
    sales = [an_event(f"s{number % 20}") for number in range(60)]

    receipts = await asyncio.gather(
        *(group_commit.submit(device.tenant_id, examined(device, sale)) for sale in sales)
    )

    outcomes = [name for receipt in receipts for name in names(receipt.verdicts)]
    assert sorted(outcomes) == ["ACCEPTED"] * 20 + ["DUPLICATE"] * 40
    assert await books.positions(device.tenant_id) == [*range(1, 21)]


async def test_a_chain_that_is_gone_is_told_so(served):
    """A till whose chain was deleted keeps what it has and hears why."""
    async with Caller(served.address, ids_as_token(a_device())) as caller:
        failure = await failure_of(caller.ingest(an_event()))

    assert (failure.code.name, failure.reason) == ("NOT_FOUND", "TENANT_GONE")
