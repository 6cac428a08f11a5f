"""The outbox's side of reconciliation: which numbers it gave out, what its business days come to,
and giving back what the service lost.

Long work is done in short transactions: between two of them a sale can be recorded.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from google.protobuf.message import DecodeError

from tillsync.v1.event_pb2 import Event
from tillsync_agent import daybooks
from tillsync_agent import statements as sql
from tillsync_agent.daybooks import DIGEST_BYTES, Booked, Books, Counted, DayBook, Numbered, Span
from tillsync_agent.outboxfile import OutboxFile
from tillsync_agent.storage import Cursor


class OutboxBooks:
    """The books of one outbox."""

    def __init__(self, file: OutboxFile) -> None:
        self._file = file

    def counted(self) -> Counted:
        return self._file.run(_counted, begin="BEGIN")

    def page(self, after: int, until: int) -> list[Booked]:
        """The next events with ids after `after`, up to `until`; empty at the end."""
        work = partial(_booked, sql.BOOKS_PAGE, (after, until, sql.CHUNK_ROWS))
        return self._file.run(work, begin="BEGIN")

    def events_at(self, numbers: Sequence[tuple[int, int]]) -> list[Booked]:
        """The events that are kept of these (epoch, number)."""
        found: list[Booked] = []
        for number in numbers:
            found += self._file.run(partial(_booked, sql.BOOKS_AT, number), begin="BEGIN")
        return found

    def numbers(self, span: Span) -> list[Numbered]:
        """The numbers of the span whose events are kept, ascending."""
        found: list[Numbered] = []
        first = span.first
        while page := self._file.run(
            partial(_numbered, (span.epoch, first, span.last, sql.CHUNK_ROWS)), begin="BEGIN"
        ):
            found += page
            first = page[-1].sequence + 1
        return found

    def offer_again(self, epoch: int, first: int, last: int) -> int:
        """Lets the accepted and duplicate events of these numbers wait again, as they are: same
        key, same number, same bytes. Says how many. Refused ones stay what they are.
        """
        offered = 0
        while first <= last:
            work = partial(_offer_chunk, (epoch, first, last, sql.CHUNK_ROWS))
            count, reached = self._file.run(work, reserve=True)
            if not count:
                break
            offered += count
            first = reached + 1
        return offered

    def offer_everything_again(self) -> int:
        """The same with every number that this device has counted."""
        return sum(self.offer_again(epoch, 1, last) for epoch, last in self.counted().outboxes)


def start_epoch(epoch: int, another_device: bool, cursor: Cursor) -> None:  # noqa: FBT001 - for partial
    """Numbers what is recorded from now on as another outbox. The present one's numbers stay
    claimed, unless the device is another one: then what is settled stays that one's."""
    cursor.execute(sql.KEEP_EPOCH)
    if another_device:
        cursor.execute(sql.KEEP_OTHER_EPOCHS)
        cursor.execute("UPDATE tillsync_epoch SET former = 1")
        cursor.execute(sql.KEEP_FORMER)
        cursor.execute("DELETE FROM tillsync_pruned")
    cursor.execute("UPDATE tillsync_counter SET epoch = ?, last_sequence = 0", (epoch,))


def prune_chunk(oldest_ms: int, excess_bytes: int, cursor: Cursor) -> tuple[int, int]:
    """How many rows were deleted, and their bytes. What they came to is remembered."""
    ids, freed_bytes = [], 0
    for row_id, settled_at, size in cursor.execute(sql.OLDEST_SETTLED, (sql.CHUNK_ROWS,)):
        if settled_at >= oldest_ms and freed_bytes >= excess_bytes:
            break
        ids.append((row_id,))
        freed_bytes += size
    _remember(cursor, [event for one in ids for event in _booked(sql.BOOKS_OF, one, cursor)])
    cursor.executemany(sql.DELETE, ids)
    cursor.executemany("DELETE FROM tillsync_former WHERE id = ?", ids)
    return len(ids), freed_bytes


def _remember(cursor: Cursor, events: Iterable[Booked]) -> None:
    days: dict[str, list[Books]] = {}
    for event in events:
        days.setdefault(event.business_day, []).append(event.books)
    known = _pruned(cursor)
    cursor.executemany(
        "REPLACE INTO tillsync_pruned VALUES (?, ?, ?, ?, ?)",
        [
            (
                day,
                currency,
                book.event_count,
                str(book.amount_minor),
                book.digest_sum.to_bytes(DIGEST_BYTES),
            )
            for day, parts in days.items()
            for currency, book in daybooks.total([*parts, known.get(day, {})]).items()
        ],
    )


def _pruned(cursor: Cursor) -> dict[str, Books]:
    days: dict[str, dict[str, DayBook]] = {}
    for day, currency, count, amount, digest in cursor.execute("SELECT * FROM tillsync_pruned"):
        days.setdefault(day, {})[currency] = DayBook(count, int(amount), int.from_bytes(digest))
    return {**days}


def _counted(cursor: Cursor) -> Counted:
    last_id, epoch, last_sequence, _ = cursor.execute(sql.COUNTER).fetchone()
    others = [tuple(row) for row in cursor.execute(sql.OTHER_EPOCHS, (epoch,))]
    return Counted((*others, (epoch, last_sequence)), last_id, _pruned(cursor))


def _booked(query: str, values: tuple[int, ...], cursor: Cursor) -> list[Booked]:
    return [
        Booked(
            row_id,
            epoch,
            sequence,
            state,
            event.business_day,
            daybooks.of_event(event, digest),
            reason or "",
            field or "",
        )
        for row_id, epoch, sequence, state, reason, field, digest, stored in cursor.execute(
            query, values
        )
        for event in _readable(stored)
    ]


def _readable(stored: bytes) -> list[Event]:
    # A bit that fell over on a bad disk makes a day differ, which is then said; it stops nothing.
    try:
        return [Event.FromString(stored)]
    except DecodeError:
        return []


def _numbered(span: tuple[int, int, int, int], cursor: Cursor) -> list[Numbered]:
    return [
        Numbered(sequence, state, int.from_bytes(digest))
        for sequence, state, digest in cursor.execute(sql.NUMBERS, span)
    ]


def _offer_chunk(span: tuple[int, int, int, int], cursor: Cursor) -> tuple[int, int]:
    rows = cursor.execute(sql.OFFERABLE, span).fetchall()
    cursor.executemany(sql.OFFER_AGAIN, [(row_id,) for row_id, _ in rows])
    return len(rows), rows[-1][1] if rows else 0
