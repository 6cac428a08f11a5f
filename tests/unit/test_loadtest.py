"""The load test's plan, its counting, and its exit status."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillsync_service.operator.loadtest import Tally, percentile, sales, shuffled_plan


@given(st.data(), st.integers(1, 300))
def test_a_plan_sends_every_sale_at_least_once(data, total):
    """Whatever the sizes, each different sale is sent, and exactly `total` calls are made."""
    unique = data.draw(st.integers(1, total))
    chance = random.Random(data.draw(st.integers()))

    plan = shuffled_plan(total, unique, chance)

    assert len(plan) == total
    assert set(plan) == set(range(unique))


def test_a_plan_mixes_first_sendings_and_repeats():
    """Repeats do not wait until every sale was sent once."""
    plan = shuffled_plan(2000, 400, random.Random(1))

    first_400 = Counter(plan[:400])
    assert max(first_400.values()) > 1
    assert plan != sorted(plan)


def test_sales_differ_and_are_numbered():
    """Each sale has a key, a number and a body of its own, and about 400 bytes of it."""
    made = sales(20)

    assert len({sale.key for sale in made}) == 20
    assert len({sale.body.value for sale in made}) == 20
    assert [sale.device_sequence for sale in made] == list(range(1, 21))
    assert 300 < made[0].ByteSize() < 600


@pytest.mark.parametrize(
    ("accepted", "duplicates", "other", "status"),
    [
        (400, 1600, 0, 0),
        (401, 1599, 0, 1),
        (399, 1601, 0, 1),
        (400, 1599, 1, 2),
        (399, 1600, 1, 2),
        (0, 0, 2000, 2),
    ],
)
def test_exit_status(accepted, duplicates, other, status):
    """A gate lets a release pass only if every sale counted once; anything else that happened
    outweighs a wrong count, because it may be its cause."""
    tally = Tally(2000, 400, accepted, duplicates, Counter({"timeout": other}))

    assert tally.exit_status == status
    assert tally.is_complete


def test_the_last_line_has_these_names_and_no_others():
    """A gate's script finds what it looks for."""
    answer = Tally(4, 2, 2, 2, answered_ms=[1.0, 2.0, 3.0, 40.125]).as_dict()

    assert answer == {
        "total": 4,
        "unique": 2,
        "accepted": 2,
        "duplicates": 2,
        "other": 0,
        "p50_ms": 2.0,
        "p95_ms": 40.12,
    }


def test_troubles_are_told_the_most_frequent_first():
    """The operator reads why, not 2,000 lines of it."""
    tally = Tally(20, 1, others=Counter(a=1, b=9, c=5, d=3, e=2))

    assert list(tally.troubles()) == ["9 x b", "5 x c", "3 x d", "and 2 other kinds of failure"]


def test_nothing_answered_has_no_times():
    """A load test without a single answer does not invent a latency."""
    assert percentile([], 0.5) is None
