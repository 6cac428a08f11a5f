"""The load test: the same sales many times and many at once; does each of them count once?"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from random import Random
from time import monotonic
from uuid import uuid4

from tillsync.v1.event_pb2 import Event, Outcome
from tillsync_service.operator.client import OperatorError
from tillsync_service.operator.smoke import outcome_name
from tillsync_service.operator.trial import Trial, a_sale

ALL_RIGHT, MISCOUNTED, SOMETHING_ELSE = 0, 1, 2


def shuffled_plan(total: int, unique: int, chance: Random) -> list[int]:
    """Which of the `unique` sales each of the `total` calls sends: every one at least once, the
    rest repeats of any, in an order of chance. 1 <= unique <= total."""
    plan = [*range(unique), *chance.choices(range(unique), k=total - unique)]
    chance.shuffle(plan)
    return plan


def sales(count: int) -> list[Event]:
    """The sales that a plan speaks of."""
    run = uuid4()
    return [a_sale(f"{run}-{n}", n, receipt=str(n)) for n in range(1, count + 1)]


@dataclass(slots=True)
class Tally:
    """What became of the calls. `answered_ms` holds the times of those that got a verdict."""

    total: int
    unique: int
    accepted: int = 0
    duplicates: int = 0
    others: Counter[str] = field(default_factory=Counter)
    answered_ms: list[float] = field(default_factory=list)

    @property
    def other(self) -> int:
        return self.others.total()

    @property
    def is_complete(self) -> bool:
        return self.accepted + self.duplicates + self.other == self.total

    @property
    def exit_status(self) -> int:
        """2 if anything but ACCEPTED and DUPLICATE came, 1 if some sale did not count once."""
        if self.other:
            return SOMETHING_ELSE
        return ALL_RIGHT if self.accepted == self.unique else MISCOUNTED

    def as_dict(self) -> dict[str, float | None]:
        """For the last line: times are None when nothing was answered."""
        return {
            "total": self.total,
            "unique": self.unique,
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "other": self.other,
            "p50_ms": percentile(self.answered_ms, 0.50),
            "p95_ms": percentile(self.answered_ms, 0.95),
        }

    def troubles(self) -> Iterator[str]:
        """What a person should know, the most frequent first."""
        for line, count in self.others.most_common(_SHOWN_TROUBLES):
            yield f"{count} x {line}"
        if len(self.others) > _SHOWN_TROUBLES:
            yield f"and {len(self.others) - _SHOWN_TROUBLES} other kinds of failure"
        if not self.other and self.accepted != self.unique:
            yield (
                f"{self.unique} different sales were sent and {self.accepted} were ACCEPTED: "
                "some did not count exactly once"
            )


_SHOWN_TROUBLES = 3


async def send(
    trial: Trial,
    plan: Sequence[Event],
    tally: Tally,
    *,
    concurrency: int,
    timeout_seconds: float,
    progress: Callable[[], None],
) -> None:
    """Sends the plan, one event a call, none of them twice, `concurrency` calls at a time."""
    waiting = iter(plan)

    async def sender() -> None:
        for event in waiting:
            await _send_one(trial, event, tally, timeout_seconds)
            progress()

    async with asyncio.TaskGroup() as senders:
        for _ in range(min(concurrency, len(plan))):
            senders.create_task(sender())


async def _send_one(trial: Trial, event: Event, tally: Tally, timeout_seconds: float) -> None:
    began = monotonic()
    try:
        verdict = await trial.ingest(event, timeout_seconds=timeout_seconds)
    except OperatorError as error:
        tally.others[str(error)] += 1
        return
    tally.answered_ms.append((monotonic() - began) * 1000)
    if verdict.outcome == Outcome.OUTCOME_ACCEPTED:
        tally.accepted += 1
    elif verdict.outcome == Outcome.OUTCOME_DUPLICATE:
        tally.duplicates += 1
    else:
        tally.others[f"{outcome_name(verdict)} {verdict.refusal.description}".strip()] += 1


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of them do not exceed (nearest rank), to 0.01."""
    if not values:
        return None
    return round(sorted(values)[ceil(share * len(values)) - 1], 2)
