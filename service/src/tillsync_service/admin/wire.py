"""Between the contract's messages and what administration works with. Pure."""

from datetime import datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tillsync.v1 import admin_service_pb2 as pb
from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Row
from tillsync_service.foundation.errors import InvalidRequest

_NANOS = 1_000_000_000


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


def timestamp(moment: datetime | None) -> Timestamp | None:
    """None stays away: the field is absent then."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message
