"""What a reconciliation came to, as it is noted in the outbox, and how another process asks the
running agent for one. Pure.

A command asks through the outbox and not through a connection of its own: one process shows and
rotates the refresh secret, and one decides what is given back. It writes a Request under
REQUEST_NOTE; the agent does it, writes an Answer with the same id under ANSWER_NOTE, and empties
REQUEST_NOTE. Whoever finds it empty without having been answered asks again: then another command
came in between, or another agent.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

NOTE_NAME = "reconciliation"
REQUEST_NOTE = "reconcile_request"
ANSWER_NOTE = "reconcile_answer"
# So many refused events, spans and days are named; of the rest there is the count.
MOST_NAMED = 20

Sums = dict[str, tuple[int, int]]
"""Currency to (events, minor units)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A business day that is not the same here and at head office, and why."""

    business_day: str
    here: Sums
    there: Sums
    why: list[str]


@dataclass(frozen=True, slots=True)
class Refused:
    """An event that head office keeps out of its history; a person decides about it."""

    business_day: str
    epoch: int
    sequence: int
    outcome: str
    reason: str
    field: str


@dataclass(frozen=True, slots=True)
class Gone:
    """Numbers that head office never saw and that are not kept here any more."""

    epoch: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What the last comparison with head office came to."""

    at: str = ""
    """When it was finished, in ISO 8601 by the device's clock; empty: never."""
    history_id: str = ""
    days_equal: int = 0
    days_differing: int = 0
    differing: list[Difference] = field(default_factory=list)
    offered_again: int = 0
    refused: list[Refused] = field(default_factory=list)
    refused_count: int = 0
    gone: list[Gone] = field(default_factory=list)
    gone_count: int = 0
    """How many numbers, not spans."""
    waived_count: int = 0
    """How many numbers are gone that an operator of head office waived: nobody waits for them."""
    days_waived: list[str] = field(default_factory=list)
    """The days that differ and were waived; they are none of the differing ones."""
    comes_to: Sums = field(default_factory=dict)
    """Of the one day that was asked for: what was recorded here."""
    revision: int = 0
    """Of that day: how often it was closed."""
    closed: bool = False
    round_trips: int = 0
    unfinished: bool = False
    """More was given back than can be compared at once: it goes on in a minute."""
    error: str = ""
    """Why nothing could be compared since `at`."""

    @property
    def is_equal(self) -> bool:
        """Whether head office holds all that this device recorded and knows of."""
        return not (self.error or self.unfinished or self.days_differing or self.gone_count)

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> "Reconciliation":
        """The note in `text`; one that cannot be read is none: `status` must work."""
        return _parsed(text, _reconciliation) or cls()


@dataclass(frozen=True, slots=True)
class Request:
    """What a command asks of the agent."""

    id: str
    business_day: str | None = None
    """None: all of them."""
    close: bool = False

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> "Request | None":
        return _parsed(text, lambda held: cls(**held))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of the Request with this id."""

    id: str
    result: Reconciliation

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> "Answer | None":
        return _parsed(text, lambda held: cls(held["id"], _reconciliation(held["result"])))


def _parsed(text: str, build: Callable[[Any], T]) -> T | None:
    try:
        return build(json.loads(text)) if text else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _reconciliation(held: Mapping[str, Any]) -> Reconciliation:
    values = dict(held)
    values["differing"] = [
        Difference(day["business_day"], _sums(day["here"]), _sums(day["there"]), day["why"])
        for day in held.get("differing", ())
    ]
    values["refused"] = [Refused(**refused) for refused in held.get("refused", ())]
    values["comes_to"] = _sums(held.get("comes_to", {}))
    values["gone"] = [Gone(**gone) for gone in held.get("gone", ())]
    return Reconciliation(**values)


def _sums(held: Mapping[str, Any]) -> Sums:
    return {currency: (count, minor_units) for currency, (count, minor_units) in held.items()}
