"""What is noted about a comparison, and read again by another process."""

import pytest

from tillsync_agent.reconciliation import (
    Answer,
    Difference,
    Gone,
    Reconciliation,
    Refused,
    Request,
)

RESULT = Reconciliation(
    at="2026-11-22T12:00:00+00:00",
    history_id="history-1",
    days_equal=3,
    days_differing=1,
    differing=[Difference("2026-11-22", {"USD": (2, 2**70)}, {}, ["why"])],
    offered_again=4,
    refused=[Refused("2026-11-22", 7, 3, "conflict", "KEY_CONFLICT", "key")],
    refused_count=1,
    gone=[Gone(7, 1, 2)],
    gone_count=2,
    comes_to={"USD": (5, 6)},
    revision=2,
    closed=True,
)


def test_a_note_is_read_as_it_was_written():
    """The agent notes what it found, and status shows just that."""
    assert Reconciliation.parse(RESULT.dump()) == RESULT
    assert Answer.parse(Answer("a", RESULT).dump()) == Answer("a", RESULT)
    request = Request("a", "2026-11-22", close=True)
    assert Request.parse(request.dump()) == request


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "null",
        '{"later": 1}',
        '{"differing": 7}',
        '{"gone": [{"epoch": 1}]}',
        '{"comes_to": {"USD": [1, 2, 3]}}',
    ],
)
def test_a_note_of_another_release_stops_nothing(text):
    """The agent was updated, or its disk is bad: a note that cannot be read is none."""
    assert Reconciliation.parse(text) == Reconciliation()
    assert Answer.parse(text) is None
    assert Request.parse(text) is None


@pytest.mark.parametrize(
    "result",
    [
        Reconciliation(error="gone"),
        Reconciliation(days_differing=1),
        Reconciliation(gone_count=1),
        Reconciliation(unfinished=True),
    ],
)
def test_what_is_not_known_to_be_equal_is_not_equal(result):
    """A script at the till goes by the exit code: only a comparison that found all equal is one."""
    assert not result.is_equal
    assert Reconciliation(days_equal=1).is_equal
