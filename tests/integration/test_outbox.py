"""The outbox in ordinary times, in a file of its own."""

import logging
import os
import sqlite3
import threading
from datetime import UTC, datetime, timedelta

import pytest

from tillsync.v1.event_pb2 import Event
from tillsync.v1.retail_pb2 import Sale
from tillsync_agent import EventNotRecordable, Outbox, OutboxUnavailable
from tillsync_agent import statements as sql
from tillsync_agent.files import default_path
from tillsync_agent.outbox import MAX_HOLD_SECONDS, Settlement

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Clock:
    """A clock that stands still until it is told to move."""

    def __init__(self):
        self.now = NOON

    def __call__(self):
        return self.now

    def advance(self, **duration):
        self.now += timedelta(**duration)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "outbox.db"


@pytest.fixture
def outbox(path, clock):
    with Outbox.open(path, clock=clock, ballast_bytes=4096) as outbox:
        yield outbox


def a_sale(number=1):
    return Sale(receipt_number=str(number), currency="USD", total_minor=1250)


def settled(waiting, outcome="accepted", **refusal):
    return [Settlement(row.id, outcome, 7, "history-1", **refusal) for row in waiting]


def test_recorded_sale_is_taken_as_it_was_recorded(outbox):
    """The sale that the cashier rang up is what goes to head office."""
    receipt = outbox.record(
        a_sale(), business_day="2026-11-22", amounts={"USD": 1250}, traceparent="00-ab-cd-01"
    )

    [waiting] = outbox.take()
    event = Event.FromString(waiting.envelope)
    assert waiting.key == event.key == receipt.key
    assert (event.outbox_epoch, event.device_sequence) == (receipt.epoch, receipt.sequence)
    assert event.occurred_at.ToDatetime(UTC) == NOON
    assert event.traceparent == "00-ab-cd-01"
    assert Sale.FromString(event.body.value) == a_sale()


def test_sales_are_numbered_without_holes_and_taken_in_order(outbox):
    """Head office can say which sale it never saw, because numbers run 1, 2, 3."""
    receipts = [outbox.record(a_sale(n)) for n in range(5)]

    assert [receipt.sequence for receipt in receipts] == [1, 2, 3, 4, 5]
    assert [row.key for row in outbox.take()] == [receipt.key for receipt in receipts]


def test_same_sale_recorded_twice_is_one_sale(outbox):
    """The cashier's program retries after a fright: one sale, and the first receipt again."""
    first = outbox.record(a_sale(), key="receipt-1")
    again = outbox.record(a_sale(), key="receipt-1")

    assert again == first
    assert len(outbox.take()) == 1
    assert outbox.record(a_sale(2)).sequence == 2


def test_sale_recorded_again_after_it_was_acknowledged_is_not_sent_again(outbox):
    """The program retries a day later: still the first receipt, and nothing waits."""
    first = outbox.record(a_sale(), key="receipt-1")
    outbox.settle(settled(outbox.take()))

    assert outbox.record(a_sale(), key="receipt-1") == first
    assert outbox.take() == []


def test_other_sale_under_the_same_key_is_kept_too(outbox):
    """Two different sales share a receipt number: neither is lost, head office decides."""
    outbox.record(a_sale(1), key="receipt-1")
    outbox.record(a_sale(2), key="receipt-1")

    assert [row.key for row in outbox.take()] == ["receipt-1", "receipt-1"]


def test_refused_event_takes_no_number(outbox):
    """A mistake of the program leaves no hole that head office would ask about."""
    with pytest.raises(EventNotRecordable):
        outbox.record(a_sale(), key="")

    assert outbox.record(a_sale()).sequence == 1


def test_sale_of_another_program_gets_our_number_and_keeps_its_key(outbox):
    """A till in another language hands a sale to the gateway: it is numbered like the others."""
    event = Event(key="theirs", outbox_epoch=1, device_sequence=99, business_day="2026-11-22")
    event.body.Pack(a_sale())
    before = event.SerializeToString()

    receipt = outbox.record_event(event)

    assert (receipt.key, receipt.epoch, receipt.sequence) == ("theirs", outbox.epoch, 1)
    assert Event.FromString(outbox.take()[0].envelope).business_day == "2026-11-22"
    assert event.SerializeToString() == before


