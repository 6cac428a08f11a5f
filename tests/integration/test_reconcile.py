"""A till asks whether all that it recorded is at head office, down to the single sale."""

import grpc
import pytest

from support.builders import BUSINESS_DAY, a_device, an_event
from support.reconciling import (
    EPOCH,
    ReconcilingTill,
    a_book,
    a_day,
    digest_of,
    reconciling_served,
    spans_of,
)
from support.service import failure_of, names
from tillsync.v1 import reconcile_service_pb2 as pb
from tillsync.v1.event_pb2 import Outcome


@pytest.fixture
async def address(database):
    async with reconciling_served(database) as address:
        yield address


@pytest.fixture
async def till(address, device):
    async with ReconcilingTill(address, device) as till:
        yield till


def sales(*numbers, **fields):
    return [an_event(number=n, receipt=f"{n}", **fields) for n in numbers]


def why(response):
    """(number, outcome, reason, field) of each disposition."""
    return [
        (d.sequence, Outcome.Name(d.outcome).removeprefix("OUTCOME_"), d.reason, d.field)
        for d in response.dispositions
    ]


async def test_what_never_came_is_named(till):
    """A till lost three sales on the way: head office names the numbers, and after the till has
    offered them again nothing is missing and the day is equal."""
    events = sales(*range(1, 11))
    await till.offer(*(event for event in events if event.device_sequence not in {3, 4, 8}))

    before = await till.reconcile(last=12, days=[a_day(*events)])
    await till.offer(*events)
    after = await till.reconcile(last=10, days=[a_day(*events)])

    assert spans_of(before.missing) == [(3, 4), (8, 8), (11, 12)]
    assert not before.days[0].equal
    assert (list(after.missing), after.days[0].equal) == ([], True)
    assert after.days[0].books == [a_book(*events)]
    assert after.history_id == before.history_id != ""


async def test_a_quiet_till_has_nothing_missing(till):
    """A new till that sold nothing, or says nothing of itself, hears that nothing is missing."""
    nothing = await till.reconcile()
    counted = await till.reconcile(last=0, days=[a_day(close=True)])

    assert not nothing.missing
    assert not counted.missing
    assert (counted.days[0].equal, counted.days[0].closed) == (True, True)


@pytest.mark.parametrize(
    ("change", "value"),
    [("event_count", 3), ("amount_minor", "2501"), ("digest", b"\1" * 16), ("currency", "EUR")],
)
async def test_any_difference_is_a_difference(till, change, value):
    """Counts, money and contents must all agree, in every currency, before a day is equal."""
    events = sales(1, 2)
    await till.offer(*events)
    claim = a_day(*events, close=True)
    setattr(claim.books[0], change, value)

    answer = (await till.reconcile(last=2, days=[claim])).days[0]

    assert (answer.equal, answer.closed, answer.revision) == (False, False, 0)
    assert answer.books == [a_book(*events)]


async def test_a_currency_that_only_one_side_has_is_a_difference(till):
    """A day with dollars and euros is not that of the dollars only, whoever lacks the euros."""
    dollars = sales(1)
    euros = sales(2, amounts=(("EUR", 500),))
    await till.offer(*dollars)
    claim = a_day(*dollars)
    claim.books.append(a_book(*euros, currency="EUR"))

    lacks = (await till.reconcile(last=2, days=[claim])).days[0]
    await till.offer(*euros)
    equal = (await till.reconcile(last=2, days=[claim])).days[0]
    more = (await till.reconcile(last=2, days=[a_day(*dollars)])).days[0]

    assert (lacks.equal, equal.equal, more.equal) == (False, True, False)


async def test_a_blank_currency_is_a_currency(till):
    """A point of sale writes a space for its currency: its sales are stored, so its day is compared
    and closed like any other."""
    events = sales(1, 2, amounts=((" ", 500),))
    await till.offer(*events)
    claim = pb.DayClaim(
        business_day=BUSINESS_DAY, books=[a_book(*events, currency=" ")], close=True
    )

    answer = (await till.reconcile(last=2, days=[claim])).days[0]

    assert (answer.equal, answer.closed) == (True, True)


async def test_events_without_a_day_have_a_day_of_their_own(till):
    """Sales whose point of sale declared no business day are compared together, under no name."""
    events = sales(1, 2, business_day="")
    await till.offer(*events)

    answer = (await till.reconcile(last=2, days=[a_day(*events, day="")])).days[0]

    assert (answer.business_day, answer.equal) == ("", True)


