"""An operator asks: is anything missing, from whom, since when, and why?"""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from support.builders import BUSINESS_DAY, an_event
from support.reconciling import EPOCH, ReconcilingTill, a_book, a_day, spans_of
from tillsync.v1 import books_service_pb2 as pb
from tillsync.v1 import reconcile_service_pb2 as reconcile_pb

A_UUID = str(uuid4())
NEXT_DAY = "2026-11-23"


class Shop:
    """A tenant with one store and its operator; made by `a_shop`."""

    def __init__(self, fleet, request):
        self.fleet = fleet
        self.tenant_id, self.store_id = request.tenant_id, request.store_id
        self.operator = fleet.operator()
        self.tills = []

    async def a_till(self, name="till 1", store_id=None):
        ids = {"tenant_id": self.tenant_id, "store_id": store_id or self.store_id}
        code = (await self.operator.call("CreateEnrolmentCode", **ids)).code
        enrolled = self.fleet.till()
        await enrolled.enrol(code, name)
        token = (await enrolled.issue()).access_token
        till = ReconcilingTill(self.fleet.address, self.fleet.caller_of(token), token)
        self.tills.append(till)
        return till

    async def missing(self, **fields):
        return await self.operator.call("ListMissing", tenant_id=self.tenant_id, **fields)

    async def waive(self, till, **fields):
        fields = {"reason": "the disk broke", **fields}
        answer = await self.operator.call(
            "Waive", tenant_id=self.tenant_id, device_id=id_of(till), **fields
        )
        return answer.waiver

    async def day(self, day=BUSINESS_DAY):
        answer = await self.operator.call(
            "ListDay", tenant_id=self.tenant_id, store_id=self.store_id, business_day=day
        )
        return {device.device_name: device for device in answer.devices}


async def a_shop(fleet):
    return Shop(fleet, await fleet.a_store())


@pytest.fixture
async def shop(fleet):
    shop = await a_shop(fleet)
    yield shop
    for till in shop.tills:
        await till.channel.close()


@pytest.fixture
async def till(shop):
    return await shop.a_till()


def id_of(till):
    return str(till.device.device_id)


def sales(*numbers, **fields):
    return [an_event(number=n, receipt=f"{n}", **fields) for n in numbers]


def difference(day):
    return (day.business_day, day.currency, day.missing_events, day.missing_minor)


async def test_a_chain_that_has_everything_lists_nothing(shop, till):
    """A shop whose sales all arrived: the operator sees an empty list, and how many tills were
    looked at for it."""
    events = sales(1, 2)
    await till.offer(*events)
    await till.reconcile(last=2, days=[a_day(*events)])
    await shop.a_till("never sold")

    answer = await shop.missing()

    assert (list(answer.devices), answer.devices_examined) == ([], 2)
    assert not answer.next_page_token


async def test_what_is_missing_is_named_with_its_money(shop, till):
    """Three of a till's sales never came: the operator reads whose they are, the numbers, the day
    and the money, and when the till was last heard of."""
    events = sales(*range(1, 8))
    await till.offer(*(e for e in events if e.device_sequence not in {2, 3, 7}))
    before = datetime.now(UTC) - timedelta(minutes=5)
    await till.reconcile(last=7, days=[a_day(*events)])

    (device,) = (await shop.missing()).devices

    assert (device.device_id, device.device_name) == (id_of(till), "till 1")
    assert (device.store_id, device.store_code) == (shop.store_id, "1")
    assert device.last_heard_at.ToDatetime(UTC) > before
    assert spans_of(device.holes) == [(2, 3), (7, 7)]
    assert {hole.epoch for hole in device.holes} == {EPOCH}
    assert device.missing_events == 3
    assert list(map(difference, device.days)) == [(BUSINESS_DAY, "USD", 3, "3750")]
    assert device.days[0].claimed_at.ToDatetime(UTC) > before


async def test_a_hole_is_seen_although_the_till_never_claimed(shop, till):
    """A till sends numbers 1 and 5 and dies: what lies between is missing, whatever it would have
    said of itself."""
    await till.offer(*sales(1, 5))

    (device,) = (await shop.missing()).devices

    assert (spans_of(device.holes), device.missing_events) == ([(2, 4)], 3)
    assert device.HasField("last_heard_at")


