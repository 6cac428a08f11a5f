"""Compares days as devices claim them with the days as they are held, and closes those that may
be. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tillsync_service.books.claims import DIGEST_MODULUS, Books, Day


class Content(NamedTuple):
    """What a day comes to, all currencies together: what a closing remembers."""

    event_count: int
    digest_sum: int


@dataclass(frozen=True, slots=True)
class Held:
    """A day as it is held. `closing`: its content when it was closed last, for the `revision`th
    time. `waived`: by an operator, who knows what is missing of it."""

    books: Books
    revision: int = 0
    closing: Content | None = None
    waived: bool = False

    @property
    def closed(self) -> bool:
        """A day that came to something else since then is open again."""
        return self.closing == content(self.books)


@dataclass(frozen=True, slots=True)
class DayFound:
    """What a claimed day is found to be."""

    name: str
    held: Held
    equal: bool


class Closing(NamedTuple):
    """A closing to write down."""

    name: str
    revision: int
    content: Content


def content(books: Books) -> Content:
    """The content of a day."""
    return Content(
        sum(book.event_count for book in books.values()),
        sum(book.digest_sum for book in books.values()) % DIGEST_MODULUS,
    )


def compared(
    days: Sequence[Day], held: Iterable[Held], *, whole: bool
) -> tuple[list[DayFound], list[Closing]]:
    """What each claimed day is, in order, the closings that it asks for and may have done; and
    those closings. `whole`: no number of the device is missing."""
    found: list[DayFound] = []
    closings: list[Closing] = []
    for day, as_held in zip(days, held, strict=True):
        equal = day.books == as_held.books
        now = as_held
        if day.close and equal and whole and not as_held.closed:
            closing = content(as_held.books)
            now = replace(as_held, revision=as_held.revision + 1, closing=closing)
            closings.append(Closing(day.name, now.revision, closing))
        found.append(DayFound(day.name, now, equal))
    return found, closings
