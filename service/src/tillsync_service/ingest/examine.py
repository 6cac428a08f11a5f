"""Reads the events of a batch: which are storable, and what will be stored? Pure.

What can be stored is stored: a business rule never refuses a sale, and neither does a clock. Only
what Postgres or the limits cannot hold becomes a Refusal.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Hashable, Sequence
from datetime import date, datetime
from functools import lru_cache
from typing import Any, TypeVar

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync.v1.event_pb2 import Amount, Event, EventFlag
from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import reason_name
from tillsync_service.foundation.identity import Device
from tillsync_service.ingest.batch import Batch, Refusal, array_items, json_items, totals_of

T = TypeVar("T")

# The business day of an event that declares none.
UNDECLARED_DAY = "-infinity"

DIGEST_BYTES = 16

NOT_STORABLE = reason_name(ErrorReason.ERROR_REASON_EVENT_NOT_STORABLE)
TOO_LARGE = reason_name(ErrorReason.ERROR_REASON_EVENT_TOO_LARGE)

# The years 1 to 9999 without their first and last second: asyncpg reads those back as infinity,
# and programs send them for "no time" anyway.
_READABLE = range(-62_135_596_799, 253_402_300_799)
_NANOS = 10**9
# No sequence itself: a range that ends after it could not be written.
_INT64_MAX = 2**63 - 1

_TRACEPARENT = re.compile(r"[0-9a-f]{2}(-[0-9a-f]+){3}")

_CLOCK_ABSENT = 1 << EventFlag.EVENT_FLAG_CLOCK_ABSENT
_CLOCK_IMPLAUSIBLE = 1 << EventFlag.EVENT_FLAG_CLOCK_IMPLAUSIBLE
_CLOCK_UNREADABLE = 1 << EventFlag.EVENT_FLAG_CLOCK_UNREADABLE
_SUSPECT = 1 << EventFlag.EVENT_FLAG_SUSPECT
_DAY_UNDECLARED = 1 << EventFlag.EVENT_FLAG_DAY_UNDECLARED
FORKED = 1 << EventFlag.EVENT_FLAG_FORKED


def digest(type_url: str, body: bytes) -> bytes:
    """What two events with one key are compared by: 16 bytes."""
    if len(type_url) > limits.MAX_TYPE_URL_CHARACTERS:
        return bytes(DIGEST_BYTES)  # refused, and too long to be remembered
    hasher = _begun_with(type_url).copy()
    hasher.update(body)
    return hasher.digest()[:DIGEST_BYTES]


@lru_cache(maxsize=256)
def _begun_with(type_url: str) -> "hashlib._Hash":
    return hashlib.sha256(type_url.encode() + b"\0")


def examine(
    events: Sequence[Event], device: Device, now: datetime, places: range | None = None
) -> Batch:
    """The events at `places` (all of them, without) as they will be stored, and why some cannot
    be. `now` is the service's clock."""
    places = range(len(events)) if places is None else places
    chosen = events[places.start : places.stop]
    keys = [event.key for event in chosen]
    packed = [event.body for event in chosen]
    types = _shared([body.type_url for body in packed])
    bodies = [body.value for body in packed]
    epochs = _shared([event.outbox_epoch for event in chosen])
    sequences = [event.device_sequence for event in chosen]
    days = _shared([event.business_day for event in chosen])
    entries = [event.amounts for event in chosen]
    amounts = list(map(_sums, entries))
    digests = list(map(digest, types, bodies))
    refusals = _refusals(
        keys=keys,
        types=types,
        bodies=bodies,
        epochs=epochs,
        sequences=sequences,
        days=days,
        entries=entries,
        amounts=amounts,
    )
    seconds, nanos, flags = _clocks(chosen, now)
    if device.suspect:
        flags = [bits | _SUSPECT for bits in flags]
    if "" in days:
        flags = [
            bits if day else bits | _DAY_UNDECLARED for bits, day in zip(flags, days, strict=True)
        ]
        days = [day or UNDECLARED_DAY for day in days]
    offsets_ms = [
        event.clock_offset_ms if event.HasField("clock_offset_ms") else None for event in chosen
    ]
    return Batch(
        device,
        events,
        list(places),
        refusals,
        keys,
        digests,
        epochs,
        sequences,
        days,
        flags,
        types,
        bodies,
        array_items(seconds),
        array_items(nanos),
        array_items(offsets_ms),
        _traceparents([event.traceparent for event in chosen]),
        json_items(amounts),
        totals_of(days, amounts, digests),
    )


def _shared(values: list[T]) -> list[T]:
    """The same values, equal ones as one object: protobuf makes a new one at each look."""
    one_of = {value: value for value in values}
    if len(one_of) == 1:
        return values[:1] * len(values)
    return [one_of[value] for value in values]


