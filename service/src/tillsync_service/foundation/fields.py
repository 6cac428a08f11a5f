"""What every request's fields must be: each function returns the value or names the field."""

from uuid import UUID

from tillsync_service.foundation.errors import InvalidRequest

SHA256_BYTES = 32


def uuid(field: str, value: str) -> UUID:
    """The UUID in `value`. The nil UUID names nothing and is refused."""
    try:
        parsed = UUID(value)
    except ValueError as error:
        raise InvalidRequest(
            field, "A UUID, as in 018f2a5e-7c3b-7d10-8a4e-3b1c9d2e5f60."
        ) from error
    if not parsed.int:
        raise InvalidRequest(field, "The nil UUID names nothing.")
    return parsed


def text(field: str, value: str, max_characters: int) -> str:
    """`value`, if it is not blank, not too long, and free of the one character Postgres cannot
    hold."""
    if not value.strip() or len(value) > max_characters or "\0" in value:
        raise InvalidRequest(field, f"1 to {max_characters:,} characters, not blank, no NUL.")
    return value


def exactly_32_bytes(field: str, value: bytes) -> bytes:
    """`value`, if it is as long as a SHA-256 or a refresh secret."""
    if len(value) != SHA256_BYTES:
        raise InvalidRequest(field, f"{SHA256_BYTES} bytes, not {len(value):,}.")
    return value
