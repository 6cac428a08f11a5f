"""Where a reader of the feed stands, as opaque bytes between two calls. Pure."""

import hashlib
import struct
from dataclasses import dataclass
from uuid import UUID

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.foundation.errors import InvalidRequest, StateForbids

_FORM = struct.Struct(">B16sq")
_FORM_NUMBER = 1
_CHECK_BYTES = 8


@dataclass(frozen=True, slots=True)
class Cursor:
    """Everything up to `position` was sent, or left out by a filter."""

    history_id: UUID
    position: int


def encoded(tenant_id: UUID, cursor: Cursor) -> bytes:
    """The cursor for a reader. The checksum is against accidents, and against another tenant's
    cursor; whoever forges one gets to a place in its own tenant's feed."""
    form = _FORM.pack(_FORM_NUMBER, cursor.history_id.bytes, cursor.position)
    return _check(tenant_id, form) + form


def decoded(tenant_id: UUID, raw: bytes) -> Cursor:
    """What `encoded` was given. Raises InvalidRequest."""
    check, form = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
    if len(form) != _FORM.size or check != _check(tenant_id, form):
        raise invalid("Not a cursor that this service gave to this tenant.")
    number, history_id, position = _FORM.unpack(form)
    if number != _FORM_NUMBER or position < 0:
        raise invalid("Not a cursor of this version of the service.")
    return Cursor(UUID(bytes=history_id), position)


def must_be_of(cursor: Cursor, history_id: UUID, head_position: int) -> None:
    """Raises unless the cursor lies within the history as it is now: StateForbids for another
    history's, InvalidRequest for one ahead of the head."""
    if cursor.history_id != history_id:
        raise StateForbids(
            "The cursor is of another history: the service was restored from a backup. Subscribe "
            "without a cursor, and leave out events whose key is held already.",
            reason=ErrorReason.ERROR_REASON_HISTORY_CHANGED,
            facts={"history_id": str(history_id)},
        )
    if cursor.position > head_position:
        raise invalid("The cursor lies ahead of the history; was it cut short by a restore?")


def invalid(text: str) -> InvalidRequest:
    return InvalidRequest("cursor", text, reason=ErrorReason.ERROR_REASON_CURSOR_INVALID)


def _check(tenant_id: UUID, form: bytes) -> bytes:
    return hashlib.sha256(b"feed" + tenant_id.bytes + form).digest()[:_CHECK_BYTES]