async def test_a_day_is_closed_once_and_opened_by_a_late_sale(till, migrator):
    """The shop closes its day and asks again: one revision. A late sale opens the day; when it is
    closed again that is the second revision, and both are on record."""
    events = sales(1, 2, 3)
    await till.offer(*events[:2])
    closed = [
        (await till.reconcile(last=2, days=[a_day(*events[:2], close=True)])).days[0]
        for _ in range(2)
    ]
    await till.offer(events[2])
    reopened = (await till.reconcile(last=3, days=[a_day(*events)])).days[0]
    again = (await till.reconcile(last=3, days=[a_day(*events, close=True)])).days[0]

    assert [(day.closed, day.revision) for day in closed] == [(True, 1), (True, 1)]
    assert (reopened.equal, reopened.closed, reopened.revision) == (True, False, 1)
    assert (again.closed, again.revision) == (True, 2)
    rows = await migrator.fetch("SELECT * FROM tillsync.day_close ORDER BY revision")
    assert [(row["revision"], row["event_count"]) for row in rows] == [(1, 2), (2, 3)]


async def test_a_day_is_not_closed_while_a_number_is_missing(till):
    """A day looks equal, but a number of the till never came, in this outbox or in one before: it
    may be of that day, so the day stays open."""
    events = sales(1, 3)
    await till.offer(*events)
    claim = a_day(*events, close=True)

    hole = (await till.reconcile(last=3, days=[claim])).days[0]
    await till.offer(an_event(number=2, business_day="2026-11-21"))
    older = pb.OutboxClaim(epoch=5, last_sequence=1)
    await till.ask(pb.ReconcileRequest(outboxes=[older]))
    other = (await till.reconcile(last=3, days=[claim])).days[0]
    await till.offer(an_event(number=1, epoch=5, business_day="2026-11-21"))
    whole = (await till.reconcile(last=3, days=[claim])).days[0]

    assert (hole.equal, hole.closed) == (True, False)
    assert (other.equal, other.closed) == (True, False)
    assert (whole.equal, whole.closed) == (True, True)


async def test_a_day_is_not_closed_while_an_outbox_has_holes_that_was_never_claimed(till):
    """A till's file broke before it was ever compared, and the till goes on with a new one: a
    number of the old one is missing, as the operator sees, so no day is closed over it."""
    await till.offer(*(an_event(number=n, epoch=5, business_day="2026-11-21") for n in (1, 3)))
    events = sales(1, 2)
    await till.offer(*events)
    claim = a_day(*events, close=True)

    open_day = (await till.reconcile(last=2, days=[claim])).days[0]
    await till.offer(an_event(number=2, epoch=5, business_day="2026-11-21"))
    closed_day = (await till.reconcile(last=2, days=[claim])).days[0]

    assert (open_day.equal, open_day.closed) == (True, False)
    assert closed_day.closed


async def test_a_difference_is_narrowed_down_by_sums(till):
    """A till keeps a sale of another content than head office has: the sums of spans lead to it."""
    events = sales(*range(1, 101))
    await till.offer(*events)

    answers = (await till.reconcile(spans=[(1, 100), (1, 50), (51, 51), (101, 200)])).spans

    assert [(a.event_count, a.digest) for a in answers] == [
        (100, digest_of(*events)),
        (50, digest_of(*events[:50])),
        (1, digest_of(events[50])),
        (0, bytes(16)),
    ]
    assert answers[1].span == pb.SequenceSpan(epoch=EPOCH, first=1, last=50)


async def test_every_number_that_is_not_in_the_history_is_explained(till, books):
    """A refused sale, one in quarantine and one that another number brought are not missing for
    ever: the till hears what became of each."""
    first = an_event(number=1, key="a")
    verdicts = await till.offer(
        first,
        an_event(number=2, key=""),
        an_event(number=3, key="a", receipt="other"),
        an_event(number=4, key="a"),
    )
    assert names(verdicts) == ["ACCEPTED", "REJECTED", "CONFLICT", "DUPLICATE"]

    claimed = await till.reconcile(last=4, days=[a_day(first, close=True)])
    narrowed = await till.reconcile(spans=[(4, 4)])

    assert why(claimed) == [
        (2, "REJECTED", "EVENT_NOT_STORABLE", "key"),
        (3, "CONFLICT", "KEY_CONFLICT", "key"),
    ]
    assert why(narrowed) == [(4, "DUPLICATE", "", "")]
    assert (claimed.days[0].equal, claimed.days[0].closed) == (True, True)


