"""What answers and failures mean for the rows that were sent."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillsync_agent import settle
from tillsync_agent.answers import Answer, Failure, Verdict
from tillsync_agent.settle import SLOW_PROBE_SECONDS, Then

GRPC_CODES = [code.name for code in grpc.StatusCode] + ["GARBAGE"]
OUTCOMES = ("accepted", "duplicate", "conflict", "rejected", "queued", "unknown")
IDS = st.lists(st.integers(min_value=1), min_size=1, max_size=20, unique=True)
VERDICTS = st.builds(
    Verdict,
    outcome=st.sampled_from(OUTCOMES),
    position=st.integers(min_value=-2, max_value=5),
    forked=st.booleans(),
)
FAILURES = st.builds(
    Failure,
    code=st.sampled_from(GRPC_CODES) | st.text(),
    message=st.text(),
    reason=st.text() | st.sampled_from(["DEVICE_REVOKED", "TENANT_GONE", "OVERLOADED"]),
    pushback_seconds=st.floats(),
)


def an_answer(*outcomes: str, history_id: str = "h") -> Answer:
    return Answer(tuple(Verdict(outcome, 7) for outcome in outcomes), history_id)


@given(ids=IDS, failure=FAILURES, token_is_new=st.booleans())
def test_i4_no_failure_whatsoever_settles_a_sale(ids, failure, token_is_new):
    """A proxy says 401, a server 404, a hotel's portal HTML: the shop's sales all stay (I4)."""
    decision = settle.of_failure(ids, failure, token_is_new=token_is_new)

    assert decision.settlements == ()
    assert set(decision.hold) <= set(ids)


@given(ids=IDS, verdicts=st.lists(VERDICTS, max_size=20), history_id=st.sampled_from(["", "h"]))
def test_only_a_readable_verdict_settles_a_sale(ids, verdicts, history_id):
    """Whatever the service answers, a sale leaves the waiting list only by one of the four words
    of the contract, in an answer that fits the question and says which history it is of."""
    decision = settle.of_answer(ids, Answer(tuple(verdicts), history_id))

    settled = {s.id: s.outcome for s in decision.settlements}
    for row, verdict in zip(ids, verdicts, strict=False):
        if row in settled:
            assert len(verdicts) == len(ids)
            assert history_id
            assert settled[row] == verdict.outcome
            assert verdict.outcome in {"accepted", "duplicate", "conflict", "rejected"}
            assert verdict.position > 0 or verdict.outcome not in {"accepted", "duplicate"}
    assert not set(decision.hold) & set(settled)


@given(ids=IDS, verdicts=st.lists(VERDICTS, max_size=20))
def test_an_answer_that_settles_nothing_is_never_followed_by_a_hot_loop(ids, verdicts):
    """A confused service answers nonsense for ever: the till tries again, with pauses."""
    decision = settle.of_answer(ids, Answer(tuple(verdicts), "h"))

    assert decision.settlements or decision.then is Then.WAIT


def test_each_sale_gets_its_own_verdict():
    """Three sales in one batch: stored, stored before, refused. Each is marked so (I9)."""
    refused = Verdict("rejected", 0, reason="EVENT_NOT_STORABLE", field="key", description="no")
    answer = Answer((Verdict("accepted", 7), Verdict("duplicate", 3), refused), "h")

    decision = settle.of_answer([11, 12, 13], answer)

    assert [(s.id, s.outcome, s.position) for s in decision.settlements] == [
        (11, "accepted", 7),
        (12, "duplicate", 3),
        (13, "rejected", 0),
    ]
    assert decision.settlements[2].field == "key"
    assert decision.then is Then.GO_ON


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_answer_of_another_length_settles_nothing(count):
    """Two sales were sent and another number of verdicts came: nobody can tell whose is whose, so
    both are kept and sent again."""
    decision = settle.of_answer([1, 2], an_answer(*["accepted"] * count))

    assert decision.settlements == ()
    assert decision.then is Then.WAIT


def test_a_word_that_this_agent_does_not_know_holds_that_sale_alone():
    """A newer service says something new about one sale: it is kept, the others go on."""
    decision = settle.of_answer([1, 2, 3], an_answer("accepted", "unknown", "duplicate"))

    assert [s.id for s in decision.settlements] == [1, 3]
    assert decision.hold == (2,)
    assert decision.then is Then.GO_ON


def test_queued_is_not_head_office():
    """The till points at another till's gateway by mistake: nothing is settled, and it says so."""
    decision = settle.of_answer([1, 2], an_answer("queued", "queued", history_id=""))

    assert decision.settlements == ()
    assert decision.then is Then.WAIT
    assert "not from head office" in decision.error


