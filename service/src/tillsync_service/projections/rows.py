"""What events become: the rows of the tables, column by column. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
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


class Sums:
    """What documents add to stock and to days. Added up here and not in Postgres, because this is
    done while it writes."""

    def __init__(self) -> None:
        self._stock: defaultdict[UUID, defaultdict[str, int | Decimal]] = defaultdict(
            lambda: defaultdict(int)
        )
        self._days: dict[tuple[UUID, str, str], list[int]] = {}

    def move(self, store_id: UUID, product_id: str, change: int | str) -> None:
        """Stock came or went."""
        number = change if isinstance(change, int) else Decimal(change)
        self._stock[store_id][product_id] += number

    def sell(self, store_id: UUID, products: Sequence[str], sold: Sequence[int | str]) -> None:
        """Stock went over the counter."""
        of_store = self._stock[store_id]
        for product_id, quantity in zip(products, sold, strict=True):
            if isinstance(quantity, int):
                of_store[product_id] -= quantity
            else:
                of_store[product_id] -= Decimal(quantity)

    def count(self, event: Recorded, currency: str, kind: str, minor: int) -> None:
        """A document, and its money."""
        day = self._days.setdefault((event.store_id, event.business_day, currency), [0] * 6)
        for column, amount in zip(_DAY_COLUMNS[kind], (minor, 1), strict=False):
            day[column] += amount

    def columns(self) -> list[Any]:
        """What `add` takes."""
        stores: list[UUID] = []
        products: list[str] = []
        changes: list[int | Decimal] = []
        for store_id, of_store in self._stock.items():
            of_store.pop("", None)  # sold without being in the catalogue
            stores += [store_id] * len(of_store)
            products += of_store
            changes += of_store.values()
        days = list(zip(*self._days, strict=True)) or [(), (), ()]
        sums = list(zip(*self._days.values(), strict=True)) or [()] * 6
        return [
            _array(stores),
            products,
            _array(changes),
            _array(days[0]),
            _array(days[1]),
            days[2],
            *map(_array, sums),
        ]


# Of each kind of document: where its money goes, and where it is counted.
_DAY_COLUMNS = {"sale": (1, 0), "return": (3, 2), "cash": (4,), "count": (5,)}


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

    def add_to(self, sums: Sums) -> None:
        """Adds what the documents come to."""
        start = 0
        for event, facts, lines in zip(self.sales, self.sale_facts, self.line_counts, strict=True):
            end = start + lines
            sums.sell(event.store_id, self.products[start:end], self.quantities[start:end])
            sums.count(event, facts[1], facts[0], facts[2])
            start = end
        for event, moved in zip(self.movements, self.movement_facts, strict=True):
            _, kind, _, product_id, quantity, currency, minor, *_ = moved
            if kind == "stock":
                sums.move(event.store_id, product_id, quantity)
            elif currency:
                sums.count(event, currency, kind, minor)

    def document_columns(self) -> list[Any]:
        """What `write` takes."""
        return [*self._sale_columns(), *self._line_columns(), *self._tender_columns()]

    def movement_columns(self) -> list[Any]:
        """What `write_movements` takes."""
        return _columns(self.movements, self.movement_facts, 9, numbers=(0, 4, 6))

    def _sale_columns(self) -> list[Any]:
        return _columns(self.sales, self.sale_facts, 10, numbers=(2, 3, 4))

    def _line_columns(self) -> list[Any]:
        return [
            *_places(self.sales, self.line_counts),
            self.products,
            _numbers(self.quantities),
            self.units,
            _numbers(self.prices),
            _numbers(self.discounts),
            _numbers(self.line_totals),
        ]

    def _tender_columns(self) -> list[Any]:
        return [
            *_places(self.sales, self.tender_counts),
            self.tender_kinds,
            _numbers(self.tender_amounts),
            self.tender_references,
        ]


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
        *(_numbers([*column]) if index in numbers else column for index, column in enumerate(own)),
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


def _numbers(items: list[Any]) -> str:
    """The same of whole numbers, by a list's own text, which is faster still; not of texts."""
    text = repr(items)
    return _array(items) if "'" in text else "{" + text[1:-1] + "}"
