"""A ReconcileRequest, checked and in plain values. Pure."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

from tillsync.v1 import reconcile_service_pb2 as pb
from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import InvalidRequest

DIGEST_BYTES = 16
DIGEST_MODULUS = 2**128
# The business day of events that declared none.
UNDECLARED_DAY = "-infinity"
# No number itself: a range that ends after it could not be written.
_INT64_MAX = 2**63 - 1
_AMOUNT = re.compile(rf"-?[0-9]{{1,{limits.MAX_AMOUNT_DIGITS}}}")


class Book(NamedTuple):
    """What a day comes to in one currency; the digests' sum modulo 2^128."""

    event_count: int
    amount_minor: int
    digest_sum: int


Books = Mapping[str, Book]
"""By currency; one that comes to nothing is left out."""


class Outbox(NamedTuple):
    """An outbox and the last number that it gave away."""

    epoch: int
    last: int


class Span(NamedTuple):
    """A run of an outbox's numbers, both ends included."""

    epoch: int
    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


class Day(NamedTuple):
    """A business day as the device recorded it. `name`: a date, or UNDECLARED_DAY."""

    name: str
    books: Books
    close: bool


@dataclass(frozen=True, slots=True)
class Claims:
    """What a device says it recorded, and the spans that it asks for."""

    outboxes: Sequence[Outbox]
    days: Sequence[Day]
    spans: Sequence[Span]


def claims_of(request: pb.ReconcileRequest) -> Claims:
    """The claims in a request. Raises InvalidRequest naming the field."""
    _must_be_few("outboxes", request.outboxes, limits.MAX_OUTBOX_CLAIMS)
    _must_be_few("days", request.days, limits.MAX_DAY_CLAIMS)
    _must_be_few("spans", request.spans, limits.MAX_SPANS)
    outboxes = [_outbox(f"outboxes[{i}]", claim) for i, claim in enumerate(request.outboxes)]
    days = [_day(f"days[{i}]", claim) for i, claim in enumerate(request.days)]
    spans = [span(f"spans[{i}]", asked) for i, asked in enumerate(request.spans)]
    _must_differ("outboxes[{}].epoch", [outbox.epoch for outbox in outboxes])
    _must_differ("days[{}].business_day", [day.name for day in days])
    if sum(asked.size for asked in spans) > limits.MAX_SPAN_NUMBERS:
        raise InvalidRequest(
            "spans", f"At most {limits.MAX_SPAN_NUMBERS:,} numbers in all: ask in several calls."
        )
    return Claims(outboxes, days, spans)


def span(field: str, asked: pb.SequenceSpan) -> Span:
    """The span in a message. Raises InvalidRequest."""
    epoch = _epoch(f"{field}.epoch", asked.epoch)
    if asked.first < 1:
        raise InvalidRequest(f"{field}.first", "Numbers begin at 1.")
    if not asked.first <= asked.last < _INT64_MAX:
        raise InvalidRequest(f"{field}.last", "Not below the first number, and below 2^63 - 1.")
    return Span(epoch, asked.first, asked.last)


def day_name(field: str, text: str) -> str:
    """The date in `text`, as it is. Raises InvalidRequest."""
    try:
        if date.fromisoformat(text).isoformat() == text:
            return text
    except ValueError:
        pass
    raise InvalidRequest(field, 'A date such as "2026-11-22".')


def _outbox(field: str, claim: pb.OutboxClaim) -> Outbox:
    epoch = _epoch(f"{field}.epoch", claim.epoch)
    if not 0 <= claim.last_sequence < _INT64_MAX:
        raise InvalidRequest(
            f"{field}.last_sequence", "0, or the last number given, below 2^63 - 1."
        )
    return Outbox(epoch, claim.last_sequence)


def _day(field: str, claim: pb.DayClaim) -> Day:
    text = claim.business_day
    name = day_name(f"{field}.business_day", text) if text else UNDECLARED_DAY
    _must_be_few(f"{field}.books", claim.books, limits.MAX_DAY_CURRENCIES)
    books = [_book(f"{field}.books[{i}]", book) for i, book in enumerate(claim.books)]
    _must_differ(f"{field}.books[{{}}].currency", [book.currency for book in claim.books])
    named = zip(claim.books, books, strict=True)
    return Day(name, {said.currency: book for said, book in named if any(book)}, claim.close)


def _book(field: str, book: pb.DayBook) -> Book:
    if not 1 <= len(book.currency) <= limits.MAX_CURRENCY_CHARACTERS or "\0" in book.currency:
        # As of an event: one that was stored with a blank currency must be comparable.
        raise InvalidRequest(
            f"{field}.currency", f"1 to {limits.MAX_CURRENCY_CHARACTERS} characters, no NUL."
        )
    if book.event_count < 0:
        raise InvalidRequest(f"{field}.event_count", "How many events, not below 0.")
    if not _AMOUNT.fullmatch(book.amount_minor):
        raise InvalidRequest(
            f"{field}.amount_minor",
            f'A whole number of at most {limits.MAX_AMOUNT_DIGITS} digits, as in "-1250".',
        )
    if len(book.digest) != DIGEST_BYTES:
        raise InvalidRequest(f"{field}.digest", f"{DIGEST_BYTES} bytes, not {len(book.digest):,}.")
    return Book(book.event_count, int(book.amount_minor), int.from_bytes(book.digest, "big"))


def _epoch(field: str, epoch: int) -> int:
    if epoch <= 0:
        raise InvalidRequest(field, "A positive number.")
    return epoch


def _must_be_few(field: str, values: Collection[object], most: int) -> None:
    if len(values) > most:
        raise InvalidRequest(field, f"At most {most:,}.")


def _must_differ(field: str, values: Iterable[object]) -> None:
    seen: set[object] = set()
    for place, value in enumerate(values):
        if value in seen:
            raise InvalidRequest(field.format(place), "Named twice.")
        seen.add(value)
