"""What a reconciliation says and hears on the wire, in plain values. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tillsync.v1 import event_pb2
from tillsync.v1 import reconcile_service_pb2 as pb
from tillsync_agent.answers import CallFailed, Failure
from tillsync_agent.comparison import Explained
from tillsync_agent.daybooks import DIGEST_BYTES, Books, DayBook, Span

# The contract's limits for one request.
MOST_OUTBOXES = 100
MOST_DAYS = 100
MOST_SPANS = 1_000
# A service looks at each number of a span; more than this is not asked of it at once.
MOST_NUMBERS = 250_000
_OUTCOMES = {
    event_pb2.OUTCOME_DUPLICATE: "duplicate",
    event_pb2.OUTCOME_CONFLICT: "conflict",
    event_pb2.OUTCOME_REJECTED: "rejected",
}


@dataclass(frozen=True, slots=True)
class DayHeard:
    """A business day as head office holds it."""

    equal: bool
    books: Books
    revision: int
    closed: bool
    waived: bool


@dataclass(slots=True)
class Heard:
    """What head office answered to a snapshot."""

    history_id: str = ""
    missing: list[Span] = field(default_factory=list)
    waived: set[Span] = field(default_factory=set)
    """Those of `missing` that an operator does not expect any more."""
    days: dict[str, DayHeard] = field(default_factory=dict)

    def add(self, response: pb.ReconcileResponse, request: pb.ReconcileRequest) -> None:
        """Adds the answer to one of the requests. Raises CallFailed (GARBAGE)."""
        if len(response.days) != len(request.days):
            raise CallFailed(Failure("GARBAGE", "not one answer for each day"))
        self.history_id = response.history_id
        self.missing += map(_span, response.missing)
        self.waived.update(map(_span, response.waived))
        for claim, answer in zip(request.days, response.days, strict=True):
            books = {book.currency: _book(book) for book in answer.books}
            self.days[claim.business_day] = DayHeard(
                answer.equal, books, answer.revision, answer.closed, answer.waived
            )


def requests(
    outboxes: Sequence[tuple[int, int]], days: Mapping[str, Books], *, close: bool
) -> Iterator[pb.ReconcileRequest]:
    """What is claimed, in as few requests as the contract allows; one at least."""
    names = list(days)
    start = 0
    while True:
        request = pb.ReconcileRequest()
        for epoch, last in outboxes[start : start + MOST_OUTBOXES]:
            request.outboxes.add(epoch=epoch, last_sequence=last)
        for name in names[start : start + MOST_DAYS]:
            claim = request.days.add(business_day=name, close=close)
            claim.books.extend(_book_proto(*book) for book in days[name].items())
        yield request
        start += min(MOST_OUTBOXES, MOST_DAYS)
        if start >= max(len(outboxes), len(names)):
            return


def spans_requests(spans: Sequence[Span]) -> Iterator[pb.ReconcileRequest]:
    """The question what the history holds of these spans, in as few requests as may be."""
    request, numbers = pb.ReconcileRequest(), 0
    for span in spans:
        numbers += span.size
        if len(request.spans) == MOST_SPANS or (request.spans and numbers > MOST_NUMBERS):
            yield request
            request, numbers = pb.ReconcileRequest(), span.size
        request.spans.add(epoch=span.epoch, first=span.first, last=span.last)
    yield request


def explained_in(response: pb.ReconcileResponse) -> list[Explained]:
    """What head office says of numbers that are no part of its history."""
    return [
        Explained(
            one.epoch,
            one.sequence,
            _OUTCOMES.get(one.outcome, "unknown"),
            one.reason,
            one.field,
        )
        for one in response.dispositions
    ]


def sums_of(response: pb.ReconcileResponse, asked: int) -> list[tuple[int, int]]:
    """Events and digest sum of each span. Raises CallFailed (GARBAGE)."""
    if len(response.spans) != asked:
        raise CallFailed(Failure("GARBAGE", "not one answer for each span"))
    return [(answer.event_count, int.from_bytes(answer.digest)) for answer in response.spans]


def _span(span: pb.SequenceSpan) -> Span:
    return Span(span.epoch, span.first, span.last)


def _book(book: pb.DayBook) -> DayBook:
    try:
        return DayBook(book.event_count, int(book.amount_minor), int.from_bytes(book.digest))
    except ValueError:
        raise CallFailed(Failure("GARBAGE", "an amount is no whole number")) from None


def _book_proto(currency: str, book: DayBook) -> pb.DayBook:
    return pb.DayBook(
        currency=currency,
        event_count=book.event_count,
        amount_minor=str(book.amount_minor),
        digest=book.digest_sum.to_bytes(DIGEST_BYTES),
    )
