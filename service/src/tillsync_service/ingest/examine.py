"""Reads one event of a batch: is it storable, and what will be stored? Pure.

What can be stored is stored: a business rule never refuses a sale, and neither does a clock. Only
what Postgres or the limits cannot hold becomes a Refusal.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync.v1.event_pb2 import Event, EventFlag
from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import reason_name
from tillsync_service.foundation.identity import Device

# Postgres' '-infinity', as asyncpg spells it: the business day of an event that declares none.
UNDECLARED_DAY = date.min
# ISO 4217's code for "no currency": where an event without amounts is counted.
NO_CURRENCY = "XXX"

DIGEST_BYTES = 16

NOT_STORABLE = reason_name(ErrorReason.ERROR_REASON_EVENT_NOT_STORABLE)
TOO_LARGE = reason_name(ErrorReason.ERROR_REASON_EVENT_TOO_LARGE)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The years 1 to 9999 without their first and last second: asyncpg would store those as infinity,
# and programs send them for "no time" anyway.
_FIRST_SECOND = -62_135_596_799
_LAST_SECOND = 253_402_300_798
_INT64_MAX = 2**63 - 1

_CLOCK_ABSENT = 1 << EventFlag.EVENT_FLAG_CLOCK_ABSENT
_CLOCK_IMPLAUSIBLE = 1 << EventFlag.EVENT_FLAG_CLOCK_IMPLAUSIBLE
_CLOCK_UNREADABLE = 1 << EventFlag.EVENT_FLAG_CLOCK_UNREADABLE
_SUSPECT = 1 << EventFlag.EVENT_FLAG_SUSPECT
_DAY_UNDECLARED = 1 << EventFlag.EVENT_FLAG_DAY_UNDECLARED
FORKED = 1 << EventFlag.EVENT_FLAG_FORKED


class Candidate(NamedTuple):
    """A storable event. `amounts` maps currency to minor units; flags is a set of bits."""

    key: str
    digest: bytes
    store_id: UUID
    device_id: UUID
    outbox_epoch: int
    device_sequence: int
    occurred_at: datetime | None
    business_day: date
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
    return sha256(b"%b\0%b" % (type_url.encode(), body)).digest()[:DIGEST_BYTES]


def examine(events: Iterable[Event], device: Device, now: datetime) -> list[Candidate | Refusal]:
    """Each event as it will be stored, or why it cannot be. `now` is the service's clock."""
    now_seconds = int(now.timestamp())
    plausible = range(
        now_seconds - limits.CLOCK_PLAUSIBLE_SECONDS, now_seconds + limits.CLOCK_PLAUSIBLE_SECONDS
    )
    return [_examine(event, device, plausible) for event in events]


def _examine(event: Event, device: Device, plausible: range) -> Candidate | Refusal:
    try:
        return _candidate(event, device, plausible)
    except _NotStorable as error:
        # A number that cannot be stored either is no number to explain a hole with.
        numbered = _is_numbered(event.device_sequence, event.outbox_epoch)
        return Refusal(
            device.device_id,
            event.outbox_epoch if numbered else 0,
            event.device_sequence if numbered else 0,
            error.reason,
            error.field,
            error.description,
        )


class _NotStorable(Exception):
    def __init__(self, field: str, description: str, reason: str = NOT_STORABLE) -> None:
        super().__init__(field)
        self.field = field
        self.description = description
        self.reason = reason


def _candidate(event: Event, device: Device, plausible: range) -> Candidate:
    key = event.key
    if not 0 < len(key) <= limits.MAX_KEY_CHARACTERS or "\0" in key:
        raise _NotStorable("key", "A key has 1 to 200 characters and no NUL.")
    packed = event.body
    type_url, body = packed.type_url, packed.value
    if not 0 < len(type_url) <= limits.MAX_TYPE_URL_CHARACTERS or "\0" in type_url:
        raise _NotStorable("body.type_url", "A type has 1 to 200 characters and no NUL.")
    if len(body) > limits.MAX_BODY_BYTES:
        raise _NotStorable("body.value", "A body has at most 1 MiB.", TOO_LARGE)
    sequence, epoch = event.device_sequence, event.outbox_epoch
    if (sequence or epoch) and not _is_numbered(sequence, epoch):
        raise _NotStorable(
            "device_sequence",
            "outbox_epoch and device_sequence are both positive (below 2^63 - 1), or both 0.",
        )
    occurred_at, flags = _occurred_at(event, plausible)
    business_day = _business_day(event.business_day)
    if business_day is UNDECLARED_DAY:
        flags |= _DAY_UNDECLARED
    if device.suspect:
        flags |= _SUSPECT
    return Candidate(
        key,
        digest(type_url, body),
        device.store_id,
        device.device_id,
        epoch,
        sequence,
        occurred_at,
        business_day,
        event.clock_offset_ms if event.HasField("clock_offset_ms") else None,
        flags,
        type_url,
        body,
        _amounts(event),
        _traceparent(event.traceparent),
        event,
    )


def _is_numbered(sequence: int, epoch: int) -> bool:
    # The largest number is left out because a range that ends after it could not be written.
    return 0 < sequence < _INT64_MAX and epoch > 0


def _occurred_at(event: Event, plausible: range) -> tuple[datetime | None, int]:
    if not event.HasField("occurred_at"):
        return None, _CLOCK_ABSENT
    timestamp = event.occurred_at
    seconds, nanos = timestamp.seconds, timestamp.nanos
    if not _FIRST_SECOND <= seconds <= _LAST_SECOND or not 0 <= nanos < 10**9:
        return None, _CLOCK_UNREADABLE
    occurred_at = _EPOCH + timedelta(0, seconds, nanos // 1000)
    return occurred_at, 0 if seconds in plausible else _CLOCK_IMPLAUSIBLE


@lru_cache(maxsize=1024)
def _business_day(text: str) -> date:
    if not text:
        return UNDECLARED_DAY
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = UNDECLARED_DAY
    if day == UNDECLARED_DAY or day.isoformat() != text:
        raise _NotStorable(
            "business_day", 'A business day is a date such as "2026-11-22", or empty.'
        )
    return day


def _amounts(event: Event) -> dict[str, int]:
    amounts: dict[str, int] = {}
    entries = event.amounts[:]  # a list: iterating the field itself ends in a costly exception
    if len(entries) > limits.MAX_AMOUNTS:
        raise _NotStorable("amounts", "An event has at most 16 amounts.")
    for amount in entries:
        currency = amount.currency
        if not 0 < len(currency) <= limits.MAX_CURRENCY_CHARACTERS or "\0" in currency:
            raise _NotStorable("amounts.currency", "A currency has 1 to 12 characters and no NUL.")
        amounts[currency] = amounts.get(currency, 0) + amount.minor_units
    return amounts


def _traceparent(text: str) -> str:
    # Only a help for tracing: one that cannot be right is not worth a sale.
    if len(text) > limits.MAX_TRACEPARENT_CHARACTERS or "\0" in text:
        return ""
    return text
