"""Pages of a list ordered by id. Pure."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Row
from tillsync_service.foundation.errors import InvalidRequest

# Before every id: the nil UUID names nothing.
_START = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Asked:
    """A page of at most `size` rows whose ids come after `after`."""

    size: int
    after: UUID

    @property
    def rows_to_read(self) -> int:
        """One more than is shown, so that the last page is known to be the last."""
        return self.size + 1


@dataclass(frozen=True, slots=True)
class Page:
    """Rows by id, and the token for the next page; empty: this was the last."""

    rows: Sequence[Row]
    next_token: str


def asked(page_size: int, page_token: str) -> Asked:
    """What a request's two fields ask for. Raises InvalidRequest naming the field."""
    if not 0 <= page_size <= limits.MAX_PAGE_SIZE:
        raise InvalidRequest("page_size", f"1 to {limits.MAX_PAGE_SIZE:,}, or 0 for the default.")
    return Asked(page_size or limits.DEFAULT_PAGE_SIZE, _after(page_token))


def page(asked_for: Asked, rows: Sequence[Row], id_column: str) -> Page:
    """The page that was asked for, of the `rows_to_read` rows that were read for it."""
    shown = rows[: asked_for.size]
    token = _token(shown[-1][id_column]) if len(rows) > len(shown) else ""
    return Page(shown, token)


def _token(last: UUID) -> str:
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def _after(token: str) -> UUID:
    if not token:
        return _START
    try:
        return UUID(bytes=base64.b64decode(token + "==", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("page_token", "Not a token of the page before.") from error
