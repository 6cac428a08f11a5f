"""What a record is: one JSON object, written in one way, and the hash that it counts with. Pure."""

import hashlib
import json
from typing import Any, NoReturn

from tillsync_service.foundation import limits

DIGEST_MODULUS = 2**128
_HASH_BYTES = 16
# No reader's stack ends before this, whatever language it is written in.
_MAX_DEPTH = 100


class NotStorable(ValueError):
    """The text can never be a record; the message says why, for a person."""


def parsed(text: str) -> dict[str, Any]:
    """The fields in `text`. Raises NotStorable."""
    if len(text) > limits.MAX_RECORD_BYTES:  # bytes are at least as many
        raise _too_large()
    try:
        fields = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise NotStorable(f"Not JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise NotStorable('Not a JSON object, as in {"name": "espresso"}.')
    if text.count("{") + text.count("[") > _MAX_DEPTH and _is_deep(fields):
        raise NotStorable(f"More than {_MAX_DEPTH} values within each other.")
    return fields


def canonical(fields: dict[str, Any]) -> str:
    """The one way in which these fields are stored. Raises NotStorable."""
    try:
        text = json.dumps(
            fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        size = len(text.encode())
    except UnicodeEncodeError:
        raise NotStorable("A text in it is half a character (a lone surrogate).") from None
    except ValueError:
        raise NotStorable("A number in it is too large.") from None
    if size > limits.MAX_RECORD_BYTES:
        raise _too_large()
    return text


def is_record_id(text: str) -> bool:
    """Whether a record can have this id."""
    return 0 < len(text) <= limits.MAX_RECORD_ID_CHARACTERS and "\0" not in text


def record_hash(record_id: str, body: str) -> int:
    """What a record adds to its part's digest."""
    digest = hashlib.sha256(f"{record_id}\0{body}".encode()).digest()
    return int.from_bytes(digest[:_HASH_BYTES], "big")


def digest_bytes(digest: int) -> bytes:
    """A part's digest as it is sent."""
    return (digest % DIGEST_MODULUS).to_bytes(_HASH_BYTES, "big")


def _is_deep(fields: dict[str, Any]) -> bool:
    level: list[Any] = [fields]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return bool(level)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _too_large() -> NotStorable:
    return NotStorable(f"Over {limits.MAX_RECORD_BYTES:,} bytes.")
