"""Scopes: for whom a record is. Pure."""

from uuid import UUID

from tillsync_service.foundation import fields

# The whole tenant. A store of this id cannot exist: the nil UUID names nothing.
TENANT = UUID(int=0)


def of_wire(field: str, store_id: str) -> UUID:
    """The scope that a message names. Raises InvalidRequest."""
    return fields.uuid(field, store_id) if store_id else TENANT


def to_wire(scope: UUID) -> str:
    return str(scope) if scope.int else ""