async def test_numbers_that_nobody_can_hold_are_counted_as_far_as_can_be(shop, till):
    """A broken till claims as many sales as there are numbers, in three outboxes: the list says
    so, and does not fail."""
    most = 2**63 - 2
    claims = [{"epoch": epoch, "last_sequence": most} for epoch in (1, 2, 3)]
    await till.ask(reconcile_pb.ReconcileRequest(outboxes=claims))

    (device,) = (await shop.missing()).devices

    assert spans_of(device.holes) == [(1, most)] * 3
    assert device.missing_events == 2**63 - 1


async def test_a_very_holey_till_shows_its_lowest_holes(shop, till, migrator):
    """A till with hundreds of holes fits the list: the lowest hundred, and how many numbers there
    are in all."""
    await till.reconcile(last=1)
    await migrator.execute(
        "INSERT INTO tillsync.device_progress (tenant_id, device_id, outbox_epoch, sequences)"
        " SELECT $1, $2, 7, range_agg(int8range(2 * n, 2 * n + 1)) FROM generate_series(1, 300) n",
        till.device.tenant_id,
        till.device.device_id,
    )

    (device,) = (await shop.missing()).devices

    assert spans_of(device.holes) == [(2 * n + 1, 2 * n + 1) for n in range(100)]
    assert device.missing_events == 300


async def test_every_kind_of_difference_is_listed(shop, till):
    """Money is short in one currency and right in the other, contents differ, a day that declared
    no date: each is a line of its own; one that agrees is none."""
    held = sales(1, 2)
    undeclared = sales(3, business_day="")
    await till.offer(*held, *undeclared)
    claim = a_day(*held)
    claim.books.append(a_book(*sales(9, amounts=(("EUR", -500),)), currency="EUR"))
    other_content = a_day(*sales(4), day="")
    await till.reconcile(last=3, days=[claim, other_content])

    (device,) = (await shop.missing()).devices

    assert list(map(difference, device.days)) == [
        ("", "USD", 0, "0"),
        (BUSINESS_DAY, "EUR", 1, "-500"),
    ]


async def test_what_was_sold_after_a_claim_is_no_difference(shop, till):
    """Till and head office agree, and the till sells on: until its next claim head office has more
    than it said, and no operator is bothered. What was short stays listed."""
    events = sales(1, 2, 3)
    await till.offer(*events[:2])
    await till.reconcile(last=2, days=[a_day(*events[:2])])
    await till.offer(events[2])
    sold_on = (await shop.missing()).devices
    short = sales(4, 5, 6, business_day=NEXT_DAY)
    await till.reconcile(last=3, days=[a_day(*short, day=NEXT_DAY)])
    await till.offer(short[0])

    (device,) = (await shop.missing()).devices

    assert not sold_on
    assert list(map(difference, device.days)) == [(NEXT_DAY, "USD", 2, "2500")]


async def test_f30_a_till_whose_disk_went_back_in_time_is_named(shop, till):
    """F30: a till was restored from an old disk image. It says less than it sent, and what it
    counted and never sent is gone with the disk: the operator sees both."""
    events = sales(*range(1, 6))
    await till.offer(*events[:4])
    await till.reconcile(last=5, days=[a_day(*events)])
    await till.reconcile(last=2, days=[a_day(*events[:2])])

    (device,) = (await shop.missing()).devices

    assert spans_of(device.holes) == [(5, 5)]
    assert list(map(difference, device.days)) == [(BUSINESS_DAY, "USD", -2, "-2500")]


async def test_f30_two_tills_with_one_disk_lose_nothing_and_are_named(shop, till):
    """F30: a cloned disk sells with numbers that were used before. Both sales count, the day is
    not equal to what either of the two says, it is not closed, and the operator sees it."""
    original, clone = sales(1, 2, 3), sales(3, key="the clone's")
    await till.offer(*original)
    await till.offer(*clone)
    answer = await till.reconcile(last=3, days=[a_day(*original, close=True)])

    (device,) = (await shop.missing()).devices

    assert (answer.days[0].equal, answer.days[0].closed) == (False, False)
    assert answer.days[0].books == [a_book(*original, *clone)]
    assert not device.holes
    assert list(map(difference, device.days)) == [(BUSINESS_DAY, "USD", -1, "-1250")]


