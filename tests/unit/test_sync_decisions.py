"""What a till does next when a pull or a push failed."""

from itertools import product

import grpc
import pytest

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_agent.answers import Failure
from tillsync_agent.sync_decisions import REFUSED_SECONDS, Decision, Next, of_failure

REASONS = [name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()]  # noqa: SIM118 -- an enum wrapper
CODES = [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


def failure(code, reason=""):
    return Failure(code, "words", reason=reason)


@pytest.mark.parametrize("reason", ["", *REASONS, "A_REASON_OF_A_NEWER_SERVICE"])
def test_no_failure_is_tried_again_at_once_for_ever(reason):
    """Whatever goes wrong, in words that the till knows or not: it waits, or does something first
    that makes the next try another one."""
    for code, token_is_new in product([*CODES, "NOT_ENROLLED", "A_NEW_CODE"], [False, True]):
        decision = of_failure(failure(code, reason), token_is_new=token_is_new)

        waits = decision.link_failed or decision.wait_seconds > 0
        helps = decision.next is not Next.NOTHING
        if decision.next is Next.NEW_TOKEN:
            helps = not token_is_new
        assert waits or helps, (code, token_is_new)


@pytest.mark.parametrize(
    ("code", "reason", "decision"),
    [
        ("INVALID_ARGUMENT", "CURSOR_INVALID", Decision(Next.FORGET_CURSOR)),
        ("NOT_FOUND", "COLLECTION_UNKNOWN", Decision(Next.DROP_RELOAD)),
        ("ALREADY_EXISTS", "MUTATION_REUSED", Decision(Next.RENUMBER)),
        ("UNAUTHENTICATED", "TOKEN_EXPIRED", Decision(Next.NEW_TOKEN)),
        ("PERMISSION_DENIED", "DEVICE_REVOKED", Decision(wait_seconds=REFUSED_SECONDS)),
        ("PERMISSION_DENIED", "DEVICE_SUSPECT", Decision(wait_seconds=REFUSED_SECONDS)),
        ("UNIMPLEMENTED", "", Decision(wait_seconds=REFUSED_SECONDS)),
        ("UNAVAILABLE", "", Decision(link_failed=True)),
        ("UNAVAILABLE", "SHUTTING_DOWN", Decision(link_failed=True)),
        ("RESOURCE_EXHAUSTED", "", Decision(link_failed=True)),
    ],
)
def test_each_failure_has_its_own_next_step(code, reason, decision):
    """A till that is refused goes on selling and asks again in minutes; one without a link waits
    for the link; one whose place in the prices is unknown loads them anew."""
    assert of_failure(failure(code, reason), token_is_new=False) == decision


def test_a_token_that_was_never_good_is_not_asked_for_again_and_again():
    """Head office's clock is wrong, so that it refuses every token it makes: the till backs off."""
    assert of_failure(failure("UNAUTHENTICATED"), token_is_new=True).link_failed
