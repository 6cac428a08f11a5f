"""What a failed pull or push means for what is tried next. Pure: no clock, no chance, no I/O.

    what came back                            then
    CURSOR_INVALID                            forget the cursor, load anew
    COLLECTION_UNKNOWN (of a reload)          pull without the reload
    MUTATION_REUSED                           number the waiting edits anew
    UNAUTHENTICATED                           a new token, once; then as below
    the service refused in its own words      wait, without calling the link down: sales may go
    anything else                             the link's backoff

Nothing here drops an edit: one leaves the overlay by a checkpoint and by nothing else.
"""

from dataclasses import dataclass
from enum import StrEnum

from tillsync_agent.answers import Failure

# How often a device that may not sync asks whether that still holds.
REFUSED_SECONDS = 300.0

# The service is there and says no to this call, for reasons that have nothing to do with the link.
_REFUSALS = frozenset(
    {
        "DEVICE_SUSPECT",
        "DEVICE_REVOKED",
        "PERMISSION_DENIED",
        "TENANT_GONE",
        "FIELD_INVALID",
        "REQUEST_MALFORMED",
        "MUTATION_GAP",
    }
)


class Next(StrEnum):
    """What is done before the next try."""

    NOTHING = "nothing"
    NEW_TOKEN = "new token"  # noqa: S105 - the name of a step
    FORGET_CURSOR = "forget cursor"
    DROP_RELOAD = "drop reload"
    RENUMBER = "renumber"


@dataclass(frozen=True, slots=True)
class Decision:
    """`link_failed`: the shared link state hears of it and says when to try again. Otherwise the
    next try comes after `wait_seconds`."""

    next: Next = Next.NOTHING
    link_failed: bool = False
    wait_seconds: float = 0.0


def of_failure(failure: Failure, *, token_is_new: bool) -> Decision:
    """What to do about a pull or a push that failed.

    `token_is_new`: the token of this call has never been accepted, so another would not help.
    """
    if failure.reason == "CURSOR_INVALID":
        return Decision(Next.FORGET_CURSOR)
    if failure.reason == "COLLECTION_UNKNOWN":
        return Decision(Next.DROP_RELOAD)
    if failure.reason == "MUTATION_REUSED":
        return Decision(Next.RENUMBER)
    if failure.code == "UNAUTHENTICATED" and not token_is_new:
        return Decision(Next.NEW_TOKEN)
    if failure.reason in _REFUSALS or failure.code == "UNIMPLEMENTED":
        return Decision(wait_seconds=REFUSED_SECONDS)
    return Decision(link_failed=True)
