"""Where a device stands, as an opaque text between two calls. Pure.

position    every change up to this version was sent
load        parts that are sent whole before the changes after `position` go on; see pull.py
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self, TypeAlias
from uuid import UUID

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import InvalidRequest

Part: TypeAlias = tuple[str, UUID]
"""Collection and scope."""

MAX_CURSOR_BYTES = 64 * 1024
_CHECK_BYTES = 8


@dataclass(frozen=True, slots=True)
class Cursor:
    """`store_id`: the store whose records the device holds beside the tenant's. `whole`: it was
    given with a checkpoint. `after`: the last record sent of the first of `load`."""

    history_id: UUID
    position: int
    store_id: UUID
    whole: bool = False
    load: tuple[Part, ...] = ()
    after: str = ""

    def past(self, record_id: str) -> Self:
        """After a page of the part that is being loaded."""
        return replace(self, after=record_id)

    def part_done(self) -> Self:
        return replace(self, load=self.load[1:], after="")


def encoded(tenant_id: UUID, cursor: Cursor) -> bytes:
    """The cursor for the device. The checksum is against accidents, and against another tenant's
    cursor; whoever forges one is sent nothing that the device may not have."""
    fields = (
        cursor.history_id.hex,
        cursor.position,
        cursor.store_id.hex,
        cursor.whole,
        [(collection, scope.hex) for collection, scope in cursor.load],
        cursor.after,
    )
    text = json.dumps(fields, separators=(",", ":")).encode()
    return _check(tenant_id, text) + text


def decoded(tenant_id: UUID, raw: bytes) -> Cursor | None:
    """What `encoded` was given; None for no cursor. Raises InvalidRequest."""
    if not raw:
        return None
    check, text = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
    if len(raw) > MAX_CURSOR_BYTES or check != _check(tenant_id, text):
        raise invalid()
    try:
        history, position, store, whole, load, after = json.loads(text)
        parts = tuple((str(collection), UUID(scope)) for collection, scope in load)
        if "\0" in after or any("\0" in collection for collection, _ in parts):
            raise invalid()  # no text of the database's
        return Cursor(UUID(history), int(position), UUID(store), bool(whole), parts, str(after))
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        raise invalid() from None


def reload_of(collections: Iterable[str], cursor: Cursor | None) -> list[str]:
    """The collections that a request wants loaded anew. Raises InvalidRequest where what is staged
    would be mixed up with it; without a cursor everything is loaded anyway."""
    names = list(collections)
    if len(names) > limits.MAX_COLLECTIONS:
        raise InvalidRequest("reload_collections", f"At most {limits.MAX_COLLECTIONS} names.")
    if names and cursor is not None and not cursor.whole:
        raise InvalidRequest("reload_collections", "Needs the cursor of a checkpoint.")
    return names if cursor is not None else []


def _check(tenant_id: UUID, text: bytes) -> bytes:
    return hashlib.sha256(tenant_id.bytes + text).digest()[:_CHECK_BYTES]


def invalid() -> InvalidRequest:
    return InvalidRequest(
        "cursor",
        "Not a cursor that this service gave to this tenant; pull without one.",
        reason=ErrorReason.ERROR_REASON_CURSOR_INVALID,
    )
