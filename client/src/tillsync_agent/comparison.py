"""Comparing what a till recorded with what head office holds: what is claimed, where the numbers
differ, and why a day does. Pure.

A day that differs while no number is missing is narrowed down: the till asks for the sums of spans
of its numbers, then for the sums of parts of those that differ, down to single numbers.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tillsync_agent import daybooks
from tillsync_agent.daybooks import (
    REFUSED,
    SETTLED,
    Booked,
    Books,
    Counted,
    DayBook,
    Numbered,
    Span,
)
from tillsync_agent.reconciliation import Difference, Refused, Sums

# A span is cut into so many parts at most, and so many parts are asked for at once (they share
# them, when many spans differ): three holes among 10,000 numbers are found in two questions.
MOST_PARTS = 128
MOST_SPANS = 256
# The contract's limit for a day.
MOST_CURRENCIES = 100
_TOO_MANY = f"and at most {MOST_CURRENCIES} can be compared"

Elsewhere = Mapping[str, Container[tuple[int, int]]]
"""Business day to the (epoch, number) of its events that head office counts elsewhere."""


@dataclass(slots=True)
class Day:
    """A business day as this device recorded it."""

    books: dict[str, DayBook] = field(default_factory=dict)
    waiting: int = 0
    pruned: int = 0
    refused: list[Refused] = field(default_factory=list)
    reach: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Epoch to the first and the last number that is settled."""

    def add(self, event: Booked, *, counts: bool) -> None:
        """Counts an event in, or only takes note of it."""
        if event.state in REFUSED:
            refused = (event.epoch, event.sequence, event.state, event.reason, event.field)
            self.refused.append(Refused(event.business_day, *refused))
            return
        if event.state in SETTLED:
            first, last = self.reach.get(event.epoch, (event.sequence, event.sequence))
            reach = min(first, event.sequence), max(last, event.sequence)
            self.reach[event.epoch] = reach
        else:
            self.waiting += 1
        if counts:
            self._count(event.books)

    def add_pruned(self, books: Books) -> None:
        """Counts in what pruned events came to."""
        self.pruned = max(book.event_count for book in books.values())
        self._count(books)

    def _count(self, books: Books) -> None:
        for currency, book in books.items():
            self.books[currency] = self.books.get(currency, DayBook()) + book


@dataclass(slots=True)
class Snapshot:
    """What this device recorded, as of one moment."""

    counted: Counted
    days: dict[str, Day]

    def add(self, events: Iterable[Booked], only: str | None, elsewhere: Elsewhere) -> None:
        """Adds the events of all days, or of the one, without what head office counts elsewhere."""
        for event in events:
            name = event.business_day
            if only is None or name == only:
                counts = event.number not in elsewhere.get(name, ())
                self.days.setdefault(name, Day()).add(event, counts=counts)

    def add_pruned(self) -> None:
        """Adds what was pruned of these days."""
        for name, books in self.counted.pruned.items():
            if name in self.days:
                self.days[name].add_pruned(books)

    def claims(self) -> dict[str, Books]:
        """What each day comes to, of those that a request can say it of."""
        return {name: books for name, books in self._totals() if len(books) <= MOST_CURRENCIES}

    def beyond_words(self) -> list[Difference]:
        """The other days: they are not compared, and stop no other."""
        return [
            Difference(name, sums(books), {}, [f"it is in {len(books)} currencies, {_TOO_MANY}"])
            for name, books in self._totals()
            if len(books) > MOST_CURRENCIES
        ]

    def _totals(self) -> Iterator[tuple[str, Books]]:
        for name, day in sorted(self.days.items()):
            yield name, daybooks.total([day.books])


@dataclass(frozen=True, slots=True)
class Explained:
    """A number that head office was given and that is not part of its history, and why."""

    epoch: int
    sequence: int
    outcome: str
    reason: str
    field: str


def same_events(here: Books, there: Books) -> bool:
    """Whether the same events are counted, whatever money they stand for."""
    return _events(here) == _events(there)


def _events(books: Books) -> dict[str, tuple[int, int]]:
    return {name: (book.event_count, book.digest_sum) for name, book in books.items()}


def reaches(days: Iterable[Day]) -> list[Span]:
    """The spans of numbers in which these days' events lie, not overlapping."""
    spans = sorted(Span(epoch, *reach) for day in days for epoch, reach in day.reach.items())
    joined: list[Span] = []
    for span in spans:
        before = joined[-1] if joined else None
        if before and before.epoch == span.epoch and span.first <= before.last + 1:
            joined[-1] = Span(span.epoch, before.first, max(before.last, span.last))
        else:
            joined.append(span)
    return joined


