"""Decides what becomes of each event of a group, and what is to be written. Pure.

The caller holds the tenant's head row, so what `held` and `seen` say stays true until it commits.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from uuid import UUID

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync.v1.event_pb2 import Outcome
from tillsync_service.foundation.errors import reason_name
from tillsync_service.ingest.batch import Batch, Refusal, Totals, add_totals
from tillsync_service.ingest.examine import FORKED

Outbox = tuple[UUID, int]  # device id, outbox epoch
Ranges = tuple[tuple[int, int], ...]  # half-open [first, end), ascending, not touching
Number = tuple[UUID, int, int]  # device id, epoch, sequence
Holder = tuple[int, bytes]  # position and digest of the event that holds a key

# Outcome's values are looked up by a slow __getattr__.
ACCEPTED = Outcome.OUTCOME_ACCEPTED
DUPLICATE = Outcome.OUTCOME_DUPLICATE
CONFLICT = Outcome.OUTCOME_CONFLICT
REJECTED = Outcome.OUTCOME_REJECTED

_KEY_CONFLICT = Refusal(
    reason_name(ErrorReason.ERROR_REASON_KEY_CONFLICT),
    "key",
    "The key belongs to an event with another body; both are kept, this one in quarantine.",
)


@dataclass(slots=True)
class Verdicts:
    """The answers to a batch, in its order: a column for each field of the contract's Verdict;
    flags are sets of bits."""

    outcomes: "list[Outcome.ValueType]"
    positions: list[int]
    flags: list[int]
    refusals: list[Refusal | None]

    def __add__(self, other: "Verdicts") -> "Verdicts":
        return Verdicts(
            self.outcomes + other.outcomes,
            self.positions + other.positions,
            self.flags + other.flags,
            self.refusals + other.refusals,
        )


class Quarantined(NamedTuple):
    """An event whose key another one holds, at `held_position`."""

    held_position: int
    batch: Batch
    place: int


class Rejected(NamedTuple):
    """A refused event's number, and why it will not come."""

    device_id: UUID
    epoch: int
    sequence: int
    refusal: Refusal


@dataclass(slots=True)
class Judgement:
    """The verdicts on each batch, and the rows that make them true. `head` is the position of the
    last event before these."""

    head: int
    verdicts: list[Verdicts] = field(default_factory=list)
    stored: list[Batch] = field(default_factory=list)  # together at head + 1, head + 2, …
    quarantined: list[Quarantined] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    progress: dict[Outbox, Ranges] = field(default_factory=dict)
    days: dict[UUID, Totals] = field(default_factory=dict)  # by device id
    forks: list[Number] = field(default_factory=list)  # of the stored events flagged FORKED


def judge(
    batches: Iterable[Batch],
    *,
    head: int,
    held: Mapping[str, Holder],
    seen: Mapping[Outbox, Ranges],
    used: Mapping[Outbox, Ranges],
    numbers: Mapping[Outbox, Ranges],
) -> Judgement:
    """The judgement on a group of one tenant's batches.

    head: the position of the tenant's last event. held: who holds those keys of the group that
    are taken. numbers: what `presented` says of the group. seen: which of these numbers were
    presented before. used: which of them an event of the history has; one that was presented and
    has none is no fork, but perhaps an event that was lost here and comes again.
    """
    judgement = Judgement(head, progress=_news(numbers, seen))
    holders = dict(held)
    taken = {outbox: _members(used.get(outbox, ())) for outbox in numbers}
    position = head
    for batch in batches:
        verdicts, accepted = _judge_keys(judgement, batch, holders, position)
        position += len(accepted)
        judgement.verdicts.append(verdicts)
        if accepted:
            reused = _reused(batch, accepted, taken)
            judgement.forks += [_number(batch, index) for index in reused]
            stored = _with_forks_flagged(batch, reused).only(accepted)
            for index, flags in zip(accepted, stored.flags, strict=True):
                verdicts.flags[index] = flags
            judgement.stored.append(stored)
            add_totals(judgement.days.setdefault(batch.device.device_id, {}), stored.totals)
    return judgement


