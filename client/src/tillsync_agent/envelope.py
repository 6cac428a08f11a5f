"""The envelope around one event: what may stand in it, and the digest it is compared by. Pure."""

import hashlib
from collections.abc import Mapping
from datetime import date, datetime

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from tillsync.v1.event_pb2 import Event
from tillsync_agent.errors import EventNotRecordable

# The contract's limits (event.proto): what the service would refuse for ever is refused here,
# while the program that can correct it is still listening.
MAX_KEY_CHARS = 200
MAX_TYPE_URL_CHARS = 200
MAX_BODY_BYTES = 1_048_576
MAX_AMOUNTS = 16
MAX_CURRENCY_CHARS = 12
MAX_TRACEPARENT_CHARS = 55
_INT64 = range(-(2**63), 2**63)

Body = Message | tuple[str, bytes]
"""A typed message, a google.protobuf.Any, or (type_url, bytes)."""


def build(
    *,
    key: str,
    body: Body,
    occurred_at: datetime,
    business_day: date | str | None = None,
    amounts: Mapping[str, int] | None = None,
    traceparent: str = "",
) -> Event:
    """An event that the service can store; the outbox numbers it.

    Raises EventNotRecordable, which names the field.
    """
    event = Event(key=_text("key", key, MAX_KEY_CHARS), traceparent=_traceparent(traceparent))
    event.body.CopyFrom(_any(body))
    if occurred_at.tzinfo is None:
        raise EventNotRecordable("occurred_at", "has no time zone; pass an aware datetime")
    event.occurred_at.FromDatetime(occurred_at)
    if isinstance(business_day, datetime):
        raise EventNotRecordable("business_day", "is a day and not a moment; pass its date()")
    event.business_day = str(business_day) if business_day is not None else ""
    for currency, minor_units in (amounts or {}).items():
        if isinstance(minor_units, bool) or not isinstance(minor_units, int):
            raise EventNotRecordable("amounts", f"{minor_units!r} is no whole number")
        if minor_units not in _INT64:
            raise EventNotRecordable("amounts", f"{minor_units} does not fit into 64 bits")
        _text("amounts", currency, MAX_CURRENCY_CHARS)
        event.amounts.add(currency=currency, minor_units=minor_units)
    check(event)
    return event


def check(event: Event) -> None:
    """Raises EventNotRecordable for what the service would refuse for ever."""
    _text("key", event.key, MAX_KEY_CHARS)
    _text("body", event.body.type_url, MAX_TYPE_URL_CHARS)
    if len(event.body.value) > MAX_BODY_BYTES:
        raise EventNotRecordable("body", f"is larger than {MAX_BODY_BYTES} bytes")
    if event.business_day and not _is_day(event.business_day):
        raise EventNotRecordable("business_day", f"{event.business_day!r} is not like 2026-11-22")
    if len(event.amounts) > MAX_AMOUNTS:
        raise EventNotRecordable("amounts", f"are more than {MAX_AMOUNTS}")
    for amount in event.amounts:
        _text("amounts", amount.currency, MAX_CURRENCY_CHARS)


def number(event: Event, *, epoch: int, sequence: int, clock_offset_ms: int | None) -> bytes:
    """The bytes that are stored and sent, as the `sequence`-th event of the outbox `epoch`."""
    event.outbox_epoch = epoch
    event.device_sequence = sequence
    if clock_offset_ms is not None and not event.HasField("clock_offset_ms"):
        event.clock_offset_ms = clock_offset_ms
    event.traceparent = _traceparent(event.traceparent)
    return event.SerializeToString()


def epoch_of(stored: bytes) -> int:
    """Which outbox numbered it."""
    return Event.FromString(stored).outbox_epoch


def digest(type_url: str, value: bytes) -> bytes:
    """What two events with one key are compared by; the service uses the same rule."""
    return hashlib.sha256(type_url.encode() + b"\0" + value).digest()[:16]


def _any(body: Body) -> Any:
    if isinstance(body, Any):
        return body
    packed = Any()
    if isinstance(body, Message):
        # Deterministic: the same sale recorded again must have the same digest.
        packed.Pack(body, deterministic=True)
        return packed
    match body:
        case (str() as type_url, bytes() as value):
            packed.type_url = _text("body", type_url, MAX_TYPE_URL_CHARS)
            packed.value = value
            return packed
    raise EventNotRecordable("body", "is neither a message nor a pair (type_url, bytes)")


def _text(field: str, text: str, most: int) -> str:
    if not 1 <= len(text) <= most:
        raise EventNotRecordable(field, f"must have 1 to {most} characters, has {len(text)}")
    if "\0" in text or not _is_unicode(text):
        raise EventNotRecordable(field, "holds a character that cannot be stored")
    return text


def _traceparent(text: str) -> str:
    # A trace is a help and never a reason to refuse a sale.
    return text if len(text) <= MAX_TRACEPARENT_CHARS and text.isascii() else ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