async def test_f30_a_till_whose_numbers_two_sales_have_is_named(shop, till, migrator):
    """F30: a cloned disk sells on. Nothing is missing, and the operator reads all the same which
    till it is, how many sales share a number with another, and the latest; sales that head office
    lost and got back are none of them."""
    originals, clones = sales(1, 2, 3), [an_event(number=n, key=f"clone {n}") for n in (2, 3)]
    await till.offer(*originals)
    for table in ("event", "event_key"):
        await migrator.execute(f"DELETE FROM tillsync.{table} WHERE key = $1", originals[0].key)
    await till.offer(*originals)
    before = (await shop.missing()).devices
    for clone in clones:
        await till.offer(clone)

    (device,) = (await shop.missing()).devices
    await migrator.execute("UPDATE tillsync.audit SET happened_at = '2026-11-23 09:00Z'")
    since = [(await shop.missing(since=day)).devices for day in (NEXT_DAY, "2026-11-24")]

    assert not before
    assert (device.device_id, list(device.holes), list(device.days)) == (id_of(till), [], [])
    assert (device.fork.events, device.fork.epoch, device.fork.sequence) == (2, EPOCH, 3)
    assert device.fork.HasField("noticed_at")
    assert list(map(len, since)) == [1, 0]


async def test_since_leaves_the_past_alone(shop, till, migrator):
    """An operator who looks at this week is not shown last year: older days are left out, and the
    holes of tills not heard of since."""
    await till.offer(*sales(1, 3))
    await till.reconcile(days=[a_day(*sales(1, 9)), a_day(*sales(8), day=NEXT_DAY)])
    for table, column in (
        ("device_progress", "changed_at"),
        ("outbox_claim", "claimed_at"),
        ("day_claim", "claimed_at"),
    ):
        await migrator.execute(f"UPDATE tillsync.{table} SET {column} = '2026-11-23 09:00Z'")

    listed = {}
    for since in ("", NEXT_DAY, "2026-11-24"):
        devices = (await shop.missing(since=since)).devices
        listed[since] = [([d.business_day for d in one.days], len(one.holes)) for one in devices]

    assert listed == {
        "": [([BUSINESS_DAY, NEXT_DAY], 1)],
        NEXT_DAY: [([NEXT_DAY], 1)],
        "2026-11-24": [],
    }


async def test_pages_and_stores(shop):
    """An operator turns the pages and sees each till once, or looks at one shop only."""
    other = await shop.operator.call("CreateStore", tenant_id=shop.tenant_id, code="2", name="B")
    for number in range(5):
        store_id = other.store.store_id if number == 4 else shop.store_id
        till = await shop.a_till(f"till {number}", store_id)
        if number != 3:
            await till.offer(*sales(2))

    seen, examined, token = [], [], ""
    while True:
        page = await shop.missing(page_size=2, page_token=token)
        seen += [device.device_id for device in page.devices]
        examined.append(page.devices_examined)
        token = page.next_page_token
        if not token:
            break
    of_other = (await shop.missing(store_id=other.store.store_id)).devices

    lacking = [till for number, till in enumerate(shop.tills) if number != 3]
    assert seen == sorted(map(id_of, lacking))
    assert examined == [2, 2, 1]
    assert [device.device_name for device in of_other] == ["till 4"]