def test_event_of_another_program_is_checked(outbox):
    """A till in another language forgets the key: it hears so, and nothing is recorded."""
    event = Event()
    event.body.Pack(a_sale())

    with pytest.raises(EventNotRecordable, match="key"):
        outbox.record_event(event)

    assert outbox.summary().waiting == 0


def test_batch_is_bounded_in_rows_and_bytes_but_never_empty(outbox):
    """A very large sale goes out alone, and does not stop the ones behind it."""
    outbox.record(("large", bytes(100_000)))
    outbox.record(("small", bytes(10)))
    outbox.record(("small", bytes(10)))

    assert len(outbox.take(max_bytes=1000)) == 1
    assert len(outbox.take(max_events=2)) == 2
    assert len(outbox.take(max_bytes=101_000)) == 3


def test_next_batch_is_taken_while_the_first_is_under_way(outbox):
    """A long backlog goes out with several batches in flight, none of them twice."""
    keys = [outbox.record(a_sale(n)).key for n in range(5)]

    first = outbox.take(max_events=2)
    second = outbox.take(max_events=2, after=first[-1].id)

    assert [row.key for row in first + second] == keys[:4]


def test_acknowledged_sale_is_kept_and_not_sent_again(outbox, path):
    """Head office has the sale: it leaves the queue, and stays in case of a restored backup."""
    outbox.record(a_sale())
    outbox.settle(settled(outbox.take()))

    with Outbox.open(path) as reopened:
        assert reopened.take() == []
        assert reopened.summary().settled == 1


def test_sale_without_a_verdict_stays(outbox):
    """An answer that is no verdict lets go of nothing."""
    outbox.record(a_sale())

    for odd in ("queued", "unspecified", ""):
        with pytest.raises(ValueError, match="no verdict"):
            outbox.settle(settled(outbox.take(), odd))

    assert len(outbox.take()) == 1


def test_one_odd_verdict_settles_nothing_of_its_batch(outbox):
    """A batch is settled whole or not at all, so that what is sent again is known."""
    outbox.record(a_sale(1))
    outbox.record(a_sale(2))
    first, second = outbox.take()

    with pytest.raises(ValueError, match="no verdict"):
        outbox.settle([*settled([first]), *settled([second], "queued")])

    assert len(outbox.take()) == 2


def test_refused_sale_is_kept_for_a_person(outbox):
    """Head office refuses a sale: it is shown with the reason and never thrown away."""
    outbox.record(a_sale(), key="k")
    outbox.record(a_sale(2))
    first, second = outbox.take()
    refusal = {"reason": "EVENT_NOT_STORABLE", "field": "key", "description": "too odd"}
    outbox.settle([*settled([first], "rejected", **refusal), *settled([second], "conflict")])

    outbox.prune(keep_settled_seconds=-1, max_settled_bytes=0)

    letter, other = outbox.dead_letters()
    assert (letter.key, letter.outcome, letter.sequence) == ("k", "rejected", 1)
    assert (letter.reason, letter.field, letter.description) == tuple(refusal.values())
    assert letter.envelope == first.envelope
    assert other.outcome == "conflict"
    assert outbox.summary().dead_letters == 2


def test_second_verdict_on_a_sale_changes_nothing(outbox):
    """A late answer of a cut connection does not turn an acknowledged sale into a refused one."""
    outbox.record(a_sale())
    taken = outbox.take()
    outbox.settle(settled(taken))

    outbox.settle(settled(taken, "rejected"))

    assert outbox.summary().settled == 1
    assert list(outbox.dead_letters()) == []


def test_late_verdict_never_settles_a_newer_sale(outbox):
    """The answer to a pruned sale arrives once more: a new sale does not take it as its own."""
    outbox.record(a_sale(1))
    taken = outbox.take()
    outbox.settle(settled(taken))
    outbox.prune(keep_settled_seconds=-1)
    outbox.record(a_sale(2))

    outbox.settle(settled(taken))

    assert len(outbox.take()) == 1


