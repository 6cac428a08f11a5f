"""Days that are hard to compare: what a till forgets meanwhile, and what no request can say."""

import pytest

from support.scripted_service import ScriptedService
from support.till import Till, a_sale, until
from tillsync_agent.books import OutboxBooks
from tillsync_agent.reconciliation import NOTE_NAME, Reconciliation

DAY, NEXT_DAY = "2026-11-22", "2026-11-23"


@pytest.fixture
async def service():
    async with ScriptedService() as running:
        yield running


@pytest.fixture
def till(tmp_path, service):
    till = Till(tmp_path, service)
    yield till
    till.close()


async def reconciled(till: Till) -> Reconciliation:
    """What an agent finds at its start, after everything that waited was sent."""

    def noted() -> Reconciliation:
        return Reconciliation.parse(till.outbox.notes().get(NOTE_NAME, ""))

    till.outbox.note(NOTE_NAME, "")
    async with till.agent():
        await until(lambda: noted().at)
    return noted()


async def test_what_is_pruned_while_the_till_adds_up_is_no_difference(till, service, monkeypatch):
    """A till with a small disk forgets old sales just while it adds its days up: they count, and
    nobody is told that head office has more than the till."""
    till.record(6, business_day=DAY)
    await till.drained()
    till.record(2, business_day=DAY)
    page, once = OutboxBooks.page, iter([1])

    def page_after_pruning(books, after, until):
        for _ in once:
            assert 0 < till.outbox.prune(3_600, 500) < 8
        return page(books, after, until)

    monkeypatch.setattr(OutboxBooks, "page", page_after_pruning)

    result = await reconciled(till)

    assert (result.is_equal, result.days_equal) == (True, 1)
    assert [days[DAY]["USD"].event_count for days in service.books.days_claimed[-1:]] == [8]


async def test_a_day_in_more_currencies_than_a_request_holds_does_not_stop_the_others(
    till, service
):
    """A day has more kinds of vouchers than a request can name: it is named as not compared, with
    the reason, and the other days are compared."""
    for number in range(101):
        till.outbox.record(a_sale(number), business_day=DAY, amounts={f"V{number}": 1})
    till.record(2, business_day=NEXT_DAY)

    result = await reconciled(till)

    (day,) = result.differing
    assert (result.days_equal, result.days_differing, result.is_equal) == (1, 1, False)
    assert (day.business_day, len(day.here), day.there) == (DAY, 101, {})
    assert day.why == ["it is in 101 currencies, and at most 100 can be compared"]
    assert [*service.books.days_claimed[-1]] == [NEXT_DAY]
