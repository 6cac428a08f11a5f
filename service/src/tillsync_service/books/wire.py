"""Between the contract's messages and what the books work with. Pure."""

from collections.abc import Iterator
from datetime import datetime

from tillsync.v1 import reconcile_service_pb2 as pb
from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync.v1.event_pb2 import Outcome
from tillsync_service.books.claims import DIGEST_BYTES, UNDECLARED_DAY, Books, Claims, Span
from tillsync_service.books.comparison import DayFound
from tillsync_service.books.store import Reconciled
from tillsync_service.foundation.db import Row
from tillsync_service.foundation.errors import reason_name

_KEY_CONFLICT = reason_name(ErrorReason.ERROR_REASON_KEY_CONFLICT)


def reconcile_response(
    claims: Claims, reconciled: Reconciled, served_at: datetime
) -> pb.ReconcileResponse:
    response = pb.ReconcileResponse(
        missing=map(span, reconciled.missing),
        waived=map(span, reconciled.waived),
        more_missing=reconciled.more_missing,
        days=map(_day, reconciled.days),
        dispositions=map(_disposition, reconciled.dispositions),
        history_id=str(reconciled.history_id),
    )
    for asked, found in zip(claims.spans, reconciled.sums, strict=True):
        response.spans.add(
            span=span(asked),
            event_count=found.event_count,
            digest=digest_bytes(found.digest_sum),
        )
    response.served_at.FromDatetime(served_at)
    return response


def span(one: Span) -> pb.SequenceSpan:
    return pb.SequenceSpan(epoch=one.epoch, first=one.first, last=one.last)


def books(held: Books) -> Iterator[pb.DayBook]:
    for currency, book in sorted(held.items()):
        yield pb.DayBook(
            currency=currency,
            event_count=book.event_count,
            amount_minor=str(book.amount_minor),
            digest=digest_bytes(book.digest_sum),
        )


def digest_bytes(digest_sum: int) -> bytes:
    return digest_sum.to_bytes(DIGEST_BYTES, "big")


def _day(found: DayFound) -> pb.DayAnswer:
    return pb.DayAnswer(
        business_day="" if found.name == UNDECLARED_DAY else found.name,
        equal=found.equal,
        books=books(found.held.books),
        revision=found.held.revision,
        closed=found.held.closed,
        waived=found.held.waived,
    )


def _disposition(row: Row) -> pb.Disposition:
    in_quarantine = row["outcome"] == "CONFLICT"
    return pb.Disposition(
        epoch=row["epoch"],
        sequence=row["sequence"],
        outcome=Outcome.Value(f"OUTCOME_{row['outcome']}"),
        reason=_KEY_CONFLICT if in_quarantine else row["reason"],
        field="key" if in_quarantine else row["field"],
    )
