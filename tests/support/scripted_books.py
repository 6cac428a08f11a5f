"""Head office's side of reconciliation in memory, by the contract's words."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tillsync.v1 import event_pb2
from tillsync.v1 import reconcile_service_pb2 as pb
from tillsync_agent import daybooks, envelope
from tillsync_agent.daybooks import Books, DayBook

MOST_MISSING = 1_000
# As the service does: in longer spans it does not look at each number.
MOST_EXPLAINED = 128


@dataclass
class ScriptedBooks:
    """What one device's numbers and days come to."""

    events: dict[str, event_pb2.Event] = field(default_factory=dict)
    """The history, by key."""
    presented: set[tuple[int, int]] = field(default_factory=set)
    dispositions: dict[tuple[int, int], pb.Disposition] = field(default_factory=dict)
    off: dict[tuple[str, str], DayBook] = field(default_factory=dict)
    """(day, currency) to what the books are wrong by."""
    of_others: set[str] = field(default_factory=set)
    """Keys of events that another device had brought before."""
    closings: dict[str, list[Books]] = field(default_factory=dict)
    waived: set[tuple[int, int]] = field(default_factory=set)
    """Numbers that an operator waived."""
    days_waived: set[str] = field(default_factory=set)
    lacks_elsewhere: bool = False
    """Numbers of another outbox of the device are missing: no day is closed."""
    claims: dict[int, int] = field(default_factory=dict)
    days_claimed: list[dict[str, Books]] = field(default_factory=list)
    """By request."""

    def present(self, event: event_pb2.Event) -> None:
        self.presented.add(_number(event))

    def count(self, event: event_pb2.Event) -> None:
        self.events[event.key] = event
        self.dispositions.pop(_number(event), None)

    def refuse(
        self, event: event_pb2.Event, outcome: "event_pb2.Outcome.ValueType", refusal=None
    ) -> None:
        epoch, sequence = _number(event)
        self.dispositions[epoch, sequence] = pb.Disposition(
            epoch=epoch,
            sequence=sequence,
            outcome=outcome,
            reason=refusal.reason if refusal else "",
            field=refusal.field if refusal else "",
        )

    def lose(self, key: str, *, numbers_too: bool) -> None:
        event = self.events.pop(key)
        if numbers_too:
            self.presented.discard(_number(event))

    def counts_elsewhere(self, key: str) -> None:
        """Another device had brought this event before."""
        self.of_others.add(key)

    def day(self, name: str) -> Books:
        own = [one for one in self.events.values() if one.key not in self.of_others]
        parts = [_books_of(event) for event in own if event.business_day == name]
        parts += [{currency: off} for (day, currency), off in self.off.items() if day == name]
        return daybooks.total(parts)

    def answer(self, request: pb.ReconcileRequest) -> pb.ReconcileResponse:
        response = pb.ReconcileResponse()
        for claim in request.outboxes:
            self.claims[claim.epoch] = claim.last_sequence
            self._add_missing(claim, response)
            response.dispositions.extend(
                one for (epoch, _), one in sorted(self.dispositions.items()) if epoch == claim.epoch
            )
        self.days_claimed.append({day.business_day: _claimed(day) for day in request.days})
        for day in request.days:
            self._answer_day(day, response)
        held: dict[tuple[int, int], list[int]] = {}
        for event in self.events.values() if request.spans else ():
            if event.key not in self.of_others:
                held.setdefault(_number(event), []).append(int.from_bytes(_digest(event)))
        for span in request.spans:
            numbers = [(span.epoch, number) for number in range(span.first, span.last + 1)]
            digests = [digest for number in numbers for digest in held.get(number, ())]
            digest = (sum(digests) % 2**128).to_bytes(16)
            response.spans.add(span=span, event_count=len(digests), digest=digest)
            if len(numbers) <= MOST_EXPLAINED:
                self._explain([one for one in numbers if one not in held], response)
        return response

    def _explain(self, lacking: list[tuple[int, int]], response: pb.ReconcileResponse) -> None:
        """A number that was seen and is not held came to something, as far as is known."""
        for number in lacking:
            if number in self.presented and number not in self.dispositions:
                outcome = event_pb2.OUTCOME_DUPLICATE
                response.dispositions.add(epoch=number[0], sequence=number[1], outcome=outcome)

    def _add_missing(self, claim: pb.OutboxClaim, response: pb.ReconcileResponse) -> None:
        numbers = range(1, claim.last_sequence + 1)
        missing = [n for n in numbers if (claim.epoch, n) not in self.presented]
        waived = [n for n in missing if (claim.epoch, n) in self.waived]
        expected = _spans(claim.epoch, (n for n in missing if n not in waived))
        response.waived.extend(_spans(claim.epoch, waived))
        spans = [*expected, *response.waived]
        response.missing.extend(spans[:MOST_MISSING])
        response.more_missing |= len(spans) > MOST_MISSING

    def _answer_day(self, day: pb.DayClaim, response: pb.ReconcileResponse) -> None:
        here = self.day(day.business_day)
        equal = here == _claimed(day)
        closings = self.closings.setdefault(day.business_day, [])
        is_whole = not self.lacks_elsewhere
        if day.close and equal and is_whole and not (closings and closings[-1] == here):
            closings.append(here)
        answer = response.days.add(
            business_day=day.business_day,
            equal=equal,
            revision=len(closings),
            closed=bool(closings) and closings[-1] == here,
            waived=day.business_day in self.days_waived,
        )
        for currency, book in here.items():
            answer.books.add(
                currency=currency,
                event_count=book.event_count,
                amount_minor=str(book.amount_minor),
                digest=book.digest_sum.to_bytes(16),
            )


def _spans(epoch: int, numbers: Iterable[int]) -> list[pb.SequenceSpan]:
    spans: list[pb.SequenceSpan] = []
    for number in numbers:
        if spans and spans[-1].last == number - 1:
            spans[-1].last = number
        else:
            spans.append(pb.SequenceSpan(epoch=epoch, first=number, last=number))
    return spans


def _claimed(day: pb.DayClaim) -> Books:
    assert max(Counter(book.currency for book in day.books).values(), default=1) == 1
    return {
        book.currency: DayBook(
            book.event_count, int(book.amount_minor), int.from_bytes(book.digest)
        )
        for book in day.books
    }


def _number(event: event_pb2.Event) -> tuple[int, int]:
    return event.outbox_epoch, event.device_sequence


def _digest(event: event_pb2.Event) -> bytes:
    return envelope.digest(event.body.type_url, event.body.value)


def _books_of(event: event_pb2.Event) -> Books:
    return daybooks.of_event(event, _digest(event))
