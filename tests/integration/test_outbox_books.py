"""What a till's outbox says it recorded, and what it can give back."""

import random
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from support.builders import a_body, a_device, an_event, examined
from support.till import a_sale
from tillsync_agent import Outbox, daybooks, outboxfile
from tillsync_agent.books import Span
from tillsync_agent.daybooks import DayBook
from tillsync_agent.outbox import Settlement

DAY, NEXT_DAY = "2026-11-22", "2026-11-23"
OLD = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def outbox(tmp_path):
    with Outbox.open(tmp_path / "outbox.db", ballast_bytes=0) as outbox:
        yield outbox


@pytest.fixture
def joined(tmp_path):
    path = tmp_path / "pos.db"
    pos = sqlite3.connect(path, isolation_level=None)
    pos.execute("PRAGMA journal_mode = WAL")
    pos.execute("CREATE TABLE receipts (number)")
    with Outbox.join(path) as outbox:
        yield outbox
    pos.close()


@pytest.fixture(params=["outbox", "joined"])
def either(request):
    """An outbox in its own file, and one in the point of sale's."""
    return request.getfixturevalue(request.param)


def settle(outbox: Outbox, outcome: str = "accepted", count: int = 500) -> None:
    rows = outbox.take(count)
    outbox.settle([Settlement(row.id, outcome, 1, "history-1") for row in rows])


def days_of(outbox: Outbox) -> dict[str, daybooks.Books]:
    """The days as they are claimed: what is kept and not refused, and what was pruned."""
    counted = outbox.books.counted()
    parts = {day: [books] for day, books in counted.pruned.items()}
    for event in outbox.books.page(0, counted.last_id):
        if event.state not in {"conflict", "rejected"}:
            parts.setdefault(event.business_day, []).append(event.books)
    return {day: daybooks.total(books) for day, books in parts.items()}


def states_of(outbox: Outbox, epoch: int, last: int) -> list[str]:
    return [number.state for number in outbox.books.numbers(Span(epoch, 1, last))]


def test_a_day_comes_to_what_head_office_counts(outbox):
    """Two hundred sales of all kinds, several amounts and currencies and none: the till's books of
    each day are the very numbers that head office's own code makes of the same events."""
    chance = random.Random(5)
    events = [
        an_event(
            receipt=str(n),
            business_day=chance.choice([DAY, NEXT_DAY, ""]),
            amounts=[
                (chance.choice(["USD", "EUR", "point"]), chance.randint(-(2**62), 2**62))
                for _ in range(chance.choice([0, 0, 1, 1, 2, 5]))
            ],
        )
        for n in range(200)
    ]
    for event in events:
        outbox.record_event(event)

    held = days_of(outbox)

    totals = examined(a_device(), *events).totals
    there = {
        (day.replace("-infinity", ""), currency): DayBook(
            total.event_count, total.amount_minor, total.digest_sum % 2**128
        )
        for (day, currency), total in totals.items()
    }
    assert {(day, c): book for day, books in held.items() for c, book in books.items()} == there


def test_refused_sales_are_in_no_book_and_the_others_wait_again_as_they_were(either):
    """Head office lost a night's sales: the till lets them wait again, with the same keys, numbers
    and bytes. What was refused stays refused, and counts nowhere."""
    for number in range(1, 7):
        either.record(a_sale(number), business_day=DAY, amounts={"USD": 100})
    before = either.take()
    for count, outcome in ((2, "accepted"), (1, "duplicate"), (1, "conflict"), (1, "rejected")):
        settle(either, outcome, count)
    epoch = either.epoch
    assert days_of(either)[DAY]["USD"].event_count == 4

    offered = either.books.offer_again(epoch, 2, 6)

    assert offered == 2
    assert states_of(either, epoch, 6) == [
        *("accepted", "waiting", "waiting", "conflict", "rejected", "waiting")
    ]
    assert either.take() == [before[1], before[2], before[5]]
    assert either.books.offer_again(epoch, 2, 6) == 0
    assert either.books.offer_again(epoch + 1, 1, 100) == 0
    settle(either)
    assert either.summary().waiting == 0


def test_a_long_span_is_offered_again_in_short_transactions(outbox):
    """Head office lost a month: a till goes on selling while thousands of sales wait again."""
    for number in range(1_203):
        outbox.record(a_sale(number), business_day=DAY)
        if number % 400 == 0:
            settle(outbox)
    while outbox.summary().waiting:
        settle(outbox)
    writes = []
    run = outbox._file.run
    outbox._file.run = lambda work, **more: writes.append(1) or run(work, **more)

    assert outbox.books.offer_again(outbox.epoch, 1, 2**62) == 1_203

    assert len(writes) >= 3