async def test_waived_numbers_are_shown_as_waived(shop, till, migrator):
    """A till's disk broke with three sales on it. The operator says so: they are not missing any
    more, everybody can read why and who said it, it is in the audit, and the day can be closed."""
    events = sales(1, 5)
    await till.offer(*events)
    claim = a_day(*events, close=True)
    open_day = (await till.reconcile(last=6, days=[claim])).days[0]

    waiver = await shop.waive(till, span={"epoch": EPOCH, "first": 2, "last": 4})
    (partly,) = (await shop.missing()).devices
    await shop.waive(till, span={"epoch": EPOCH, "first": 6, "last": 6})
    (wholly,) = (await shop.missing()).devices
    closed_day = (await till.reconcile(last=6, days=[claim])).days[0]

    assert (waiver.epoch, waiver.first, waiver.last) == (EPOCH, 2, 4)
    assert (waiver.reason, waiver.waived_by, waiver.business_day) == ("the disk broke", "test", "")
    assert waiver.HasField("waived_at")
    assert (spans_of(partly.holes), list(partly.waivers)) == ([(6, 6)], [waiver])
    assert (list(wholly.holes), wholly.missing_events, len(wholly.waivers)) == ([], 0, 2)
    assert (open_day.closed, closed_day.closed) == (False, True)
    rows = await migrator.fetch("SELECT * FROM tillsync.audit ORDER BY happened_at")
    assert [(row["actor"], row["action"]) for row in rows] == [("test", "waive")] * 2
    detail = json.loads(rows[0]["detail"])
    assert detail.pop("waiver_id")
    assert detail == {
        "device_id": id_of(till),
        "epoch": EPOCH,
        "first": 2,
        "last": 4,
        "reason": "the disk broke",
    }


async def test_a_waived_sale_that_comes_after_all_counts(shop, till):
    """The broken disk was repaired: the waived sales arrive, count, and nothing is waived any
    more."""
    await till.offer(*sales(2))
    await shop.waive(till, span={"epoch": EPOCH, "first": 1, "last": 1})

    await till.offer(*sales(1))

    assert not (await shop.missing()).devices


async def test_a_till_hears_what_was_waived(shop, till):
    """A till's disk broke, and the operator waived what was on it: the till hears which numbers
    and which day nobody waits for, so that its own comparison can end; what it lacks besides comes
    first."""
    await till.offer(*sales(1, 5))
    other = a_day(*sales(8), day=NEXT_DAY)
    claims = {"last": 7, "days": [a_day(*sales(1, 2, 5)), other]}
    before = await till.reconcile(**claims)
    await shop.waive(till, span={"epoch": EPOCH, "first": 2, "last": 3})
    await shop.waive(till, span={"epoch": EPOCH, "first": 5, "last": 6})
    await shop.waive(till, business_day=BUSINESS_DAY)

    after = await till.reconcile(**claims)
    await till.offer(*sales(2))
    at_last = await till.reconcile(**claims)

    assert (spans_of(before.missing), list(before.waived)) == ([(2, 4), (6, 7)], [])
    assert spans_of(after.missing) == [(4, 4), (7, 7), (2, 3), (6, 6)]
    assert spans_of(after.waived) == [(2, 3), (6, 6)]
    assert [day.waived for day in before.days] == [False, False]
    assert [day.waived for day in after.days] == [True, False]
    assert spans_of(at_last.waived) == [(3, 3), (6, 6)]
    assert at_last.days[0].equal


async def test_waived_numbers_do_not_hide_what_is_missing(shop, till, migrator):
    """A till has a thousand waived holes and one that it can give back: it is told of that one."""
    await migrator.execute(
        "INSERT INTO tillsync.device_progress (tenant_id, device_id, outbox_epoch, sequences)"
        " SELECT $1, $2, $3, range_agg(int8range(2 * n, 2 * n + 1))"
        " FROM generate_series(1, 1500) n",
        till.device.tenant_id,
        till.device.device_id,
        EPOCH,
    )
    await shop.waive(till, span={"epoch": EPOCH, "first": 1, "last": 3000})

    answer = await till.reconcile(last=3002)

    assert spans_of(answer.missing)[0] == (3001, 3002)
    assert (len(answer.missing), len(answer.waived), answer.more_missing) == (1000, 999, True)


async def test_a_waived_day_is_shown_as_waived(shop, till):
    """A day's difference will never be explained, and the operator says so: it is no longer
    missing, in the list and on the day."""
    await till.offer(*sales(1))
    await till.reconcile(last=1, days=[a_day(*sales(1, 2))])

    waiver = await shop.waive(till, business_day=BUSINESS_DAY)
    await shop.waive(till, business_day=NEXT_DAY)
    (device,) = (await shop.missing()).devices

    assert (waiver.epoch, waiver.first, waiver.last) == (0, 0, 0)
    assert waiver.business_day == BUSINESS_DAY
    assert (list(device.days), list(device.waivers)) == ([], [waiver])
    assert (await shop.day())["till 1"].state == pb.DAY_STATE_WAIVED


