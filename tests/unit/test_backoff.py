"""How a till waits: rarely enough for the service, never for ever, never in step with others."""

import random

from hypothesis import given
from hypothesis import strategies as st

from tillsync_agent.backoff import LONGEST_FLOOR_SECONDS, Backoff

TRIES = st.integers(min_value=0, max_value=10**9)
LUCK = st.floats(min_value=0, max_value=1, exclude_max=True)


@given(tries=TRIES, luck=LUCK, floor=st.floats(min_value=-1e9, max_value=1e12))
def test_a_till_never_waits_longer_than_the_cap_above_what_the_service_asked(tries, luck, floor):
    """The shop's link comes back after ten days: the till is back within a minute, however often
    it failed before and whatever a server once asked."""
    wait = Backoff(0.5, 60.0).delay_seconds(tries, luck=luck, floor_seconds=floor)

    asked = min(max(0.0, floor), LONGEST_FLOOR_SECONDS)
    assert asked <= wait <= asked + 60.0


def test_f22_a_fleet_at_the_cap_comes_back_spread_over_the_whole_minute():
    """Ten thousand tills lost the service for an hour: their next tries are spread evenly over the
    cap, and not all at its end, as with jitter before the cap (F22)."""
    chance = random.Random(7)
    waits = [Backoff(0.5, 60.0).delay_seconds(40, luck=chance.random()) for _ in range(10_000)]

    per_quarter = [sum(q * 15 <= w < (q + 1) * 15 for w in waits) for q in range(4)]
    assert all(2_200 < count < 2_800 for count in per_quarter), per_quarter


def test_a_fleet_that_was_asked_to_wait_does_not_come_back_at_the_same_instant():
    """The service asked everybody for 5 s: nobody is earlier, and they are spread after it."""
    chance = random.Random(7)
    backoff = Backoff(0.5, 60.0)

    waits = [
        backoff.delay_seconds(3, luck=chance.random(), floor_seconds=5.0) for _ in range(1_000)
    ]

    assert min(waits) >= 5.0
    assert max(waits) - min(waits) > 3.5


def test_waits_double_up_to_the_cap():
    """A short hiccup costs the shop half a second, a long one at most the cap between two tries."""
    backoff = Backoff(0.5, 4.0)

    assert [backoff.delay_seconds(n, luck=1.0) for n in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