def test_poison_sale_waits_by_itself(outbox, clock):
    """One sale makes every call fail: it waits, the others go on, and it is tried again."""
    outbox.record(a_sale(1), key="poison")
    outbox.record(a_sale(2), key="good")
    poison = outbox.take()[0]

    outbox.hold([poison.id], NOON + timedelta(minutes=5), "broke the proxy")

    assert [row.key for row in outbox.take()] == ["good"]
    summary = outbox.summary()
    assert (summary.waiting, summary.held, summary.held_error) == (2, 1, "broke the proxy")
    clock.advance(minutes=5)
    assert [row.key for row in outbox.take()] == ["poison", "good"]


def test_held_sale_does_not_wait_for_years_when_the_clock_is_set_back(outbox, clock):
    """The till's battery dies and its clock says 2001: what was held goes out all the same."""
    outbox.record(a_sale())
    [row] = outbox.take()
    outbox.hold([row.id], NOON + timedelta(minutes=5), "broke the proxy")

    clock.now = datetime(2001, 1, 1, tzinfo=UTC)

    assert outbox.take() == [row]


def test_nothing_is_held_for_longer_than_an_hour(outbox, clock):
    """An absurd retry time from a proxy does not park a sale."""
    outbox.record(a_sale())
    [row] = outbox.take()

    outbox.hold([row.id], NOON + timedelta(days=4000), "come back later")

    assert outbox.take() == []
    clock.advance(seconds=MAX_HOLD_SECONDS)
    assert outbox.take() == [row]


def test_only_old_acknowledged_sales_are_pruned(outbox, clock):
    """Fourteen days later the till forgets what head office has, and nothing else."""
    outbox.record(a_sale(1), key="old")
    outbox.settle(settled(outbox.take()))
    outbox.record(a_sale(2), key="waiting for weeks")
    clock.advance(days=13)
    outbox.record(a_sale(3), key="young")
    outbox.settle(settled(outbox.take()[1:], "duplicate"))
    clock.advance(days=2)

    assert outbox.prune() == 1

    assert [row.key for row in outbox.take()] == ["waiting for weeks"]
    assert outbox.summary().settled == 1


def test_acknowledged_sales_are_pruned_oldest_first_when_they_are_too_many(outbox, clock):
    """A small disk is not filled with what head office has; the newest stay longest."""
    for number in range(1200):
        outbox.record(("t", bytes(50)), key=f"{number:04}")
    for row in outbox.take(max_events=1200):
        clock.advance(milliseconds=1)
        outbox.settle(settled([row]))

    pruned = outbox.prune(max_settled_bytes=20_000)

    assert 0 < 1200 - pruned < 400
    first_left = outbox.record(("t", bytes(50)), key="1199")
    assert first_left.sequence == 1200, "the newest was pruned"


def test_i4_nothing_but_pruning_deletes_and_it_cannot_delete_what_waits(outbox, path):
    """Whatever goes wrong elsewhere, no statement of the agent can throw a sale away that head
    office has not acknowledged."""
    deleting = [value for value in vars(sql).values() if "DELETE" in str(value)]
    assert deleting == [sql.DELETE]
    for number in range(4):
        outbox.record(a_sale(number))
    rows = outbox.take()
    for row, outcome in zip(rows, ("conflict", "rejected", "accepted"), strict=False):
        outbox.settle(settled([row], outcome))

    with sqlite3.connect(path) as connection:
        connection.executemany(sql.DELETE, [(row.id,) for row in rows])
    connection.close()

    summary = outbox.summary()
    assert (summary.waiting, summary.dead_letters, summary.settled) == (1, 2, 0)


def test_new_epoch_counts_from_one_again(outbox):
    """A cloned till is told apart: it goes on under another number, and loses nothing."""
    before = outbox.record(a_sale(1))

    epoch = outbox.start_new_epoch()

    after = outbox.record(a_sale(2))
    assert (after.epoch, after.sequence) == (epoch, 1)
    assert epoch != before.epoch
    assert [row.key for row in outbox.take()] == [before.key, after.key]


def test_clock_offset_is_remembered_and_stamped(outbox, path):
    """The till's clock is wrong by two seconds: head office can see so, after a restart too."""
    assert outbox.clock_offset_ms is None
    outbox.record(a_sale(1))
    outbox.set_clock_offset(-2000)

    with Outbox.open(path) as reopened:
        assert reopened.clock_offset_ms == -2000
        reopened.record(a_sale(2))
    first, second = (Event.FromString(row.envelope) for row in outbox.take())
    assert not first.HasField("clock_offset_ms")
    assert second.clock_offset_ms == -2000


