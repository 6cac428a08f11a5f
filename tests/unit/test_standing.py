"""Who is revoked or suspect, in memory, and never older than two seconds."""

import asyncio
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from tillsync_service.fleet.standing import Standing, Verdict
from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import Unavailable

STOLEN, CLONED, HONEST = uuid4(), uuid4(), uuid4()


class Store:
    """Answers like the database: with what is `held`, or with the `failure`."""

    def __init__(self):
        self.held = {STOLEN: True, CLONED: False}
        self.failure = None
        self.takes_seconds = 0.0
        self.rounds = 0

    async def out_of_standing(self):
        self.rounds += 1
        self.clock.now += self.takes_seconds
        if self.failure:
            raise self.failure
        return dict(self.held)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    store = Store()
    store.clock = clock
    return store


@pytest.fixture
def standing(store, clock):
    return Standing(store, monotonic=clock)


async def test_nobody_is_believed_before_the_first_answer(standing):
    """A service that has just started does not let a stolen till in by mistake."""
    with pytest.raises(Unavailable):
        standing.of(HONEST)


async def test_standing_is_what_the_database_says(standing, store):
    """A stolen till is out, a cloned one is down to its sales, the others notice nothing; and the
    operator's next decision replaces the one before."""
    await standing.refresh()
    assert standing.of(STOLEN) is Verdict.REVOKED
    assert standing.of(CLONED) is Verdict.SUSPECT
    assert standing.of(HONEST) is Verdict.GOOD

    store.held = {CLONED: True}
    await standing.refresh()
    assert standing.of(CLONED) is Verdict.REVOKED


async def test_an_answer_is_good_for_two_seconds_from_the_question(standing, store, clock):
    """A till that was revoked is out two seconds later, or nobody is let in: however slow the
    database answers."""
    store.takes_seconds = 0.5
    await standing.refresh()

    clock.now += limits.STANDING_STALE_SECONDS - 0.5
    assert standing.of(HONEST) is Verdict.GOOD
    clock.now += 0.01
    with pytest.raises(Unavailable):
        standing.of(HONEST)


async def test_a_database_that_is_away_is_asked_again_until_it_is_back(store, clock):
    """The database was away for a minute: the tills wait, and nobody restarts anything."""
    failures = [None, Unavailable("away"), ValueError("odd"), TimeoutError(), None]
    seen = []

    async def next_second(seconds):
        assert seconds == limits.STANDING_REFRESH_SECONDS
        clock.now += 60.0
        try:
            seen.append(standing.of(HONEST))
        except Unavailable:
            seen.append(None)
        if store.rounds == len(failures):
            raise asyncio.CancelledError
        store.failure = failures[store.rounds]

    standing = Standing(store, monotonic=clock, sleep=next_second)
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await standing.run()

    assert store.rounds == len(failures)
    assert seen == [None] * 5, "a minute later, every answer is too old"
    assert [line["event"] for line in logs] == ["standing_unknown", "standing_known"]


async def test_a_database_that_hangs_is_not_waited_for(store, clock, monkeypatch):
    """A link to the database that went dead without a word does not stop the asking."""
    monkeypatch.setattr(limits, "STANDING_STALE_SECONDS", 0.0)
    store.out_of_standing = asyncio.Event().wait

    asking = asyncio.ensure_future(Standing(store, monotonic=clock).refresh())
    await asyncio.wait((asking,), timeout=10)

    assert asking.done()
    assert isinstance(asking.exception(), TimeoutError)
