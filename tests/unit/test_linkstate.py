"""One dead link, several loops that would like to use it."""

from hypothesis import given
from hypothesis import strategies as st

from tillsync_agent.backoff import Backoff
from tillsync_agent.linkstate import Link, LinkState


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def a_link(clock: FakeClock, luck: float = 1.0) -> LinkState:
    return LinkState(
        monotonic=clock, luck=lambda: luck, backoff=Backoff(1.0, 60.0), probe_seconds=30.0
    )


def test_a_dead_link_is_probed_by_one_and_not_by_all():
    """The shop's line is down: of three loops one tries when the wait is over, two wait for it."""
    clock = FakeClock()
    link = a_link(clock)
    wait = link.failed()
    assert [link.admit() for _ in range(3)] == [wait] * 3

    clock.now += wait
    admitted = [link.admit() == 0.0 for _ in range(3)]

    assert admitted == [True, False, False]
    assert link.state is Link.HALF_OPEN


def test_one_success_lets_everybody_go_on():
    """The line is back: what the probe learned, prices and sales use at once."""
    clock = FakeClock()
    link = a_link(clock)
    clock.now += link.failed()
    link.admit()

    link.succeeded()

    assert [link.admit() for _ in range(3)] == [0.0, 0.0, 0.0]
    assert link.failed() == 1.0  # and the next outage starts with a short wait again


def test_a_probe_that_never_reports_does_not_close_the_door_for_ever():
    """A loop was cancelled in the middle of its probe: half a minute later another one may try."""
    clock = FakeClock()
    link = a_link(clock)
    clock.now += link.failed()
    assert link.admit() == 0.0

    clock.now += 29.0
    assert link.admit() > 0
    clock.now += 1.0
    assert link.admit() == 0.0


STEPS = st.one_of(
    st.tuples(st.just("pass"), st.floats(min_value=0, max_value=200)),
    st.tuples(st.just("fail"), st.floats(min_value=0, max_value=1e9)),
    st.tuples(st.just("ask"), st.just(0.0)),
    st.tuples(st.just("succeed"), st.just(0.0)),
)


@given(steps=st.lists(STEPS, max_size=40))
def test_whatever_happened_the_next_try_is_never_far(steps):
    """Outages, pauses and rude servers in any order: eleven minutes later the till tries again."""
    clock = FakeClock()
    link = a_link(clock)
    for what, number in steps:
        if what == "pass":
            clock.now += number
        elif what == "fail":
            link.failed(floor_seconds=number)
        elif what == "ask":
            link.admit()
        else:
            link.succeeded()
            assert link.admit() == 0.0

    clock.now += 600.0 + 60.0

    assert link.admit() == 0.0