def test_notes_outlive_a_restart(outbox, path):
    """`status` still knows, after a restart, when head office was last heard of."""
    outbox.note("last_contact", "yesterday")
    outbox.note("last_contact", "today")

    with Outbox.open(path) as reopened:
        assert reopened.notes() == {"last_contact": "today"}


def test_summary_answers_what_is_missing_since_when_and_how_much(outbox, clock):
    """The operator reads how many sales wait, since when, and for how much money."""
    outbox.record(a_sale(1), amounts={"USD": 1000})
    outbox.settle(settled(outbox.take()))
    clock.advance(hours=1)
    outbox.record(a_sale(2), amounts={"USD": 1250, "EUR": 5})
    clock.advance(hours=1)
    outbox.record(a_sale(3), amounts={"USD": -250})

    summary = outbox.summary()

    assert (summary.waiting, summary.settled, summary.dead_letters, summary.held) == (2, 1, 0, 0)
    assert summary.money_waiting == {"USD": 1000, "EUR": 5}
    assert summary.oldest_waiting_at == NOON + timedelta(hours=1)
    assert summary.last_settled_at == NOON
    assert summary.last_sequence == 3
    assert summary.waiting_bytes == sum(len(row.envelope) for row in outbox.take())


def test_export_holds_everything_that_waits(outbox):
    """The link is dead for good: the USB stick gets every waiting sale, held ones too."""
    for number in range(1100):
        outbox.record(a_sale(number))
    waiting = outbox.take(max_events=2000)
    outbox.hold([waiting[3].id], NOON + timedelta(hours=1), "poison")
    outbox.settle(settled(waiting[:2]))

    exported = list(outbox.waiting_envelopes())

    assert exported == [row.envelope for row in waiting[2:]]


def test_threads_share_an_outbox(outbox):
    """Four cashiers' sessions in one program: every sale is there, numbered without holes."""

    def sell():
        for _ in range(50):
            outbox.record(a_sale())

    threads = [threading.Thread(target=sell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    numbers = [Event.FromString(row.envelope).device_sequence for row in outbox.take()]
    assert numbers == list(range(1, 201))


def test_log_does_not_grow_while_the_agent_checkpoints(outbox, path):
    """A till that is never switched off does not fill its disk with the log."""
    log = path.with_name("outbox.db-wal")
    sizes = []
    for _ in range(4):
        for _ in range(100):
            outbox.record(("t", bytes(5000)))
        outbox.checkpoint()
        sizes.append(log.stat().st_size)

    assert sizes[-1] < 1.5 * sizes[0]


def test_closed_outbox_says_so(path):
    """A program that closed its outbox hears so, and does not believe that it sold."""
    outbox = Outbox.open(path, ballast_bytes=0)
    outbox.close()

    with pytest.raises(OutboxUnavailable, match="closed"):
        outbox.record(a_sale())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_program_records_beside_its_parent(outbox, path):
    """A program that forks after it opened the outbox loses no sale in either half."""
    outbox.record(a_sale())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            inherited = outbox._file._connection
            for _ in range(20):
                outbox.record(a_sale())
            # SQLite forbids a connection to cross a fork, although it mostly goes well.
            status = int(outbox._file._connection is inherited)
        finally:
            os._exit(status)
    for _ in range(20):
        outbox.record(a_sale())

    assert os.waitpid(child, 0)[1] == 0
    numbers = [Event.FromString(row.envelope).device_sequence for row in outbox.take()]
    assert numbers == list(range(1, 42))


def test_state_folder_can_be_chosen(tmp_path, monkeypatch):
    """The operator puts the outbox onto the good disk."""
    monkeypatch.setenv("TILLSYNC_AGENT_STATE_DIR", str(tmp_path / "good disk"))

    with Outbox.open(ballast_bytes=0) as outbox:
        outbox.record(a_sale())

    assert default_path() == tmp_path / "good disk" / "outbox.db"
    assert default_path().exists()


def test_nothing_of_a_sale_stands_in_the_log(outbox, caplog):
    """What customers bought is nobody's business who reads logs."""
    caplog.set_level(logging.DEBUG)

    outbox.record(("secret-type", b"secret-body"), key="secret-key")
    outbox.settle(settled(outbox.take()))

    assert "secret" not in caplog.text
