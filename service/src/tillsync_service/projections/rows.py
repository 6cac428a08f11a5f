"""What events become: the rows of the tables, column by column. Pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from tillsync_service.projections.reasons import Why


class Recorded(NamedTuple):
    """An event of the history. `business_day`: a date, or -infinity."""

    position: int
    key: str
    store_id: UUID
    device_id: UUID
    business_day: str
    occurred_at: datetime | None
    type_url: str
    body: bytes


class Dead(NamedTuple):
    """An event that cannot be projected, and why."""

    event: Recorded
    why: Why


class Rows:
    """Columns and not rows, and numbers as text in the end, because a sale has a dozen lines: a
    Python object for each value of each would cost more than everything else."""

    def __init__(self) -> None:
        self.skipped: list[int] = []  # positions
        self.dead: list[Dead] = []
        self.voids: list[tuple[Recorded, str]] = []  # with the key that they void
        self.sales: list[Recorded] = []
        self.sale_facts: list[tuple[str, str, int, int, int, str, str, str, str, str]] = []
        self.line_counts: list[int] = []
        self.products: list[str] = []
        self.quantities: list[int | str] = []
        self.units: list[str] = []
        self.prices: list[int] = []
        self.discounts: list[int] = []
        self.line_totals: list[int] = []
        self.tender_counts: list[int] = []
        self.tender_kinds: list[str] = []
        self.tender_amounts: list[int] = []
        self.tender_references: list[str] = []
        self.movements: list[Recorded] = []
        self.movement_facts: list[tuple[int, str, str, str, str, str, int, str, str]] = []

    def documents(self) -> list[int]:
        """The positions of the documents that count: ascending, each once."""
        moved = dict.fromkeys(event.position for event in self.movements)
        return sorted([*(event.position for event in self.sales), *moved])

    def sale_columns(self) -> list[Any]:
        """What `write` takes for sales."""
        return _columns(self.sales, self.sale_facts, 10, numbers=(2, 3, 4))

    def line_columns(self) -> list[Any]:
        """What `write` takes for the sales' lines."""
        return [
            *_places(self.sales, self.line_counts),
            self.products,
            _array(self.quantities),
            self.units,
            _array(self.prices),
            _array(self.discounts),
            _array(self.line_totals),
        ]

    def tender_columns(self) -> list[Any]:
        """What `write` takes for the sales' tenders."""
        return [
            *_places(self.sales, self.tender_counts),
            self.tender_kinds,
            _array(self.tender_amounts),
            self.tender_references,
        ]

    def movement_columns(self) -> list[Any]:
        """What `write` takes for movements."""
        return _columns(self.movements, self.movement_facts, 9, numbers=(0, 4, 6))


def _columns(
    events: Sequence[Recorded],
    facts: Sequence[tuple[Any, ...]],
    width: int,
    *,
    numbers: tuple[int, ...],
) -> list[Any]:
    """The envelopes' columns and the `width` of the facts, of which those at `numbers` become
    text."""
    envelopes = list(zip(*events, strict=True)) or [()] * len(Recorded._fields)
    positions, keys, stores, devices, days, times = envelopes[:6]
    own = list(zip(*facts, strict=True)) or [()] * width
    return [
        _array(positions),
        keys,
        _array(stores),
        _array(devices),
        _array(days),
        times,
        *(_array(column) if index in numbers else column for index, column in enumerate(own)),
    ]


def _places(events: Sequence[Recorded], counts: Sequence[int]) -> tuple[str, str]:
    """For each line of each event the event's position, and the line's number in it."""
    positions = ",".join(
        [f"{event.position}," * (count - 1) + f"{event.position}"
         for event, count in zip(events, counts, strict=True) if count]
    )  # fmt: skip
    numbers = ",".join([_counting(count) for count in counts if count])
    return "{" + positions + "}", "{" + numbers + "}"


_COUNTINGS = [",".join(map(str, range(1, count + 1))) for count in range(50)]


def _counting(count: int) -> str:
    if count < len(_COUNTINGS):
        return _COUNTINGS[count]
    return ",".join(map(str, range(1, count + 1)))


def _array(items: Iterable[object]) -> str:
    """Numbers, ids and dates, which need no quoting, as one array literal: asyncpg takes several
    times as long to encode an array of them, item by item, as Postgres to parse it."""
    return "{" + ",".join(map(str, items)) + "}"