@pytest.mark.parametrize(
    "failure",
    [
        Failure("INVALID_ARGUMENT", "not a message", "REQUEST_MALFORMED"),
        Failure("RESOURCE_EXHAUSTED", "SERVER: Received message larger than max (9 vs. 4)"),
    ],
)
def test_a_refused_request_is_halved_until_the_culprit_is_alone_and_then_held(failure):
    """One sale makes the whole batch unreadable: the batch is cut, and at the end that sale waits
    by itself while all the others are on their way (I9, F37)."""
    many = settle.of_failure([1, 2, 3, 4], failure, token_is_new=False)
    alone = settle.of_failure([3], failure, token_is_new=False)

    assert (many.then, many.shrink, many.hold) == (Then.GO_ON, True, ())
    assert (alone.then, alone.hold) == (Then.GO_ON, (3,))


def test_a_full_service_is_not_a_large_message():
    """The service is overloaded and says when to come back: no sale is suspected of anything."""
    failure = Failure("RESOURCE_EXHAUSTED", "work waits", "OVERLOADED", 5.0)

    decision = settle.of_failure([1], failure, token_is_new=False)

    assert (decision.then, decision.hold, decision.shrink) == (Then.WAIT, (), False)
    assert decision.floor_seconds == 5.0


@pytest.mark.parametrize("code", ["INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "GARBAGE"])
def test_a_sale_that_always_breaks_the_service_does_not_stop_the_shop(code):
    """A sale that the service chokes on, or that is too large for a slow line, ends up alone and
    held, with a pause, while the others pass it by (I9)."""
    many = settle.of_failure([1, 2], Failure(code), token_is_new=False)
    alone = settle.of_failure([2], Failure(code), token_is_new=False)

    assert (many.then, many.shrink, many.hold) == (Then.WAIT, True, ())
    assert (alone.then, alone.hold) == (Then.WAIT, (2,))


def test_an_outage_suspects_no_sale():
    """Head office is down for a week: the one sale of the day is not put aside as a culprit, and
    is sent as soon as the line is back."""
    decision = settle.of_failure([1], Failure("UNAVAILABLE", "refused"), token_is_new=False)

    assert (decision.then, decision.hold, decision.shrink) == (Then.WAIT, (), False)


def test_a_refused_token_is_replaced_once():
    """The till slept and its token ended: it asks for a new one at once. If the new one is refused
    as well it waits, and does not hammer."""
    failure = Failure("UNAUTHENTICATED", "", "TOKEN_EXPIRED")

    assert settle.of_failure([1], failure, token_is_new=False).then is Then.NEW_TOKEN
    assert settle.of_failure([1], failure, token_is_new=True).then is Then.WAIT


def test_a_revoked_till_keeps_its_sales_and_asks_rarely():
    """An operator revoked the till, perhaps by mistake: nothing is lost, it asks every few
    minutes, and goes on when it may."""
    failure = Failure("PERMISSION_DENIED", "", "DEVICE_REVOKED")

    decision = settle.of_failure([1, 2], failure, token_is_new=False)

    assert decision.then is Then.WAIT
    assert decision.floor_seconds == SLOW_PROBE_SECONDS


def test_a_refusal_to_open_a_stream_says_nothing_about_the_sales():
    """IssueToken is answered INVALID_ARGUMENT by something strange: no sale is held for it."""
    decision = settle.of_no_stream(Failure("INVALID_ARGUMENT", "?"))

    assert (decision.then, decision.hold, decision.shrink) == (Then.WAIT, (), False)