async def test_a_pruned_sale_still_counts_in_its_day(till, migrator):
    """Head office prunes old sales from its history: their day is equal and closed as before, none
    is missing, and a till that asks for their numbers is told that they were taken in."""
    events = sales(1, 2)
    await till.offer(*events)
    claim = a_day(*events, close=True)
    before = (await till.reconcile(last=2, days=[claim])).days[0]
    await migrator.execute("DELETE FROM tillsync.event")

    answer = await till.reconcile(last=2, days=[claim], spans=[(1, 2)])

    assert answer.days[0] == before
    assert (before.equal, before.closed) == (True, True)
    assert not answer.missing
    assert answer.spans[0].event_count == 0
    assert why(answer) == [(1, "DUPLICATE", "", ""), (2, "DUPLICATE", "", "")]


async def test_the_answer_is_bounded_and_goes_on(till, database, device):
    """An outbox with thousands of holes gets an answer that fits, and the rest when it asks
    again."""
    async with database.transaction(device.tenant_id) as transaction:
        await transaction.execute(
            "INSERT INTO tillsync.device_progress (tenant_id, device_id, outbox_epoch, sequences)"
            " SELECT $1, $2, 7, range_agg(int8range(2 * n, 2 * n + 1))"
            " FROM generate_series(1, 1500) n",
            device.tenant_id,
            device.device_id,
        )

    answer = await till.reconcile(last=3000)

    assert spans_of(answer.missing) == [(2 * n + 1, 2 * n + 1) for n in range(1000)]
    assert answer.more_missing


async def test_a_till_that_makes_up_currencies_costs_no_more_than_others(till, migrator):
    """A broken point of sale writes the receipt's number for a currency: head office answers with
    as much as anybody could claim, writes down no more, and does not call the day equal."""
    await migrator.execute(
        "INSERT INTO tillsync.device_day SELECT $1, $2, $3::text::date, 'N' || n, 1, 5, n"
        " FROM generate_series(1, 20000) n",
        till.device.tenant_id,
        till.device.device_id,
        BUSINESS_DAY,
    )

    answer = await till.reconcile(last=0, days=[a_day(close=True)])

    assert (answer.days[0].equal, answer.days[0].closed) == (False, False)
    assert len(answer.days[0].books) == 101
    assert await migrator.fetchval("SELECT count(*) FROM tillsync.day_claim") == 10_000


async def test_three_holes_in_ten_thousand_cost_little(till):
    """A busy till on a thin line learns which three sales of 10,000 were lost in two questions and
    a kilobyte."""
    events = sales(*range(1, 10_001))
    for start in range(0, 10_000, 1000):
        await till.offer(
            *(e for e in events[start : start + 1000] if e.device_sequence not in {17, 5000, 9999})
        )

    before = await till.reconcile(last=10_000, days=[a_day(*events, close=True)])
    missing = [events[span.first - 1] for span in before.missing]
    await till.offer(*missing)
    after = await till.reconcile(last=10_000, days=[a_day(*events, close=True)])

    assert spans_of(before.missing) == [(17, 17), (5000, 5000), (9999, 9999)]
    assert after.days[0].closed
    assert before.ByteSize() + after.ByteSize() < 1024


async def test_f30_a_number_that_was_used_twice_is_named_and_loses_nothing(till):
    """A till was restored from an old disk image and gave numbers to new sales that it had given
    before: both sales count, and the till that asks sees where more is held than it knows of."""
    original = sales(1, 2, 3)
    again = sales(3, key="after the restore")
    again[0].body.value += b"\x12\x00"
    await till.offer(*original)
    verdicts = await till.offer(*again)

    answer = await till.reconcile(
        last=3, days=[a_day(*original[:2], *again)], spans=[(1, 2), (3, 3)]
    )

    assert names(verdicts) == ["ACCEPTED"]
    assert not answer.missing
    assert not answer.days[0].equal
    assert answer.days[0].books == [a_book(*original, *again)]
    assert [a.event_count for a in answer.spans] == [2, 2]
    assert not answer.dispositions


async def test_f30_a_refused_number_that_was_used_again_is_no_explanation(till):
    """A refused number that another sale has got since is part of the history: the till is not
    told to leave that sale out."""
    await till.offer(an_event(number=1, key=""))
    await till.offer(*sales(1))

    assert why(await till.reconcile(last=1, spans=[(1, 1)])) == []


async def test_a_restored_disk_does_not_take_back_what_was_counted(till, migrator):
    """A till's disk went back in time and it claims fewer numbers: an operator still sees that the
    later ones are missing."""
    await till.reconcile(last=9)
    answer = await till.reconcile(last=4)

    assert spans_of(answer.missing) == [(1, 4)]
    assert await migrator.fetchval("SELECT last_sequence FROM tillsync.outbox_claim") == 9


