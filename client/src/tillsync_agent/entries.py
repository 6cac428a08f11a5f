"""What goes into the outbox and comes out of it. Pure."""

from dataclasses import dataclass
from datetime import datetime

OUTCOMES = frozenset({"accepted", "duplicate", "conflict", "rejected"})


@dataclass(frozen=True, slots=True)
class Receipt:
    """The event is on this device's disk, as number `sequence` of the outbox `epoch`."""

    key: str
    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event to be sent; `envelope` is the serialized Event, sent as it is."""

    id: int
    key: str
    envelope: bytes


@dataclass(frozen=True, slots=True)
class Settlement:
    """The service's verdict on one event that was taken."""

    id: int
    outcome: str
    """One of OUTCOMES."""
    position: int
    history_id: str
    reason: str = ""
    field: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that the service keeps out of the history, for a person to decide about."""

    id: int
    key: str
    outcome: str
    epoch: int
    sequence: int
    reason: str
    field: str
    description: str
    envelope: bytes


@dataclass(frozen=True, slots=True)
class Summary:
    """How the outbox stands. Times are the device's own."""

    waiting: int
    waiting_bytes: int
    oldest_waiting_at: datetime | None
    held: int
    """How many of the waiting are held back because they made a call fail."""
    held_error: str
    """What the last of those calls failed with."""
    settled: int
    dead_letters: int
    epoch: int
    last_sequence: int
    last_settled_at: datetime | None
    money_waiting: dict[str, int]
    """Currency to minor units."""


@dataclass(frozen=True, slots=True)
class ReplicaSummary:
    """How the copy stands. Times are milliseconds since 1970, by the device's own clock."""

    records: dict[str, int]
    """By collection."""
    version: int
    checkpoint_at_ms: int | None
    loading: bool
    edits_waiting: int
    edits_shown: int
    edits_lost: int
    """Lost to another change, and kept here still."""
    edits_parked: int
    """Put aside at head office for an operator, who may have decided since, and kept here still."""
    edits_rejected: int
    loads: int
    heals: int
    set_aside: list[str]
    """Files of the replica that were unusable."""
