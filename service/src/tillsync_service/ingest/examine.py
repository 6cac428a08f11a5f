"""Reads the events of a batch: which are storable, and what will be stored? Pure.

What can be stored is stored: a business rule never refuses a sale, and neither does a clock. Only
what Postgres or the limits cannot hold becomes a Refusal.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from datetime import date, datetime
from functools import partial
from hashlib import sha256
from itertools import repeat
from typing import Any, NamedTuple
from uuid import UUID

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync.v1.event_pb2 import Amount, Event, EventFlag
from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import reason_name
from tillsync_service.foundation.identity import Device

# The business day of an event that declares none.
UNDECLARED_DAY = "-infinity"
# ISO 4217's code for "no currency": where an event without amounts is counted.
NO_CURRENCY = "XXX"

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


class Candidate(NamedTuple):
    """A storable event, in the order of the columns that are written.

    occurred_second counts from 1970 UTC, None where no time can be stored; business_day is an ISO
    date or UNDECLARED_DAY; flags is a set of bits; amounts maps currency to minor units.
    """

    key: str
    digest: bytes
    store_id: UUID
    device_id: UUID
    outbox_epoch: int
    device_sequence: int
    occurred_second: int | None
    occurred_nano: int
    business_day: str
    clock_offset_ms: int | None
    flags: int
    type_url: str
    body: bytes
    amounts: dict[str, int]
    traceparent: str
    source: Event


class Refusal(NamedTuple):
    """An event that can never be stored: the field at fault and why."""

    device_id: UUID
    outbox_epoch: int
    device_sequence: int
    reason: str
    field: str
    description: str


def digest(type_url: str, body: bytes) -> bytes:
    """What two events with one key are compared by: 16 bytes."""
    return sha256(b"\0".join((type_url.encode(), body))).digest()[:DIGEST_BYTES]


def examine(events: Sequence[Event], device: Device, now: datetime) -> list[Candidate | Refusal]:
    """Each event as it will be stored, or why it cannot be. `now` is the service's clock.

    Works column by column: a few Python calls for each field of each event would cost more than
    the rest of the service does.
    """
    keys = [event.key for event in events]
    packed = [event.body for event in events]
    types = [body.type_url for body in packed]
    bodies = [body.value for body in packed]
    epochs = [event.outbox_epoch for event in events]
    sequences = [event.device_sequence for event in events]
    days = [event.business_day for event in events]
    entries = [event.amounts[:] for event in events]

    refused = _Refused()
    refused.where("key", _is_bad_key, keys)
    refused.where("body.type_url", _is_bad_type, types)
    refused.where("body.value", _is_bad_size, list(map(len, bodies)))
    refused.where("device_sequence", _is_bad_number, list(zip(epochs, sequences, strict=True)))
    refused.where("business_day", _is_bad_day, days)
    refused.where("amounts", _is_bad_count, list(map(len, entries)))
    amounts = [_sums(amounts) for amounts in entries]
    refused.where("amounts.currency", _is_bad_currencies, list(map(tuple, amounts)))

    seconds, nanos, flags = _clocks(events, now)
    if device.suspect:
        flags = [bits | _SUSPECT for bits in flags]
    if "" in days:
        flags = [
            bits if day else bits | _DAY_UNDECLARED for bits, day in zip(flags, days, strict=True)
        ]
    rows = zip(
        keys,
        map(digest, types, bodies),
        repeat(device.store_id),
        repeat(device.device_id),
        epochs,
        sequences,
        seconds,
        nanos,
        [day or UNDECLARED_DAY for day in days],
        [event.clock_offset_ms if event.HasField("clock_offset_ms") else None for event in events],
        flags,
        types,
        bodies,
        amounts,
        [_traceparent(event.traceparent) for event in events],
        events,
    )
    examined: list[Candidate | Refusal] = list(map(_candidate, rows))
    for index, field in refused.items():
        examined[index] = _refusal(events[index], device, field)
    return examined


# Candidate(*row) without its detour through Python.
_candidate: Callable[[tuple[Any, ...]], Candidate] = partial(tuple.__new__, Candidate)


class _Refused(dict[int, str]):
    """Which events are refused, and for which field: the first one at fault."""

    def where(self, field: str, is_bad: Callable[[Any], bool], values: Sequence[Hashable]) -> None:
        """Refuses the events whose value is bad. A value that many share is looked at once."""
        if bad := set(filter(is_bad, set(values))):
            for index, value in enumerate(values):
                if value in bad:
                    self.setdefault(index, field)


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


def _refusal(event: Event, device: Device, field: str) -> Refusal:
    # A number that cannot be stored either is no number to explain a hole with.
    number = (event.outbox_epoch, event.device_sequence)
    epoch, sequence = (0, 0) if _is_bad_number(number) else number
    reason = TOO_LARGE if field == "body.value" else NOT_STORABLE
    return Refusal(device.device_id, epoch, sequence, reason, field, _WHY[field])


def _is_bad_key(key: str) -> bool:
    return not 0 < len(key) <= limits.MAX_KEY_CHARACTERS or "\0" in key


def _is_bad_type(type_url: str) -> bool:
    return not 0 < len(type_url) <= limits.MAX_TYPE_URL_CHARACTERS or "\0" in type_url


def _is_bad_size(body_bytes: int) -> bool:
    return body_bytes > limits.MAX_BODY_BYTES


def _is_bad_number(number: tuple[int, int]) -> bool:
    epoch, sequence = number
    return number != (0, 0) and not (epoch > 0 and 0 < sequence < _INT64_MAX)


def _is_bad_day(text: str) -> bool:
    try:
        return bool(text) and date.fromisoformat(text).isoformat() != text
    except ValueError:
        return True


def _is_bad_count(amounts: int) -> bool:
    return amounts > limits.MAX_AMOUNTS


def _is_bad_currencies(currencies: tuple[str, ...]) -> bool:
    return any(
        not 0 < len(currency) <= limits.MAX_CURRENCY_CHARACTERS or "\0" in currency
        for currency in currencies
    )


def _sums(entries: Sequence[Amount]) -> dict[str, int]:
    if len(entries) == 1:
        (only,) = entries
        return {only.currency: only.minor_units}
    amounts: dict[str, int] = {}
    for amount in entries:
        amounts[amount.currency] = amounts.get(amount.currency, 0) + amount.minor_units
    return amounts


def _clocks(
    events: Sequence[Event], now: datetime
) -> tuple[list[int | None], list[int], list[int]]:
    """For each event its second since 1970 or None, its nanoseconds, and what is odd about them."""
    times = [event.occurred_at for event in events]
    seconds: list[int | None] = [time.seconds for time in times]
    nanos = [time.nanos for time in times]
    flags = [0] * len(times)
    now_second = int(now.timestamp())
    plausible = range(
        now_second - limits.CLOCK_PLAUSIBLE_SECONDS, now_second + limits.CLOCK_PLAUSIBLE_SECONDS
    )
    for index, (second, nano) in enumerate(zip(seconds, nanos, strict=True)):
        if second in plausible and 0 <= nano < _NANOS:
            continue
        if not events[index].HasField("occurred_at"):
            seconds[index], nanos[index], flags[index] = None, 0, _CLOCK_ABSENT
        elif second in _READABLE and 0 <= nano < _NANOS:
            flags[index] = _CLOCK_IMPLAUSIBLE
        else:
            seconds[index], nanos[index], flags[index] = None, 0, _CLOCK_UNREADABLE
    return seconds, nanos, flags


def _traceparent(text: str) -> str:
    # Only a help for tracing: one that cannot be right is not worth a sale.
    if (
        not text
        or len(text) > limits.MAX_TRACEPARENT_CHARACTERS
        or not _TRACEPARENT.fullmatch(text)
    ):
        return ""
    return text
