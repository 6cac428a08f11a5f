"""What an answer or a failure means for the rows that were sent. Pure: no clock, no chance, no I/O.

The rule above all others: a row leaves the outbox's waiting list by a verdict of the service and by
nothing else. No status code, however odd, and no answer that does not fit the question settles one.

    what came back                            settled   then
    a verdict per row                         all       go on
    ... one of them unreadable or QUEUED      the rest  hold that one, go on
    wrong number of verdicts, no history      none      wait; smaller batches
    INVALID_ARGUMENT, "larger than max"       none      halve at once; alone: hold it, go on
    INTERNAL, UNKNOWN, a timeout, garbage     none      wait, halve; alone: hold it too
    UNAUTHENTICATED                           none      a new token, once; then wait
    DEVICE_REVOKED, TENANT_GONE               none      wait long
    anything else                             none      wait

"Hold" is not "drop": the row waits by itself and is sent again, while the others go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tillsync_agent.answers import Answer, Failure, Verdict
from tillsync_agent.entries import Settlement

# How often a device that was told to go away asks whether that still holds.
SLOW_PROBE_SECONDS = 300.0

_FINAL = frozenset({"accepted", "duplicate", "conflict", "rejected"})
_AT_A_POSITION = frozenset({"accepted", "duplicate"})
# Failures that one row of the batch may be the cause of, though the service does not say so.
_SUSPECT = frozenset(
    {"INTERNAL", "UNKNOWN", "DATA_LOSS", "OUT_OF_RANGE", "DEADLINE_EXCEEDED", "GARBAGE"}
)
_SENT_AWAY = frozenset({"DEVICE_REVOKED", "TENANT_GONE"})
QUEUED_ONLY = (
    "the answers come from another agent's gateway (QUEUED), not from head office; "
    "check the setting service"
)


class Then(StrEnum):
    """What the sender does next."""

    GO_ON = "go on"
    WAIT = "wait"
    NEW_TOKEN = "new token"  # noqa: S105 - the name of a step


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with the rows of one batch, by row id; rows not named stay as they are."""

    then: Then
    settlements: tuple[Settlement, ...] = ()
    hold: tuple[int, ...] = ()
    forked: tuple[int, ...] = ()
    shrink: bool = False
    floor_seconds: float = 0.0
    error: str = ""


def of_answer(ids: Sequence[int], answer: Answer) -> Decision:
    """What an answer means for the rows `ids`, which were sent in this order."""
    if len(answer.verdicts) != len(ids):
        return _unclear(ids, f"{len(answer.verdicts)} verdicts for {len(ids)} events")
    pairs = tuple(zip(ids, answer.verdicts, strict=True))
    if all(verdict.outcome == "queued" for verdict in answer.verdicts):
        return Decision(Then.WAIT, error=QUEUED_ONLY)
    settlements = tuple(
        _settlement(row, verdict, answer.history_id)
        for row, verdict in pairs
        if _is_final(verdict, answer.history_id)
    )
    if not settlements:
        return _unclear(ids, "an answer without a verdict that this agent can read")
    unread = tuple(row for row, v in pairs if not _is_final(v, answer.history_id))
    return Decision(
        Then.GO_ON,
        settlements,
        hold=unread,
        forked=tuple(row for row, verdict in pairs if verdict.forked),
        error="a verdict that this agent cannot read" if unread else "",
    )


def of_failure(ids: Sequence[int], failure: Failure, *, token_is_new: bool) -> Decision:
    """What a call without an answer means for the rows `ids`.

    `token_is_new`: the token of this call has never been accepted, so another one would not help.
    """
    error = str(failure)
    if _is_unusable(failure):
        return Decision(Then.GO_ON, hold=_lone(ids), shrink=True, error=error)
    if failure.code == "UNAUTHENTICATED" and not token_is_new:
        return Decision(Then.NEW_TOKEN, error=error)
    floor = SLOW_PROBE_SECONDS if failure.reason in _SENT_AWAY else failure.pushback_seconds
    if failure.code in _SUSPECT:
        return Decision(Then.WAIT, hold=_lone(ids), shrink=True, floor_seconds=floor, error=error)
    return Decision(Then.WAIT, floor_seconds=floor, error=error)


def of_no_stream(failure: Failure) -> Decision:
    """What it means that no stream could be opened: nothing about any row."""
    floor = SLOW_PROBE_SECONDS if failure.reason in _SENT_AWAY else failure.pushback_seconds
    return Decision(Then.WAIT, floor_seconds=floor, error=str(failure))


def _is_unusable(failure: Failure) -> bool:
    """Whether the request itself was refused, so that nothing of it was stored."""
    too_large = failure.code == "RESOURCE_EXHAUSTED" and "larger than max" in failure.message
    return failure.code == "INVALID_ARGUMENT" or (too_large and not failure.reason)


def _is_final(verdict: Verdict, history_id: str) -> bool:
    placed = verdict.position > 0 or verdict.outcome not in _AT_A_POSITION
    return verdict.outcome in _FINAL and placed and history_id != ""


def _settlement(row: int, verdict: Verdict, history_id: str) -> Settlement:
    return Settlement(
        id=row,
        outcome=verdict.outcome,
        position=verdict.position,
        history_id=history_id,
        reason=verdict.reason,
        field=verdict.field,
        description=verdict.description,
    )


def _unclear(ids: Sequence[int], error: str) -> Decision:
    return Decision(Then.WAIT, hold=_lone(ids), shrink=True, error=error)


def _lone(ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(ids) if len(ids) == 1 else ()
