"""Till and head office compare what they hold, over a real socket and a real outbox."""

import asyncio
import json
from functools import partial
from itertools import count

import grpc
import pytest

from support.scripted_service import ScriptedService, fails
from support.till import SECRET, Till, a_sale, until
from tillsync.v1 import event_pb2
from tillsync.v1 import reconcile_service_pb2 as pb
from tillsync_agent import envelope, reconciler
from tillsync_agent.books import OutboxBooks
from tillsync_agent.daybooks import DayBook
from tillsync_agent.errors import OutboxBusy
from tillsync_agent.linkstate import Link as LinkWord
from tillsync_agent.reconciliation import NOTE_NAME, REQUEST_NOTE, Reconciliation, Request

DAY, NEXT_DAY = "2026-11-22", "2026-11-23"
MOST_ROUND_TRIPS = 5
MOST_BYTES = 64 << 10


@pytest.fixture
async def service():
    async with ScriptedService() as running:
        yield running


@pytest.fixture
def till(tmp_path, service):
    till = Till(tmp_path, service)
    yield till
    till.close()


def noted(till: Till) -> Reconciliation:
    return Reconciliation.parse(till.outbox.notes().get(NOTE_NAME, ""))


async def reconciled(till: Till) -> Reconciliation:
    """What an agent finds at its start, after everything that waited was sent."""
    till.outbox.note(NOTE_NAME, "")
    async with till.agent():
        await until(lambda: noted(till).at)
    return noted(till)


def record_at_once(till: Till, count: int, day: str = DAY) -> list[str]:
    """The same as many calls of `record`, in one transaction: for tests of large days."""

    def record_all(cursor):
        return [
            till.outbox._append(
                envelope.build(
                    key=f"{day}-{number:06}",
                    body=a_sale(number),
                    occurred_at=till.outbox._clock(),
                    business_day=day,
                    amounts={"USD": 1250},
                ),
                cursor,
            ).key
            for number in range(count)
        ]

    return till.outbox._file.run(record_all)


async def test_a_till_that_agrees_says_so(till, service):
    """The shopkeeper's days are at head office: one question, and nothing is sent twice."""
    till.record(20, business_day=DAY)
    till.record(5, business_day=NEXT_DAY)
    till.outbox.record(a_sale(99))

    await till.drained()
    result = await reconciled(till)

    assert (result.days_equal, result.days_differing, result.offered_again) == (3, 0, 0)
    assert result.is_equal
    assert result.round_trips == 1
    assert len(service.batches) == 1
    assert service.books.claims == {till.outbox.epoch: 26}


async def test_i11_what_a_restored_service_lacks_comes_back_once(till, service):
    """Head office was restored from last night's backup and the operator said so: the till hears
    of another history with its next sale and gives back what the backup lacks, exactly once."""
    keys = till.record(50, business_day=DAY)
    async with till.agent() as agent:
        await agent.drain(20)
        await until(lambda: noted(till).days_equal == 1)
        service.lose(*keys[20:])
        service.history_id = "history-2"
        keys += till.record(1, business_day=DAY)
        await until(lambda: noted(till).offered_again == 30)

    assert sorted(service.stored) == sorted(keys)
    assert [service.books.events[key].device_sequence for key in keys] == [*range(1, 52)]
    assert noted(till).is_equal
    assert noted(till).history_id == "history-2"
    assert (till.outbox.summary().settled, till.outbox.epoch) == (51, agent.outbox.epoch)


async def test_a_service_restored_without_being_told_is_found_out(till, service):
    """Head office was set back and nobody said so: its next position is one that it gave out
    before, and the till gives back what is gone."""
    keys = till.record(50, business_day=DAY)
    async with till.agent() as agent:
        await agent.drain(20)
        await until(lambda: noted(till).days_equal == 1)
        service.lose(*keys[20:])
        keys += till.record(1, business_day=DAY)
        await until(lambda: noted(till).offered_again == 30)

    assert sorted(service.stored) == sorted(keys)
    assert noted(till).is_equal


async def test_a_till_that_was_off_meanwhile_gives_back_at_its_start(till, service):
    """Head office was set back while the shop was closed: in the morning, before the first sale,
    all is there again."""
    keys = till.record(10, business_day=DAY)
    await till.drained()
    service.lose(*keys[4:])

    async with till.agent():
        await until(lambda: noted(till).offered_again == 6)

    assert sorted(service.stored) == sorted(keys)


