"""Days that are hard to compare: what a till forgets meanwhile."""

import pytest

from support.scripted_service import ScriptedService
from support.till import Till, until
from tillsync_agent.books import OutboxBooks
from tillsync_agent.reconciliation import NOTE_NAME, Reconciliation

DAY = "2026-11-22"


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