def _refusals(
    *,
    keys: Sequence[str],
    types: Sequence[str],
    bodies: Sequence[bytes],
    epochs: list[int],
    sequences: list[int],
    days: Sequence[str],
    entries: Sequence[Sequence[Amount]],
    amounts: Sequence[dict[str, int]],
) -> list[Refusal | None]:
    """Why each event cannot be stored, if so. A number that cannot be stored either is no number
    to explain a hole with, and is set to 0."""
    refused = _Refused()
    # Where each event has a value of its own, the column is looked at as a whole first.
    if not _are_texts(keys, limits.MAX_KEY_CHARACTERS):
        refused.where("key", _is_bad_text(limits.MAX_KEY_CHARACTERS), keys)
    refused.where("body.type_url", _is_bad_text(limits.MAX_TYPE_URL_CHARACTERS), types)
    if max(map(len, bodies)) > limits.MAX_BODY_BYTES:
        refused.where("body.value", lambda body: len(body) > limits.MAX_BODY_BYTES, bodies)
    if min(epochs) <= 0 or min(sequences) <= 0 or max(sequences) >= _INT64_MAX:
        numbers = list(zip(epochs, sequences, strict=True))
        for index in refused.where("device_sequence", _is_bad_number, numbers):
            epochs[index] = sequences[index] = 0
    refused.where("business_day", _is_bad_day, days)
    if max(map(len, entries)) > limits.MAX_AMOUNTS:
        counts = list(map(len, entries))
        refused.where("amounts", lambda count: count > limits.MAX_AMOUNTS, counts)
    if not _are_texts(set().union(*amounts), limits.MAX_CURRENCY_CHARACTERS):
        refused.where(
            "amounts.currency",
            lambda currencies: not _are_texts(currencies, limits.MAX_CURRENCY_CHARACTERS),
            list(map(tuple, amounts)),
        )
    return refused.column(len(keys))


class _Refused(dict[int, str]):
    """Which events are refused, and for which field: the first one at fault."""

    def where(
        self, field: str, is_bad: Callable[[Any], bool], values: Sequence[Hashable]
    ) -> list[int]:
        """Refuses the events whose value is bad, and returns their places. A value that many
        share is looked at once."""
        bad = set(filter(is_bad, set(values)))
        if not bad:
            return []
        places = [index for index, value in enumerate(values) if value in bad]
        for index in places:
            self.setdefault(index, field)
        return places

    def column(self, length: int) -> list[Refusal | None]:
        refusals: list[Refusal | None] = [None] * length
        for index, field in self.items():
            refusals[index] = _REFUSALS[field]
        return refusals


_WHY = {
    "key": "A key has 1 to 200 characters and no NUL.",
    "body.type_url": "A type has 1 to 200 characters and no NUL.",
    "body.value": "A body has at most 1 MiB.",
    "device_sequence": "outbox_epoch and device_sequence are both positive (below 2^63 - 1), "
    "or both 0.",
    "business_day": 'A business day is a date such as "2026-11-22", or empty.',
    "amounts": "An event has at most 16 amounts.",
    "amounts.currency": "A currency has 1 to 12 characters and no NUL.",
}


_REFUSALS = {
    field: Refusal(TOO_LARGE if field == "body.value" else NOT_STORABLE, field, why)
    for field, why in _WHY.items()
}
# For what only Postgres itself finds fault with.
UNHOLDABLE = Refusal(NOT_STORABLE, "", "The database cannot hold this event.")


def _are_texts(texts: Collection[str], max_characters: int) -> bool:
    """Whether each has 1 to `max_characters` characters, and no NUL: Postgres holds none."""
    return (
        all(texts)
        and max(map(len, texts), default=1) <= max_characters
        and ("\0" not in "".join(texts))
    )


def _is_bad_text(max_characters: int) -> Callable[[str], bool]:
    return lambda text: not _are_texts([text], max_characters)


def _is_bad_number(number: tuple[int, int]) -> bool:
    epoch, sequence = number
    return number != (0, 0) and not (epoch > 0 and 0 < sequence < _INT64_MAX)


def _is_bad_day(text: str) -> bool:
    try:
        return bool(text) and date.fromisoformat(text).isoformat() != text
    except ValueError:
        return True


def _sums(entries: Sequence[Amount]) -> dict[str, int]:
    if len(entries) == 1:
        only = entries[0]
        return {only.currency: only.minor_units}
    if len(entries) > limits.MAX_AMOUNTS:  # refused, and perhaps a million
        return {}
    amounts: dict[str, int] = {}
    for amount in entries:
        amounts[amount.currency] = amounts.get(amount.currency, 0) + amount.minor_units
    return amounts


def _clocks(
    events: Sequence[Event], now: datetime
) -> tuple[list[int | None], list[int], list[int]]:
    """For each event its second since 1970 or None, its nanoseconds, and what is odd about them."""
    times = [event.occurred_at for event in events]
    said = [time.seconds for time in times]
    nanos = [time.nanos for time in times]
    flags = [0] * len(times)
    now_second = int(now.timestamp())
    plausible = range(
        now_second - limits.CLOCK_PLAUSIBLE_SECONDS, now_second + limits.CLOCK_PLAUSIBLE_SECONDS
    )
    seconds: list[int | None] = [*said]
    is_plain = min(said) in plausible and max(said) in plausible
    if is_plain and min(nanos) >= 0 and max(nanos) < _NANOS:
        return seconds, nanos, flags
    for index, (second, nano) in enumerate(zip(said, nanos, strict=True)):
        if second in plausible and 0 <= nano < _NANOS:
            continue
        if not events[index].HasField("occurred_at"):
            seconds[index], nanos[index], flags[index] = None, 0, _CLOCK_ABSENT
        elif second in _READABLE and 0 <= nano < _NANOS:
            flags[index] = _CLOCK_IMPLAUSIBLE
        else:
            seconds[index], nanos[index], flags[index] = None, 0, _CLOCK_UNREADABLE
    return seconds, nanos, flags


def _traceparents(texts: Sequence[str]) -> str:
    # Only a help for tracing: one that cannot be right is not worth a sale.
    kept = {
        text: text
        for text in set(texts)
        if len(text) <= limits.MAX_TRACEPARENT_CHARACTERS and _TRACEPARENT.fullmatch(text)
    }
    return ",".join([kept.get(text, '""') for text in texts])