async def test_a_day_shows_every_till_of_the_store(shop):
    """Before the shop's day is closed for good, the operator sees who closed, who is open, who was
    closed and sold on, who is silent; a till that was revoked is not waited for."""
    for name in ("closed", "open", "reopened", "said it sold", "silent", "revoked"):
        await shop.a_till(name)
    closed, opened, reopened, said, _, revoked = shop.tills
    events = sales(1, 2)
    await closed.offer(*events)
    await closed.reconcile(last=2, days=[a_day(*events, close=True)])
    await opened.offer(*sales(1))
    first = sales(1)
    await reopened.offer(*first)
    await reopened.reconcile(last=1, days=[a_day(*first, close=True)])
    await reopened.offer(*sales(2))
    await said.reconcile(last=1, days=[a_day(*sales(1))])
    ids = {"tenant_id": shop.tenant_id, "device_id": id_of(revoked)}
    await shop.operator.call("RevokeDevice", **ids)

    day = await shop.day()

    states = {name: pb.DayState.Name(device.state) for name, device in day.items()}
    assert states == {
        "closed": "DAY_STATE_CLOSED",
        "open": "DAY_STATE_OPEN",
        "reopened": "DAY_STATE_REOPENED",
        "said it sold": "DAY_STATE_OPEN",
        "silent": "DAY_STATE_SILENT",
    }
    assert list(day["closed"].books) == [a_book(*events)]
    assert (day["closed"].revision, day["reopened"].revision, day["open"].revision) == (1, 1, 0)
    heard = {name for name, device in day.items() if device.HasField("last_heard_at")}
    assert heard == {"closed", "open", "reopened", "said it sold"}
    assert [d.device_id for d in day.values()] == sorted(d.device_id for d in day.values())
    other_day = await shop.day(NEXT_DAY)
    assert {device.state for device in other_day.values()} == {pb.DAY_STATE_SILENT}


async def test_a_day_with_made_up_currencies_can_be_shown(shop, till, migrator):
    """One till of the shop makes up currencies: the operator sees the day all the same."""
    await migrator.execute(
        "INSERT INTO tillsync.device_day SELECT $1, $2, $3::text::date, 'N' || n, 1, 5, n"
        " FROM generate_series(1, 200000) n",
        till.device.tenant_id,
        till.device.device_id,
        BUSINESS_DAY,
    )

    assert len((await shop.day())["till 1"].books) == 101


async def test_i11_a_restored_database_gets_new_histories(fleet, shop, till, migrator):
    """The operator restored a backup and says so: every retailer's histories have new ids, tills
    see it at their next answer, and it is in each retailer's audit."""
    other = await a_shop(fleet)
    sale = sales(1)
    before = (await till.ingest(*sale)).history_id
    heads = "SELECT tenant_id, stream, history_id FROM tillsync.tenant_head"
    old = {tuple(row) for row in await migrator.fetch(heads)}

    answer = await shop.operator.call("DeclareRestored", reason="disk array failed")

    new = {tuple(row) for row in await migrator.fetch(heads)}
    assert answer.tenants == 2
    assert not old & new
    assert len({history_id for *_, history_id in new}) == 4
    after = (await till.ingest(*sale)).history_id
    assert after == (await till.reconcile(last=1)).history_id != before
    rows = await migrator.fetch("SELECT * FROM tillsync.audit")
    assert {row["tenant_id"] for row in rows} == {UUID(shop.tenant_id), UUID(other.tenant_id)}
    for row in rows:
        detail = json.loads(row["detail"])
        assert (row["actor"], row["action"]) == ("test", "restored")
        assert detail["reason"] == "disk array failed"
        ended = {UUID(history_id) for history_id in detail["ended"].values()}
        assert ended == {h for tenant_id, _, h in old if tenant_id == row["tenant_id"]}