async def test_it_is_compared_again_every_hour(till, service, monkeypatch):
    """Nothing is sold and nobody asks: what head office lost is found out all the same."""
    monkeypatch.setattr(reconciler, "EVERY_SECONDS", 0.05)
    keys = till.record(10, business_day=DAY)
    async with till.agent():
        await until(lambda: noted(till).days_equal)
        service.lose(*keys[4:])
        await until(lambda: noted(till).offered_again == 6)

    assert sorted(service.stored) == sorted(keys)


@pytest.mark.parametrize("numbers_too", [True, False], ids=["numbers missing", "numbers known"])
async def test_three_holes_in_ten_thousand_sales_cost_little(till, service, numbers_too):
    """A shop with a slow line, and three of ten thousand sales are gone, whether head office knows
    or believes to have them: they are found in few questions, and only they are sent again."""
    keys = record_at_once(till, 10_000)
    await till.drained(60)
    holes = [keys[17], keys[4_999], keys[9_998]]
    service.lose(*holes, numbers_too=numbers_too)
    service.reconciled.clear()
    service.batches.clear()

    result = await reconciled(till)

    assert result.is_equal
    assert result.offered_again == 3
    assert sorted(key for batch in service.batches for key in batch) == sorted(holes)
    assert sorted(service.stored) == keys
    calls = service.reconciled[: result.round_trips]
    assert len(calls) <= MOST_ROUND_TRIPS
    assert sum(map(sum, calls)) <= MOST_BYTES


async def test_everything_gone_is_given_back_without_asking_for_each(till, service):
    """Head office lost a whole day and believes to have it: no question names single sales."""
    keys = record_at_once(till, 2_000)
    await till.drained(60)
    service.lose(*keys, numbers_too=False)
    service.reconciled.clear()

    result = await reconciled(till)

    assert (result.offered_again, result.is_equal) == (2_000, True)
    assert sorted(service.stored) == keys
    assert len(service.reconciled) <= MOST_ROUND_TRIPS


async def test_a_day_that_differs_for_its_money_only_is_named(till, service):
    """Head office's books say 5.00 less than the till's and have the same sales: nothing is sent
    again, and a person reads by how much."""
    till.record(4, business_day=DAY)
    await till.drained()
    service.books.off[DAY, "USD"] = DayBook(0, -500, 0)

    result = await reconciled(till)

    (day,) = result.differing
    assert (day.here, day.there) == ({"USD": (4, 5_000)}, {"USD": (4, 4_500)})
    assert day.why == ["the events are the same and their money is not"]
    assert (result.offered_again, len(service.batches)) == (0, 1)


async def test_lost_sales_that_were_pruned_here_are_named(till, service):
    """Head office lost what the till no longer keeps: how many, which numbers and how much money
    is said, and the rest is given back."""
    keys = till.record(6, business_day=DAY)
    await till.drained()
    till.outbox.prune(0)
    keys += till.record(4, business_day=DAY)
    await till.drained()
    assert (await reconciled(till)).is_equal
    service.lose(*keys[3:8])

    result = await reconciled(till)

    (day,) = result.differing
    (gone,) = result.gone
    assert result.offered_again == 2
    assert (gone.epoch, gone.first, gone.last, result.gone_count) == (till.outbox.epoch, 4, 6, 3)
    assert (day.here["USD"], day.there["USD"]) == ((10, 12_500), (7, 8_750))
    assert "6 of its events were pruned here and cannot be given back" in day.why


async def test_sales_go_first(till, service):
    """The shopkeeper sells while the till is compared: it is never compared while a sale waits."""
    found_waiting = []
    service.before_reconcile = lambda: found_waiting.append(till.waiting)
    till.record(300, business_day=DAY)
    async with till.agent() as agent:
        for _ in range(5):
            till.record(20, business_day=DAY)
            await agent.reconcile(20)

    assert set(found_waiting) == {0}
    assert len(found_waiting) >= 5


async def test_a_sale_between_the_two_books_is_no_difference(till, service):
    """A sale is sent just after the till had added its day up: it is asked once more, and nobody
    is told that the books differ."""
    till.record(3, business_day=DAY)
    await till.drained()
    till.outbox.note(NOTE_NAME, "")

    async with till.agent() as agent:
        await until(lambda: noted(till).at)
        once = iter([1])

        def sell():
            for _ in once:
                till.record(business_day=DAY)
                service.store([event_pb2.Event.FromString(till.outbox.take()[0].envelope)])

        service.before_reconcile = sell
        result = await agent.reconcile(20)

    assert result.is_equal
    assert result.round_trips == 2


