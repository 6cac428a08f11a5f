"""A batch of examined events, column by column. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

from tillsync.v1.event_pb2 import Event
from tillsync_service.foundation.identity import Device

# ISO 4217's code for "no currency": where an event without amounts is counted.
NO_CURRENCY = "XXX"


class Refusal(NamedTuple):
    """Why an event is not part of the history: see Refusal in event.proto."""

    reason: str
    field: str
    description: str


@dataclass(slots=True)
class DayTotal:
    """What events add to a row of the books; digest_sum still to be taken modulo 2^128."""

    event_count: int = 0
    amount_minor: int = 0
    digest_sum: int = 0

    def add(self, other: "DayTotal") -> None:
        self.event_count += other.event_count
        self.amount_minor += other.amount_minor
        self.digest_sum += other.digest_sum


Totals = dict[tuple[str, str], DayTotal]  # by business day and currency


@dataclass(frozen=True, slots=True)
class Batch:
    """What one device sent in one call, examined: a column for each thing to know of the events,
    an entry for each event, in their order. Columns and not rows, and text where a column is only
    written, because a dozen Python objects for each event would cost more than everything else
    that is done with it.

    `days` are ISO dates or UNDECLARED_DAY; `flags` are sets of bits. A refused event keeps its
    place, its number if that can be stored (else 0), and its refusal; its other entries are as
    they came.
    """

    device: Device
    events: Sequence[Event]  # the call's, of which this batch has those at `places`
    places: list[int]
    refusals: list[Refusal | None]
    keys: list[str]
    digests: list[bytes]
    epochs: list[int]
    sequences: list[int]
    days: list[str]
    flags: list[int]
    types: list[str]
    bodies: list[bytes]
    # Items of a Postgres array, between commas. The time is NULL where none can be stored.
    seconds: str
    nanos: str
    offsets_ms: str
    traceparents: str
    # Items of a JSON array: for each event an object of currency and minor units.
    amounts: str
    totals: Totals  # of all events, refused ones too: `only` gives those of a selection

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, start: int, stop: int) -> "Batch":
        """The events from `start` up to `stop`."""
        return self.only(range(start, stop))

    def only(self, indices: Sequence[int]) -> "Batch":
        """The events at these places of this batch, ascending."""
        if len(indices) == len(self):
            return self
        columns: dict[str, Any] = {
            name: [getattr(self, name)[index] for index in indices] for name in _LISTS
        }
        for name in _TEXTS:
            items = getattr(self, name).split(",")
            columns[name] = ",".join([items[index] for index in indices])
        every = json.loads(f"[{self.amounts}]")
        amounts = [every[index] for index in indices]
        totals = totals_of(columns["days"], amounts, columns["digests"])
        return replace(self, **columns, amounts=json_items(amounts), totals=totals)

    @staticmethod
    def joined(parts: Sequence["Batch"]) -> "Batch":
        """The events of all parts, which are at least one and of one call."""
        if len(parts) == 1:
            return parts[0]
        lists: dict[str, Any] = {
            name: list(chain.from_iterable([getattr(part, name) for part in parts]))
            for name in _LISTS
        }
        texts: dict[str, Any] = {
            name: ",".join([getattr(part, name) for part in parts]) for name in (*_TEXTS, "amounts")
        }
        totals: Totals = {}
        for part in parts:
            add_totals(totals, part.totals)
        return replace(parts[0], **lists, **texts, totals=totals)


_LISTS = (
    "places",
    "refusals",
    "keys",
    "digests",
    "epochs",
    "sequences",
    "days",
    "flags",
    "types",
    "bodies",
)
_TEXTS = ("seconds", "nanos", "offsets_ms", "traceparents")


def add_totals(to: Totals, totals: Totals) -> None:
    """Adds `totals` up in `to`."""
    for day, total in totals.items():
        to.setdefault(day, DayTotal()).add(total)


def totals_of(
    days: Sequence[str], amounts: Sequence[dict[str, int]], digests: Sequence[bytes]
) -> Totals:
    """What events of these days, amounts and digests add to the books."""
    currency = _only_currency(amounts)
    if currency is not None and _is_one(days):  # as most batches are; several times as fast
        amount_minor = sum([of_event[currency] for of_event in amounts])
        digest_sum = sum(map(int.from_bytes, digests))
        return {(days[0], currency): DayTotal(len(days), amount_minor, digest_sum)}
    totals: Totals = {}
    for business_day, of_event, digest_ in zip(days, amounts, digests, strict=True):
        for name, minor_units in (of_event or {NO_CURRENCY: 0}).items():
            one = DayTotal(1, minor_units, int.from_bytes(digest_))
            totals.setdefault((business_day, name), DayTotal()).add(one)
    return totals


def json_items(amounts: Sequence[dict[str, int]]) -> str:
    """The items of a JSON array."""
    currency = _only_currency(amounts)
    if currency is None:
        return json.dumps(amounts, separators=(",", ":"))[1:-1]
    opening = f"{{{json.dumps(currency)}:"
    minor_units = [str(of_event[currency]) for of_event in amounts]
    return opening + f"}},{opening}".join(minor_units) + "}"


def _only_currency(amounts: Sequence[dict[str, int]]) -> str | None:
    """The currency, where each event has one amount and all of them the same currency."""
    currencies = set().union(*amounts)
    if len(currencies) == 1 and all(amounts):
        (currency,) = currencies
        return currency
    return None


def _is_one(values: Sequence[object]) -> bool:
    """Whether all are the same one."""
    return values.count(values[0]) == len(values)


def array_items(numbers: Sequence[int | None]) -> str:
    """The items of a Postgres array: a list's own text, but for its word for nothing."""
    if _is_one(numbers):  # as epochs and clock offsets are
        items = (f"{numbers[0]}," * len(numbers))[:-1]
    else:
        items = repr([*numbers])[1:-1].replace(" ", "")
    return items.replace("None", "NULL")