class Expected:
    """What head office should hold of the numbers whose events are kept here."""

    def __init__(self) -> None:
        self._digests: dict[int, dict[int, int]] = {}
        self.spans: list[Span] = []
        """The runs of numbers that are kept: of the others nothing can be said."""

    def add(self, epoch: int, numbers: Iterable[Numbered], but: Container[tuple[int, int]]) -> None:
        """`but`: (epoch, number) of what is known not to be in the history."""
        digests = self._digests.setdefault(epoch, {})
        for number in numbers:
            sequence = number.sequence
            last = self.spans[-1] if self.spans else None
            if last and last.epoch == epoch and last.last + 1 == sequence:
                self.spans[-1] = Span(epoch, last.first, sequence)
            else:
                self.spans.append(Span(epoch, sequence, sequence))
            if number.state in SETTLED and (epoch, sequence) not in but:
                digests[sequence] = number.digest

    def of(self, span: Span) -> tuple[int, int]:
        """How many events the span should have, and their digests' sum."""
        digests = self._digests.get(span.epoch, {})
        held = [digests[n] for n in range(span.first, span.last + 1) if n in digests]
        return len(held), sum(held) % daybooks.DIGEST_MODULUS


def parts(spans: Sequence[Span]) -> list[Span]:
    """The spans cut into parts that can be asked for at once. Of very many spans, the first."""
    each = max(2, min(MOST_PARTS, MOST_SPANS // max(1, len(spans))))
    return [part for span in spans for part in _cut(span, each)][:MOST_SPANS]


def _cut(span: Span, most: int) -> Iterator[Span]:
    size = -(-span.size // most)
    for first in range(span.first, span.last + 1, size):
        yield Span(span.epoch, first, min(first + size - 1, span.last))


def narrowed(
    expected: Expected, asked: Sequence[Span], held: Sequence[tuple[int, int]]
) -> tuple[list[Span], list[Span]]:
    """The spans that head office lacks as a whole, and those to look into more closely.

    held: how many events it holds of each span that was asked for, and their digests' sum.
    """
    lacking, closer = [], []
    for span, found in zip(asked, held, strict=True):
        count, digest = expected.of(span)
        if not count or found == (count, digest):
            continue
        if not found[0] or span.size == 1:
            lacking.append(span)
        else:
            closer.append(span)
    return lacking, closer


def holes(span: Span, kept: Iterable[int]) -> Iterator[Span]:
    """The parts of the span that are not kept; `kept` ascends."""
    first = span.first
    for number in kept:
        if number > first:
            yield Span(span.epoch, first, number - 1)
        first = number + 1
    if first <= span.last:
        yield Span(span.epoch, first, span.last)


def difference(
    name: str, day: Day, there: Books, explained: Sequence[Explained], given: int
) -> Difference:
    """A day that differs, and why. explained: those of its numbers that head office explains;
    given: how many events were given back before this comparison."""
    here = daybooks.total([day.books])
    why = []
    if day.waiting:
        why.append(f"{day.waiting} of its events wait here and are held back")
    why += [
        f"number {one.sequence} is no part of the history: "
        + " ".join(word for word in (one.outcome, one.reason, one.field) if word)
        for one in explained[:3]
    ]
    if len(explained) > len(why):
        why.append(f"{len(explained)} of its numbers are explained by head office in all")
    balance = _balance(here, there)
    if balance < 0:
        why.append(
            f"head office holds {-balance} more events of this device than are known here: another "
            "outbox of it, or a file that was set aside"
        )
    if balance > 0 and given:
        why.append("events were given back, and head office still does not count them")
    if balance > 0 and day.pruned:
        why.append(f"{day.pruned} of its events were pruned here and cannot be given back")
    if same_events(here, there):
        why.append("the events are the same and their money is not")
    if not why:
        why.append("head office counts other events under these numbers, and has all of ours")
    return Difference(name, sums(here), sums(there), why)


def _balance(here: Books, there: Books) -> int:
    """How many events more are here, in the currency where that is the most; negative: fewer."""
    empty = DayBook()
    counts = [
        here.get(name, empty).event_count - there.get(name, empty).event_count
        for name in {*here, *there}
    ]
    return max(counts, key=abs, default=0)


def sums(books: Mapping[str, DayBook]) -> Sums:
    """Books as a person reads them."""
    return {name: (book.event_count, book.amount_minor) for name, book in sorted(books.items())}
