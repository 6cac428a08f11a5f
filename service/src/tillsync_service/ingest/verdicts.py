"""Decides what becomes of each event of a group, and what is to be written. Pure.

The caller holds the tenant's head row, so what `held` and `seen` say stays true until it commits.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync.v1.event_pb2 import Outcome
from tillsync_service.foundation.errors import reason_name
from tillsync_service.ingest.examine import FORKED, NO_CURRENCY, Candidate, Refusal

DIGEST_MODULUS = 2**128

Outbox = tuple[UUID, int]  # device id, outbox epoch
Ranges = tuple[tuple[int, int], ...]  # half-open [first, end), ascending, not touching
Holder = tuple[int, bytes]  # position and digest of the event that holds a key
Day = tuple[UUID, str, str]  # device id, business day, currency: one row of the books

_NO_AMOUNTS = {NO_CURRENCY: 0}
_UNNUMBERED: set[int] = set()  # never written to
# Outcome's values are looked up by a slow __getattr__: this one is needed for every event.
ACCEPTED = Outcome.OUTCOME_ACCEPTED

_CONFLICT = (
    reason_name(ErrorReason.ERROR_REASON_KEY_CONFLICT),
    "key",
    "The key belongs to an event with another body; both are kept, this one in quarantine.",
)


class Verdict(NamedTuple):
    """The answer to one event; `refusal` is (reason, field, description) or None."""

    outcome: "Outcome.ValueType"
    position: int = 0
    flags: int = 0
    refusal: tuple[str, str, str] | None = None


@dataclass(slots=True)
class DayTotal:
    """What is added to a row of the books; digest_sum still to be taken modulo 2^128."""

    event_count: int = 0
    amount_minor: int = 0
    digest_sum: int = 0


@dataclass(slots=True)
class Judgement:
    """One verdict per event, in order, and the rows that make them true. `head` is the position
    of the last event before these."""

    head: int
    verdicts: list[Verdict] = field(default_factory=list)
    stored: list[Candidate] = field(default_factory=list)  # at head + 1, head + 2, …
    quarantined: list[tuple[int, Candidate]] = field(default_factory=list)  # held position, …
    rejected: list[Refusal] = field(default_factory=list)
    progress: dict[Outbox, Ranges] = field(default_factory=dict)
    days: dict[Day, DayTotal] = field(default_factory=dict)


def judge(
    examined: Sequence[Candidate | Refusal],
    *,
    head: int,
    held: Mapping[str, Holder],
    seen: Mapping[Outbox, Ranges],
    numbers: Mapping[Outbox, Ranges],
) -> Judgement:
    """The judgement on a group of one tenant's events.

    head: the position of the tenant's last event. held: who holds those keys of the group that
    are taken. numbers: what `presented` says of the group. seen: which of these numbers were
    presented before.
    """
    judgement = Judgement(head, progress=_news(numbers, seen))
    holders = dict(held)
    used = {outbox: _members(seen.get(outbox, ())) for outbox in numbers}
    for event in examined:
        sequence = event.device_sequence
        used_here = used[event.device_id, event.outbox_epoch] if sequence else _UNNUMBERED
        if isinstance(event, Refusal):
            verdict = _reject(judgement, event)
        elif (holder := holders.get(event.key)) is None:
            verdict = _accept(judgement, event, is_fork=sequence in used_here)
            holders[event.key] = (verdict.position, event.digest)
        elif holder[1] == event.digest:
            verdict = Verdict(Outcome.OUTCOME_DUPLICATE, holder[0])
        else:
            judgement.quarantined.append((holder[0], event))
            verdict = Verdict(Outcome.OUTCOME_CONFLICT, holder[0], refusal=_CONFLICT)
        judgement.verdicts.append(verdict)
        if sequence:
            used_here.add(sequence)
    return judgement


def presented(examined: Iterable[Candidate | Refusal]) -> dict[Outbox, Ranges]:
    """Which numbers each outbox presents in this group."""
    numbers: dict[Outbox, set[int]] = {}
    for event in examined:
        if event.device_sequence:
            numbers.setdefault((event.device_id, event.outbox_epoch), set()).add(
                event.device_sequence
            )
    return {outbox: ranges(members) for outbox, members in numbers.items()}


def ranges(numbers: Iterable[int]) -> Ranges:
    """The numbers as the fewest half-open ranges, ascending."""
    result: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if result and result[-1][1] == number:
            result[-1] = (result[-1][0], number + 1)
        else:
            result.append((number, number + 1))
    return tuple(result)


def _accept(judgement: Judgement, event: Candidate, *, is_fork: bool) -> Verdict:
    if is_fork:
        event = event._replace(flags=event.flags | FORKED)
    judgement.stored.append(event)
    digest_number = int.from_bytes(event.digest)
    for currency, minor_units in (event.amounts or _NO_AMOUNTS).items():
        day = (event.device_id, event.business_day, currency)
        total = judgement.days.get(day)
        if total is None:
            total = judgement.days[day] = DayTotal()
        total.event_count += 1
        total.amount_minor += minor_units
        total.digest_sum += digest_number
    return Verdict(ACCEPTED, judgement.head + len(judgement.stored), event.flags)


def _reject(judgement: Judgement, refusal: Refusal) -> Verdict:
    if refusal.device_sequence:
        judgement.rejected.append(refusal)
    return Verdict(
        Outcome.OUTCOME_REJECTED, refusal=(refusal.reason, refusal.field, refusal.description)
    )


def _members(seen: Ranges) -> set[int]:
    return {number for first, end in seen for number in range(first, end)}


def _news(now: Mapping[Outbox, Ranges], seen: Mapping[Outbox, Ranges]) -> dict[Outbox, Ranges]:
    return {outbox: ranges for outbox, ranges in now.items() if seen.get(outbox) != ranges}
