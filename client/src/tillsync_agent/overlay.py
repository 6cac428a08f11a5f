"""A record as a till shows it: the copy's, under the device's own edits. Pure.

The kinds mean what docs/SYNC.md says, and what the service makes of them: put replaces, patch
touches the fields that it names and takes away those that it says null of, add moves whole numbers,
delete removes.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from tillsync.v1.sync_service_pb2 import MutationKind
from tillsync_agent.errors import EditRefused

PUT = MutationKind.MUTATION_KIND_PUT
PATCH = MutationKind.MUTATION_KIND_PATCH
ADD = MutationKind.MUTATION_KIND_ADD
DELETE = MutationKind.MUTATION_KIND_DELETE

MAX_BODY_BYTES = 64 * 1024
MAX_ID_CHARACTERS = 200
# Whole numbers that every language and database can hold.
_MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it is shown. `version`: the copy's; 0: it is only on this device. `pending`: an
    edit of this device is in it that the copy does not hold yet."""

    collection: str
    record_id: str
    store_id: str
    """The store that it is for; empty: the whole tenant."""
    version: int
    fields: dict[str, Any]
    pending: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One edit over a record. `body` is JSON, empty for a delete."""

    kind: int
    body: str


def shown(body: str | None, layers: Iterable[Layer]) -> dict[str, Any] | None:
    """The fields of a record (None: there is none) under the edits, oldest first."""
    fields = None if body is None else json.loads(body)
    for layer in layers:
        fields = _over(fields, layer)
    return fields


def _over(fields: dict[str, Any] | None, layer: Layer) -> dict[str, Any] | None:
    if layer.kind == DELETE:
        return None
    named: dict[str, Any] = json.loads(layer.body)
    if layer.kind == PUT:
        return named
    if layer.kind == PATCH:
        # Of a record that is gone the service says so; until then there is nothing to show.
        return None if fields is None else patched(fields, named)
    return added(fields or {}, named)


def patched(fields: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in fields.items() if name not in named}
    return kept | {name: value for name, value in named.items() if value is not None}


def added(fields: Mapping[str, Any], deltas: Mapping[str, Any]) -> dict[str, Any]:
    """What cannot be added is left as it is: the service refuses the edit, and says so."""
    result = dict(fields)
    for name, delta in deltas.items():
        before = result.get(name, 0)
        if is_whole(before) and is_whole(delta) and is_whole(before + delta):
            result[name] = before + delta
    return result


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_MOST <= value <= _MOST


def checked_id(record_id: str) -> str:
    if not record_id.strip() or len(record_id) > MAX_ID_CHARACTERS or "\0" in record_id:
        raise EditRefused("record_id", f"1 to {MAX_ID_CHARACTERS} characters, not blank, no NUL")
    return record_id


def body_of(kind: int, fields: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    """The edit's body. Raises EditRefused for what the service could never apply."""
    if not isinstance(fields, Mapping):
        raise EditRefused("fields", "fields by name, as in {'name': 'espresso'}")
    if not all(isinstance(name, str) for name in fields):
        raise EditRefused("fields", "names of fields are texts")
    if kind == ADD:
        for name, delta in fields.items():
            before = present.get(name, 0)
            if not (is_whole(delta) and is_whole(before) and is_whole(before + delta)):
                raise EditRefused(name, "only whole numbers of 64 bits can be added up")
    try:
        body = json.dumps(dict(fields), ensure_ascii=False, allow_nan=False, default=_refuse)
        size = len(body.encode())
    except (ValueError, RecursionError) as error:
        raise EditRefused("fields", f"not JSON: {error}") from None
    if size > MAX_BODY_BYTES:
        raise EditRefused("fields", f"{size:,} bytes; a record has at most {MAX_BODY_BYTES:,}")
    return body


def _refuse(value: object) -> NoReturn:
    raise ValueError(f"a {type(value).__name__} is nothing that JSON knows")