def presented(batches: Iterable[Batch]) -> dict[Outbox, Ranges]:
    """Which numbers each outbox presents in this group."""
    numbers: dict[Outbox, set[int]] = {}
    for batch in batches:
        device_id = batch.device.device_id
        by_epoch: dict[int, set[int]] = {
            epoch: numbers.setdefault((device_id, epoch), set())
            for epoch in set(batch.epochs) - {0}
        }
        for epoch, sequence in zip(batch.epochs, batch.sequences, strict=True):
            if sequence:
                by_epoch[epoch].add(sequence)
    return {outbox: ranges(members) for outbox, members in numbers.items()}


def ranges(numbers: Iterable[int]) -> Ranges:
    """The numbers as the fewest half-open ranges, ascending."""
    ordered = sorted(numbers)
    if ordered and ordered[-1] - ordered[0] + 1 == len(ordered):
        return ((ordered[0], ordered[-1] + 1),)
    result: list[tuple[int, int]] = []
    for number in ordered:
        if result and result[-1][1] == number:
            result[-1] = (result[-1][0], number + 1)
        else:
            result.append((number, number + 1))
    return tuple(result)


def _judge_keys(
    judgement: Judgement, batch: Batch, holders: dict[str, Holder], position: int
) -> tuple[Verdicts, list[int]]:
    """The verdicts on a batch, without flags, and the places of the accepted events, which take
    the positions after `position`. Whoever is accepted holds its key from then on."""
    count = len(batch)
    verdicts = Verdicts([ACCEPTED] * count, [0] * count, [0] * count, list(batch.refusals))
    accepted: list[int] = []
    for index, (key, digest, refusal) in enumerate(
        zip(batch.keys, batch.digests, batch.refusals, strict=True)
    ):
        if refusal is not None:
            verdicts.outcomes[index] = REJECTED
            _note_rejected(judgement, batch, index, refusal)
            continue
        holder = holders.get(key)
        if holder is None:
            position += 1
            holders[key] = (position, digest)
            verdicts.positions[index] = position
            accepted.append(index)
            continue
        verdicts.positions[index] = holder[0]
        if holder[1] == digest:
            verdicts.outcomes[index] = DUPLICATE
        else:
            verdicts.outcomes[index] = CONFLICT
            verdicts.refusals[index] = _KEY_CONFLICT
            judgement.quarantined.append(Quarantined(holder[0], batch, index))
    return verdicts, accepted


def _note_rejected(judgement: Judgement, batch: Batch, index: int, refusal: Refusal) -> None:
    if batch.sequences[index]:
        judgement.rejected.append(
            Rejected(batch.device.device_id, batch.epochs[index], batch.sequences[index], refusal)
        )


def _reused(batch: Batch, accepted: Iterable[int], taken: Mapping[Outbox, set[int]]) -> list[int]:
    """Which of the accepted places have a number that is taken; each takes its own."""
    reused = []
    taken_of = {epoch: taken[batch.device.device_id, epoch] for epoch in set(batch.epochs) - {0}}
    for index in accepted:
        if sequence := batch.sequences[index]:
            of_epoch = taken_of[batch.epochs[index]]
            if sequence in of_epoch:
                reused.append(index)
            of_epoch.add(sequence)
    return reused


def _number(batch: Batch, index: int) -> Number:
    return batch.device.device_id, batch.epochs[index], batch.sequences[index]


def _with_forks_flagged(batch: Batch, reused: Sequence[int]) -> Batch:
    if not reused:
        return batch
    flags = list(batch.flags)
    for index in reused:
        flags[index] |= FORKED
    return replace(batch, flags=flags)


def _members(seen: Ranges) -> set[int]:
    return {number for first, end in seen for number in range(first, end)}


def _news(now: Mapping[Outbox, Ranges], seen: Mapping[Outbox, Ranges]) -> dict[Outbox, Ranges]:
    return {outbox: ranges for outbox, ranges in now.items() if seen.get(outbox) != ranges}
