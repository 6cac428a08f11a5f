"""What business days come to, by the service's own arithmetic (DayBook in reconcile_service.proto).
Pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tillsync.v1.event_pb2 import Event

# ISO 4217's code for "no currency": where an event without amounts is counted.
NO_CURRENCY = "XXX"
DIGEST_BYTES = 16
DIGEST_MODULUS = 2 ** (8 * DIGEST_BYTES)

SETTLED = frozenset({"accepted", "duplicate"})
REFUSED = frozenset({"conflict", "rejected"})


@dataclass(frozen=True, slots=True)
class DayBook:
    """A business day in one currency. The digest sum is taken modulo 2^128."""

    event_count: int = 0
    amount_minor: int = 0
    digest_sum: int = 0

    def __add__(self, other: "DayBook") -> "DayBook":
        return DayBook(
            self.event_count + other.event_count,
            self.amount_minor + other.amount_minor,
            (self.digest_sum + other.digest_sum) % DIGEST_MODULUS,
        )

    def __neg__(self) -> "DayBook":
        return DayBook(-self.event_count, -self.amount_minor, -self.digest_sum % DIGEST_MODULUS)


Books = Mapping[str, DayBook]
"""What a business day comes to, by currency. A currency that comes to nothing is left out."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A run of an outbox's numbers, both ends included."""

    epoch: int
    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    def covers(self, other: "Span") -> bool:
        """Whether all of the other's numbers are among these."""
        return self.epoch == other.epoch and self.first <= other.first and other.last <= self.last


@dataclass(frozen=True, slots=True)
class Counted:
    """How far this outbox has counted at one moment."""

    outboxes: tuple[tuple[int, int], ...]
    """(epoch, last number) of every epoch that is this device's, the present one last."""
    last_id: int
    pruned: dict[str, Books]
    """Business day to what its pruned events came to."""


@dataclass(frozen=True, slots=True)
class Booked:
    """An event that is kept, as far as books are concerned."""

    id: int
    epoch: int
    sequence: int
    state: str
    business_day: str
    books: Books
    reason: str
    field: str

    @property
    def number(self) -> tuple[int, int]:
        return self.epoch, self.sequence


@dataclass(frozen=True, slots=True)
class Numbered:
    """A number whose event is kept, and where it stands."""

    sequence: int
    state: str
    digest: int


def of_event(event: Event, digest: bytes) -> Books:
    """What one event comes to: it counts once in each currency that it names."""
    amounts: dict[str, int] = {}
    for amount in event.amounts:
        amounts[amount.currency] = amounts.get(amount.currency, 0) + amount.minor_units
    number = int.from_bytes(digest)
    return {
        currency: DayBook(1, minor_units, number)
        for currency, minor_units in (amounts or {NO_CURRENCY: 0}).items()
    }


def total(parts: Iterable[Books]) -> Books:
    """All parts together."""
    sums: dict[str, DayBook] = {}
    for part in parts:
        for currency, book in part.items():
            sums[currency] = sums[currency] + book if currency in sums else book
    return {currency: book for currency, book in sums.items() if book != DayBook()}


def less(books: Books, part: Books) -> Books:
    """`books` without `part`."""
    return total([books, {currency: -book for currency, book in part.items()}])


def money_of(envelopes: Iterable[bytes]) -> dict[str, int]:
    """The money in these serialized Events: currency to minor units."""
    money: dict[str, int] = {}
    for envelope in envelopes:
        for amount in Event.FromString(envelope).amounts:
            money[amount.currency] = money.get(amount.currency, 0) + amount.minor_units
    return money