async def test_a_sale_that_is_held_back_is_named_and_does_not_stop_the_rest(till, service):
    """One sale makes every request fail: the day is compared without waiting for it for ever, and
    what it lacks is said."""
    keys = till.record(5, business_day=DAY)

    async def chokes(service, request, context):
        if keys[2] in [event.key for event in request.events]:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not a message")
        return service.answer(request.events).SerializeToString()

    service.always = chokes

    result = await reconciled(till)

    (day,) = result.differing
    assert day.why == ["1 of its events wait here and are held back"]
    assert (day.here["USD"], day.there["USD"]) == ((5, 6_250), (4, 5_000))
    assert result.offered_again == 0


async def test_a_refused_sale_is_explained_and_the_day_is_equal(till, service):
    """Two tills numbered their receipts alike: the second is in quarantine, its day is equal
    without it and can be closed, and the reason is told."""
    till.record(2, business_day=DAY)
    (key,) = till.record(1, business_day=DAY)
    await till.drained()
    till.outbox.record(("example.com/other", b"x"), key=key, business_day=DAY)

    async with till.agent() as agent:
        result = await agent.reconcile(20, DAY, close=True)

    (refused,) = result.refused
    assert (refused.sequence, refused.outcome, refused.reason) == (4, "conflict", "KEY_CONFLICT")
    assert (result.closed, result.revision, result.comes_to) == (True, 1, {"USD": (3, 3_750)})


@pytest.mark.parametrize(("count_here", "count_there"), [(5, 2), (20_000, 700)])
async def test_what_another_device_brought_before_is_counted_there(
    till, service, count_here, count_there
):
    """A till's backlog came to head office by another till's hand: it is offered once more and
    counts there, the day is equal without it, and nothing is sent again for ever."""
    keys = record_at_once(till, count_here)
    await till.drained()
    elsewhere = keys[1 : 1 + count_there]
    for key in elsewhere:
        service.books.counts_elsewhere(key)
    till.outbox.note(NOTE_NAME, "")

    async with till.agent() as agent:
        await until(lambda: noted(till).at)
        result = noted(till)
        again = await agent.reconcile(20)

    assert (result.is_equal, again.is_equal) == (True, True)
    assert count_there <= result.offered_again < 2 * count_there
    assert (again.offered_again, again.round_trips) == (0, 1)
    assert service.books.days_claimed[-1][DAY]["USD"].event_count == count_here - count_there


async def test_a_number_that_two_sales_used_ends_in_no_loop(till, service):
    """A clone used the till's numbers on the same day: what head office holds more is named, and
    the till's own sales are sent again once at most."""
    till.record(5, business_day=DAY)
    await till.drained()
    other = event_pb2.Event(
        key="of the clone",
        outbox_epoch=till.outbox.epoch,
        device_sequence=3,
        business_day=DAY,
        amounts=[event_pb2.Amount(currency="USD", minor_units=1)],
    )
    service.books.count(other)

    result = await reconciled(till)

    (day,) = result.differing
    assert day.why[0].startswith("head office holds 1 more events of this device than are known")
    assert result.offered_again == 1
    assert result.round_trips <= MOST_ROUND_TRIPS
    assert len(service.stored) == 5


async def test_a_service_that_never_believes_it_is_asked_a_few_times(till, service):
    """Head office answers that all is missing, whatever it is given: the till gives it back once,
    and does not go round in circles at the shop's expense."""
    till.record(5, business_day=DAY)
    await till.drained()
    service.books.present = lambda event: None
    service.books.presented.clear()
    service.reconciled.clear()

    result = await reconciled(till)

    assert result.offered_again == 5
    assert result.round_trips == 2
    assert len(service.batches) == 2


async def test_a_clone_claims_the_numbers_of_both_epochs(till, service):
    """A disk image was cloned: the till counts anew, and head office hears how far it came under
    its old number and its new one; both are compared."""
    old = till.outbox.epoch
    service.sequences = {(old, n): "the other till" for n in range(1, 20)}
    till.record(10, business_day=DAY)
    await till.drained()
    keys = till.record(3, business_day=DAY)
    await till.drained()
    service.lose(*keys[1:])

    result = await reconciled(till)

    assert service.books.claims == {old: 10, till.outbox.epoch: 3}
    assert till.outbox.epoch != old
    assert (result.is_equal, result.offered_again) == (True, 2)