def test_a_pruned_day_still_comes_to_the_same(either):
    """The disk is small and a fortnight is over: the day's sales are pruned one by one, and the
    till can still say what the day came to, after a restart too."""
    for number in range(1, 8):
        either.record(
            a_sale(number), business_day=DAY if number < 5 else NEXT_DAY, amounts={"USD": 2**62}
        )
    either.record(("example.com/drawer", b"open"), business_day=NEXT_DAY)
    settle(either, "rejected", 1)
    settle(either)
    whole = days_of(either)

    for size in (1, 300, 5_000):
        either.prune(1e9, max_settled_bytes=either.summary().settled * 60 - size)
        assert days_of(either) == whole
    pruned = either.prune(0)

    assert pruned + 1 <= 8
    assert days_of(either) == whole
    assert whole[DAY]["USD"].amount_minor == 3 * 2**62
    assert either.books.counted().pruned.keys() == {DAY, NEXT_DAY}


def test_a_clone_claims_its_old_numbers_and_its_new_ones(either):
    """A cloned till starts to count anew: head office hears how far it came under both numbers."""
    first = either.epoch
    either.record(a_sale(1))
    either.record(a_sale(2))
    second = either.start_new_epoch()
    either.record(a_sale(3))
    third = either.start_new_epoch()

    claims = either.books.counted().outboxes
    settle(either)
    either.prune(0)

    assert claims[-1] == (third, 0)
    assert sorted(claims[:-1]) == sorted([(first, 2), (second, 1)])
    assert either.books.counted().outboxes == claims


def test_what_a_former_device_sold_is_not_given_to_another_ones_books(outbox):
    """A till moves to another shop under a new name: what it had sent as the old one is neither
    claimed nor offered again. What still waited is sent as the new one, and counts for it."""
    old = outbox.epoch
    for number in range(3):
        outbox.record(a_sale(number), business_day=DAY, amounts={"USD": 100})
    settle(outbox, count=1)
    outbox.prune(0)
    settle(outbox, count=1)
    new = outbox.start_new_epoch(another_device=True)
    outbox.record(a_sale(4), business_day=DAY, amounts={"USD": 100})
    settle(outbox)

    assert outbox.books.counted().outboxes == ((new, 1),)
    assert days_of(outbox)[DAY]["USD"].event_count == 2
    assert outbox.books.offer_again(old, 1, 2) == 0
    outbox.prune(0)
    assert days_of(outbox)[DAY]["USD"].event_count == 2


def test_an_outbox_of_the_first_layout_is_taken_over_with_its_backlog(tmp_path, monkeypatch):
    """The agent is updated on a till with sales in its outbox: all are there and claimed."""
    with monkeypatch.context() as before:
        first = replace(outboxfile.OUTBOX, migrations=outboxfile.OUTBOX.migrations[:1])
        before.setattr(outboxfile, "OUTBOX", first)
        with Outbox.open(tmp_path / "outbox.db", ballast_bytes=0) as old:
            epoch = old.epoch
            old.record(a_sale(1), business_day=DAY)
            old.record(a_sale(2), business_day=DAY)

    with Outbox.open(tmp_path / "outbox.db", ballast_bytes=0) as outbox:
        assert outbox.books.counted().outboxes == ((epoch, 2),)
        assert days_of(outbox)[DAY]["XXX"].event_count == 2


def test_sales_from_a_file_that_was_set_aside_are_claimed_under_their_numbers(tmp_path):
    """Lightning hits the disk: what waited comes back from the torn file under its old numbers, and
    head office is told of both outboxes."""
    path = tmp_path / "outbox.db"
    with Outbox.open(path, ballast_bytes=0) as torn:
        epoch = torn.epoch
        torn.record(a_sale(1), business_day=DAY)
        torn.record(a_sale(2), business_day=DAY)
    path.rename(Path(f"{path}.set-aside-20261122T000000.000000Z"))

    with Outbox.open(path, ballast_bytes=0) as outbox:
        assert outbox.mend() == 2
        assert outbox.books.counted().outboxes == ((epoch, 2), (outbox.epoch, 0))


def test_a_bit_that_fell_over_stops_no_book(outbox):
    """A bad disk flips bits inside one sale: the day's other sales are added up all the same."""
    outbox.record(a_sale(1), business_day=DAY)
    outbox.record(a_sale(2), business_day=DAY)
    outbox._change("UPDATE tillsync_event SET envelope = ? WHERE sequence = 1", [(b"\xff\xff",)])

    assert days_of(outbox)[DAY]["XXX"].event_count == 1


def test_a_till_whose_clock_says_2001_is_in_no_other_days_books(tmp_path):
    """The battery of the clock is empty: a sale of 2001 counts on the day that the point of sale
    declares, and pruning forgets nothing of it."""
    clock = [OLD - timedelta(days=365 * 25)]
    with Outbox.open(tmp_path / "outbox.db", ballast_bytes=0, clock=lambda: clock[0]) as outbox:
        outbox.record(a_body("1"), business_day=DAY)
        settle(outbox)
        clock[0] = OLD
        outbox.prune()

        assert days_of(outbox)[DAY]["XXX"].event_count == 1
