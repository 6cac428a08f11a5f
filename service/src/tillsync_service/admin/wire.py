"""Between the contract's messages and what administration works with. Pure."""

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import datetime

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tillsync.v1 import admin_service_pb2 as pb
from tillsync.v1.event_pb2 import Amount, Event
from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Row
from tillsync_service.foundation.errors import InvalidRequest

_NANOS = 1_000_000_000
_DIGEST_BYTES = 16


def code_valid_seconds(valid_for: Duration | None) -> float:
    """How long a code is good; None: the default. Raises InvalidRequest."""
    if valid_for is None:
        return limits.DEFAULT_CODE_VALID_SECONDS
    seconds = valid_for.seconds + valid_for.nanos / _NANOS
    if not 1 <= seconds <= limits.MAX_CODE_VALID_SECONDS:
        raise InvalidRequest("valid_for", "1 second to 30 days.")
    return seconds


def tenant(row: Row) -> pb.Tenant:
    return pb.Tenant(
        tenant_id=str(row["tenant_id"]),
        name=row["name"],
        disposable=row["disposable"],
        created_at=timestamp(row["created_at"]),
    )


def store(row: Row) -> pb.Store:
    return pb.Store(
        store_id=str(row["store_id"]),
        code=row["code"],
        name=row["name"],
        created_at=timestamp(row["created_at"]),
    )


def device(row: Row) -> pb.Device:
    return pb.Device(
        device_id=str(row["device_id"]),
        store_id=str(row["store_id"]),
        name=row["name"],
        enrolled_at=timestamp(row["enrolled_at"]),
        revoked_at=timestamp(row["revoked_at"]),
        suspect_since=timestamp(row["suspect_since"]),
    )


def quarantined(row: Row) -> pb.Quarantined:
    return pb.Quarantined(
        key=row["key"],
        digest=row["digest"],
        store_id=str(row["store_id"]),
        device_id=str(row["device_id"]),
        received_at=timestamp(row["received_at"]),
        held_position=row["held_position"],
    )


def held_event(row: Row) -> pb.HeldEvent:
    amounts: dict[str, int] = json.loads(row["amounts"])
    event = Event(
        key=row["key"],
        body=Any(type_url=row["type_url"], value=row["body"]),
        occurred_at=timestamp(row["occurred_at"]),
        business_day=row["business_day"],
        amounts=[Amount(currency=name, minor_units=minor) for name, minor in amounts.items()],
        outbox_epoch=row["outbox_epoch"],
        device_sequence=row["device_sequence"],
        clock_offset_ms=row["clock_offset_ms"],
        traceparent=row["traceparent"],
    )
    return pb.HeldEvent(
        store_id=str(row["store_id"]),
        device_id=str(row["device_id"]),
        received_at=timestamp(row["received_at"]),
        event=event,
    )


def digest(value: bytes) -> bytes | None:
    """Which of a key's events; None: the first. Raises InvalidRequest."""
    if len(value) not in {0, _DIGEST_BYTES}:
        raise InvalidRequest("digest", f"{_DIGEST_BYTES} bytes, not {len(value):,}.")
    return value or None


def quarantine_token(rows: Sequence[Row], size: int) -> str:
    """For the page after the first `size` of the rows; empty: there is none."""
    if len(rows) <= size:
        return ""
    last = rows[size - 1]
    return base64.urlsafe_b64encode(last["digest"] + last["key"].encode()).decode()


def after_quarantined(token: str) -> tuple[str, bytes]:
    """The key and digest that a page begins after. Raises InvalidRequest."""
    if not token:
        return "", b""
    try:
        place = base64.b64decode(token, altchars=b"-_", validate=True)
        key = place[_DIGEST_BYTES:].decode()
    except (binascii.Error, ValueError):
        key = ""
    if not key or "\0" in key:  # no text of the database's
        raise InvalidRequest("page_token", "Not a token of the page before.")
    return key, place[:_DIGEST_BYTES]


def timestamp(moment: datetime | None) -> Timestamp | None:
    """None stays away: the field is absent then."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message