async def test_a_year_of_business_days_is_compared(till, service):
    """A back office brought in a year's receipts: every day of it is compared."""
    days = [f"2025-{month:02}-{day:02}" for month in range(1, 10) for day in range(1, 29)]
    for day in days:
        record_at_once(till, 1, day)
    await till.drained()
    lost = "2025-09-28-000000"
    service.lose(lost)

    result = await reconciled(till)

    assert (result.days_equal, result.offered_again) == (len(days), 1)
    assert lost in service.stored
    assert max(map(len, service.books.days_claimed)) == 100


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\xff\xff", "the answer is not a message"),
        (pb.ReconcileResponse().SerializeToString(), "not one answer for each day"),
        (
            pb.ReconcileResponse(
                days=[{"books": [{"currency": "USD", "amount_minor": "1.5"}]}]
            ).SerializeToString(),
            "an amount is no whole number",
        ),
    ],
)
async def test_garbage_for_an_answer_is_said_and_gives_nothing_back(till, service, raw, words):
    """Something answers with bytes that mean nothing: no sale is sent again for it, sales go on,
    and the comparison is made when the answers make sense again."""
    till.record(3, business_day=DAY)
    await till.drained()
    service.reconcile_answers.append(raw)

    async with till.agent():
        await until(lambda: words in noted(till).error)
        await until(lambda: noted(till).is_equal)

    assert len(service.batches) == 1


async def test_missing_numbers_that_were_never_given_are_not_believed(till, service):
    """Head office asks for numbers that the till never used: nothing is claimed to be lost."""
    till.record(3, business_day=DAY)
    await till.drained()
    epoch = till.outbox.epoch
    spans = [(epoch, 2, 99), (epoch + 1, 1, 1), (epoch, 0, 3), (epoch, 3, 1)]
    response = pb.ReconcileResponse(days=[{"business_day": DAY, "equal": True}])
    for one, first, last in spans:
        response.missing.add(epoch=one, first=first, last=last)
    service.reconcile_answers.append(response.SerializeToString())

    result = await reconciled(till)

    assert (result.gone_count, result.offered_again) == (0, 0)


@pytest.mark.parametrize(
    "code", ["UNIMPLEMENTED", "INTERNAL", "INVALID_ARGUMENT", "PERMISSION_DENIED"]
)
async def test_a_service_that_cannot_compare_stops_no_sale(till, service, code):
    """Head office is of an older release: the till says so, sells and sends as before, and its
    link is not thought to be down."""
    service.reconcile_failures.extend([(grpc.StatusCode[code], "no such thing")] * 100)

    async with till.agent() as agent:
        await until(lambda: noted(till).error.startswith(code))
        assert agent.link_state.state is LinkWord.CLOSED
        till.record(3, business_day=DAY)
        left = await agent.drain(20)

    assert left.waiting == 0
    assert noted(till).at == ""


@pytest.mark.parametrize(
    ("trouble", "words"),
    [(OutboxBusy("held by a backup"), "held by a backup"), (ZeroDivisionError("a bug"), "a bug")],
)
async def test_a_comparison_that_breaks_stops_no_sale(till, service, monkeypatch, trouble, words):
    """The disk is busy, or our own program is at fault, just when the till is compared: sales go
    on, the reason is noted, and it is compared later all the same."""
    monkeypatch.setattr(reconciler, "EVERY_SECONDS", 0.05)
    till.record(3, business_day=DAY)
    counted, times = OutboxBooks.counted, count()

    def breaks_twice(books):
        if next(times) < 2:
            raise trouble
        return counted(books)

    monkeypatch.setattr(OutboxBooks, "counted", breaks_twice)

    async with till.agent():
        await until(lambda: words in noted(till).error)
        till.record(3, business_day=DAY)
        await until(lambda: till.waiting == 0)
        await until(lambda: noted(till).is_equal and noted(till).at)