async def test_a_day_is_claimed_whole(till, migrator):
    """A currency that the till does not name any more is claimed to be nothing."""
    claim = a_day(*sales(1))
    claim.books.append(a_book(*sales(2, amounts=(("EUR", 500),)), currency="EUR"))
    await till.reconcile(days=[claim])
    await till.reconcile(days=[a_day(*sales(1))])

    rows = await migrator.fetch("SELECT * FROM tillsync.day_claim ORDER BY currency")
    assert [(row["currency"], row["event_count"], row["amount_minor"]) for row in rows] == [
        ("EUR", 0, 0),
        ("USD", 1, 1250),
    ]


async def test_two_tills_do_not_see_each_other(till, address, books):
    """Another till of the shop, and another retailer's, have numbers, days and refusals of their
    own, although all use the same ones."""
    colleague = await books.enrol(till.device.tenant_id)
    stranger = await books.enrol()
    await till.offer(*sales(1, 2), an_event(number=3, key=""))

    for device in (colleague, stranger):
        async with ReconcilingTill(address, device) as other:
            answer = await other.reconcile(last=3, days=[a_day()], spans=[(1, 3)])
        assert spans_of(answer.missing) == [(1, 3)]
        assert answer.days[0].equal
        assert not answer.days[0].books
        assert answer.spans[0].event_count == 0
        assert not answer.dispositions


async def test_a_device_that_nobody_knows_is_told(till, address, migrator):
    """A token of a device that is gone, or of a retailer that is gone, leaves nothing behind."""
    for device in (a_device(till.device.tenant_id), a_device()):
        async with ReconcilingTill(address, device) as ghost:
            failure = await failure_of(ghost.reconcile(last=3, days=[a_day(*sales(1))]))
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "TENANT_GONE")
    assert await migrator.fetchval("SELECT count(*) FROM tillsync.outbox_claim") == 0


def outbox(**fields):
    return {"outboxes": [{"epoch": 1, "last_sequence": 1} | fields]}


def span(**fields):
    return {"spans": [{"epoch": 1, "first": 1, "last": 1} | fields]}


def book(**fields):
    one = {"currency": "EUR", "event_count": 1, "amount_minor": "1", "digest": bytes(16)}
    return {"days": [{"business_day": BUSINESS_DAY, "books": [one | fields]}]}


BAD = {
    "outboxes": {"outboxes": [{"epoch": n, "last_sequence": 1} for n in range(1, 102)]},
    "outboxes[0].epoch": outbox(epoch=0),
    "outboxes[0].last_sequence": outbox(last_sequence=-1),
    "outboxes[1].epoch": {"outboxes": [{"epoch": 1}, {"epoch": 1}]},
    "days": {"days": [{}] * 101},
    "days[0].business_day": {"days": [{"business_day": "20261122"}]},
    "days[1].business_day": {"days": [{"business_day": BUSINESS_DAY}] * 2},
    "days[0].books": {"days": [{"books": [{"currency": f"{n}"} for n in range(101)]}]},
    "days[0].books[0].currency": book(currency="\0"),
    "days[0].books[0].event_count": book(event_count=-1),
    "days[0].books[0].amount_minor": book(amount_minor="12.50"),
    "days[0].books[0].digest": book(digest=b"short"),
    "days[0].books[1].currency": {
        "days": [{"books": [{"currency": "EUR", "amount_minor": "1", "digest": bytes(16)}] * 2}]
    },
    "spans": {"spans": [{"epoch": 1, "first": 1, "last": 1}] * 1001},
    "spans[0].epoch": span(epoch=-1),
    "spans[0].first": span(first=0),
    "spans[0].last": span(last=0),
}


@pytest.mark.parametrize("field", BAD)
async def test_a_request_that_is_none_names_the_field(till, migrator, field):
    """A request that no agent of ours makes is refused by the name of its field, and nothing of it
    is written down."""
    failure = await failure_of(till.ask(pb.ReconcileRequest(**BAD[field])))

    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.text.startswith(f"{field}: ")
    assert await migrator.fetchval("SELECT count(*) FROM tillsync.outbox_claim") == 0


async def test_spans_too_wide_to_be_added_up_are_refused(till):
    """A question that would keep head office's database busy for a minute is refused at once."""
    failure = await failure_of(till.reconcile(spans=[(1, 600_000), (1, 600_000)]))

    assert failure.text.startswith("spans: ")