async def test_a_closing_takes_back_that_nothing_could_be_compared(till, service):
    """Head office was out of reach and is back, and the shopkeeper closes the day: nobody reads any
    more that nothing could be compared since."""
    till.record(3, business_day=DAY)
    await till.drained()
    till.outbox.note(NOTE_NAME, "")
    async with till.agent() as agent:
        await until(lambda: noted(till).at)
        service.reconcile_failures.append((grpc.StatusCode.INTERNAL, "oops"))
        closed = await agent.reconcile(20, DAY, close=True)
        await until(lambda: not noted(till).error)

    assert closed.closed


async def test_a_question_of_yesterday_closes_no_day(till, service):
    """Somebody wanted to close the day, gave up, and the till was switched off: the next agent does
    not close it unasked."""
    till.record(3, business_day=DAY)
    till.outbox.note(REQUEST_NOTE, Request("old", DAY, close=True).dump())

    assert (await reconciled(till)).is_equal

    assert service.books.closings == {DAY: []}
    assert till.outbox.notes()[REQUEST_NOTE] == ""


async def test_another_history_is_enough_to_ask(till, service):
    """Head office was restored, and the other tills have put back more than it ever had: no
    position is older, but it is another history, and this till gives back its part too."""
    keys = till.record(50, business_day=DAY)
    async with till.agent() as agent:
        await agent.drain(20)
        await until(lambda: noted(till).days_equal == 1)
        service.lose(*keys[20:])
        service.stored["of another till"] = (1_000, b"")
        service.history_id = "history-2"
        till.record(1, business_day=DAY)
        await until(lambda: noted(till).offered_again == 30)

    assert set(keys) <= set(service.stored)


async def test_a_refused_token_is_replaced(till, service):
    """The till's token ended while it was asleep: it gets another one, and compares."""
    till.record(3, business_day=DAY)
    async with till.agent() as agent:
        await until(lambda: noted(till).is_equal and noted(till).at)
        service.tokens.clear()
        result = await agent.reconcile(20)

    assert result.is_equal
    assert len(service.tokens) == 1


async def test_a_comparison_that_met_a_dead_line_is_made_when_it_is_back(till, service):
    """The line is dead: the till compares when it is back, without anybody's help."""
    till.record(3, business_day=DAY)
    await till.drained()
    service.reconcile_failures.extend([(grpc.StatusCode.UNAVAILABLE, "gone")] * 3)

    async with till.agent() as agent:
        await until(lambda: noted(till).error == "UNAVAILABLE: gone")
        await until(lambda: noted(till).is_equal)

    assert not service.reconcile_failures
    assert agent.link_state.state is LinkWord.CLOSED


async def test_the_sender_and_the_comparison_share_one_token(till, service):
    """A till wakes up with an old secret: it proposes one new secret and not two, which would look
    like a clone."""
    till.settings.secret_path.write_text(json.dumps({"current": SECRET.hex()}))

    async with till.agent() as agent:
        await asyncio.gather(*(agent._link.token() for _ in range(5)))

    assert len(service.proposals) == 1
    assert len(service.tokens) == 1


async def test_an_agent_that_stops_in_the_middle_loses_nothing(till, service):
    """The till is switched off while it gives sales back: they wait, and go out in the morning."""
    keys = till.record(10, business_day=DAY)
    await till.drained()
    service.lose(*keys)
    service.always = fails(grpc.StatusCode.UNAVAILABLE)

    async with till.agent():
        await until(lambda: till.waiting == 10)
    service.always = ScriptedService().always
    await till.drained()

    assert sorted(service.stored) == sorted(keys)


async def test_an_unanswered_question_names_what_waits_and_why(till, service):
    """The line is dead and somebody asks: how many sales wait and the error, in the time given;
    and an agent that starts later does not answer a question that nobody asks any more."""
    till.record(3, business_day=DAY)
    service.always = fails(grpc.StatusCode.UNAVAILABLE, "no database")

    async with till.agent() as agent:
        await until(lambda: till.note.failures_in_a_row >= 1)
        result = await agent.reconcile(0.3, DAY, close=True)
        assert till.outbox.notes()[REQUEST_NOTE] == ""

    assert result.error == "3 events wait: UNAVAILABLE: no database"
    assert not result.is_equal


async def test_two_questions_at_once_are_both_answered(till, service):
    """Two people ask at the same moment: each of them gets an answer."""
    till.record(3, business_day=DAY)
    async with till.agent() as agent:
        ask = partial(agent.reconcile, 30)
        closed, compared = await asyncio.gather(ask(DAY, close=True), ask())

    assert closed.closed
    assert compared.days_equal == 1
