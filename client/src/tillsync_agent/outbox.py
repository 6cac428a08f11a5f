"""The outbox: where a sale is safe from the moment `record()` returns until the service has it.

Many programs may record into one outbox; one agent sends from it: take → send → settle. A row is
deleted by `prune()` only, and only after the service has acknowledged it.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tillsync.v1.event_pb2 import Event
from tillsync_agent import books, envelope, filelock, tracing
from tillsync_agent import statements as sql
from tillsync_agent.daybooks import money_of
from tillsync_agent.entries import OUTCOMES, DeadLetter, Receipt, Settlement, Summary, Waiting
from tillsync_agent.errors import JoinRefused, OutboxInUse, OutboxUnavailable
from tillsync_agent.files import default_path
from tillsync_agent.ids import mint_epoch, mint_key
from tillsync_agent.outboxfile import OutboxFile
from tillsync_agent.storage import Connection, Cursor, check_durable, main_path, readable_rows

BALLAST_BYTES = 8 << 20
BUSY_TIMEOUT_SECONDS = 10.0
MAX_TAKE_EVENTS = 500
MAX_TAKE_BYTES = 1_000_000
# Nothing is held for longer. It also bounds what a clock that was set back can do: a time further
# away than this was not meant, and counts as over.
MAX_HOLD_SECONDS = 3600
KEEP_SETTLED_SECONDS = 14 * 24 * 3600
MAX_SETTLED_BYTES = 256 << 20

__all__ = [
    "OUTCOMES",
    "DeadLetter",
    "Outbox",
    "Receipt",
    "Settlement",
    "Summary",
    "Waiting",
]

_log = logging.getLogger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


class Outbox:
    """Use `Outbox.open()` or `Outbox.join()`. Threads may share one; so may any number of
    processes, each with its own.
    """

    def __init__(self, file: OutboxFile, clock: Callable[[], datetime]) -> None:
        self._file = file
        self._clock = clock

    @classmethod
    def open(
        cls,
        path: Path | str | None = None,
        *,
        clock: Callable[[], datetime] = _now,
        ballast_bytes: int = BALLAST_BYTES,
        busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    ) -> Self:
        """Opens or creates an outbox in a file of its own (default: `default_path()`).

        A torn or foreign outbox is set aside, which the log says, and a new one begun. Raises
        OutboxUnavailable where that cannot be or never was one, OutboxTooNew for a later release's.
        """
        path = Path(path) if path else default_path()
        return cls(OutboxFile(path, busy_timeout_seconds, ballast_bytes=ballast_bytes), clock)

    @classmethod
    def join(
        cls,
        database: Connection | Path | str,
        *,
        clock: Callable[[], datetime] = _now,
        busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
    ) -> Self:
        """Puts the outbox into the point of sale's own SQLite file, so that a sale and its event
        are committed or rolled back together: `record(..., connection=...)`.

        Adds tables named tillsync_*, and leaves the file's settings alone. Raises JoinRefused
        where the connection would not make a commit durable.
        """
        if isinstance(database, Connection):
            if database.in_transaction:
                raise JoinRefused("join before the transaction begins: tables are to be made")
            check_durable(database)
            database = main_path(database)
        if not Path(database).exists():
            raise JoinRefused(f"{database} does not exist; the point of sale creates its own file")
        path = Path(database)
        return cls(OutboxFile(path, busy_timeout_seconds, joined=True), clock)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def path(self) -> Path:
        return self._file.path

    # --- the point of sale's side ---------------------------------------------------------------

    def record(
        self,
        body: envelope.Body,
        *,
        business_day: date | str | None = None,
        amounts: Mapping[str, int] | None = None,
        key: str | None = None,
        occurred_at: datetime | None = None,
        traceparent: str = "",
        connection: Connection | None = None,
    ) -> Receipt:
        """Records an event; it is on the disk when this returns.

        The same key and body again gives the first receipt again. With `connection` the event is
        part of the transaction open there: it is on the disk when that commits, and gone without
        a trace when it rolls back. Raises EventNotRecordable, or OutboxUnavailable: then nothing
        was recorded.
        """
        with tracing.recording(traceparent) as kept_traceparent:
            event = envelope.build(
                key=mint_key() if key is None else key,
                body=body,
                occurred_at=self._clock() if occurred_at is None else occurred_at,
                business_day=business_day,
                amounts=amounts,
                traceparent=kept_traceparent,
            )
            work = partial(self._append, event)
            if connection is not None:
                return self._file.run_within(connection, work)
            return self._file.run(work)

    def record_event(self, event: Event) -> Receipt:
        """Records an event that another program built, under its own key and our numbers."""
        ours = Event()
        ours.CopyFrom(event)
        envelope.check(ours)
        return self._file.run(partial(self._append, ours))

    def _append(self, event: Event, cursor: Cursor) -> Receipt:
        digest = envelope.digest(event.body.type_url, event.body.value)
        known = cursor.execute(sql.FIND, (event.key, digest)).fetchone()
        if known:
            return Receipt(event.key, *known)
        cursor.execute(sql.COUNT_ON)
        row_id, epoch, sequence, offset_ms = cursor.execute(sql.COUNTER).fetchone()
        stored = envelope.number(event, epoch=epoch, sequence=sequence, clock_offset_ms=offset_ms)
        now = _ms(self._clock())
        cursor.execute(
            sql.INSERT, (row_id, epoch, sequence, event.key, digest, now, len(stored), stored)
        )
        return Receipt(event.key, epoch, sequence)

    # --- the agent's side -----------------------------------------------------------------------

    @contextlib.contextmanager
    def agent_lock(self) -> Iterator[None]:
        """For the life of the one agent; raises OutboxInUse for a second. The operating system
        lets go of it when the agent dies.
        """
        path = self.path.with_name(self.path.name + ".agent-lock")
        with filelock.held(path) as ours:
            if not ours:
                raise OutboxInUse(self.path, filelock.holder(path))
            yield

    def take(
        self,
        max_events: int = MAX_TAKE_EVENTS,
        max_bytes: int = MAX_TAKE_BYTES,
        now: datetime | None = None,
        *,
        after: int = 0,
    ) -> list[Waiting]:
        """The oldest waiting events after the id `after`, without those held until later.

        At least one, however large, if any waits. Nothing is marked and nothing stays open: what
        is not settled is taken again.
        """
        now_ms = _ms(now or self._clock())
        span = (after, now_ms, now_ms + MAX_HOLD_SECONDS * 1000, max_events)
        return self._file.run(partial(sql.take, span, max_bytes), begin="BEGIN")

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Marks events with the service's verdicts, all in one transaction.

        Nothing is deleted: accepted and duplicate events stay until they are pruned, conflict and
        rejected ones for good. A second verdict on an event changes nothing.
        """
        now_ms = _ms(self._clock())
        for settlement in settlements:
            if settlement.outcome not in OUTCOMES:
                raise ValueError(f"{settlement.outcome!r} is no verdict of the service")
        rows = [
            (s.outcome, now_ms, s.position, s.history_id, s.reason, s.field, s.description, s.id)
            for s in settlements
        ]
        self._change(sql.SETTLE, rows)

    def hold(self, ids: Iterable[int], until: datetime, error: str) -> None:
        """Lets these events wait by themselves until then, at most MAX_HOLD_SECONDS."""
        latest = self._clock() + timedelta(seconds=MAX_HOLD_SECONDS)
        retry_at = _ms(min(until, latest))
        self._change(sql.HOLD, [(retry_at, error, row_id) for row_id in ids])

    @property
    def epoch(self) -> int:
        """Under which number this outbox counts now."""
        epoch: int = self._read(sql.COUNTER)[0][1]
        return epoch

    @property
    def last_id(self) -> int:
        """The id of the newest event."""
        return int(self._read(sql.COUNTER)[0][0])

    def start_new_epoch(self, *, another_device: bool = False) -> int:
        """Numbers what is recorded from now on as another outbox: this one was cloned, or belongs
        to another device now."""
        epoch = mint_epoch()
        self._file.run(partial(books.start_epoch, epoch, another_device), reserve=True)
        return epoch

    @property
    def books(self) -> books.OutboxBooks:
        """What reconciliation asks this outbox."""
        return books.OutboxBooks(self._file)

    @property
    def clock_offset_ms(self) -> int | None:
        """Service clock minus device clock, stamped on what is recorded from now on."""
        offset: int | None = self._read(sql.COUNTER)[0][3]
        return offset

    def set_clock_offset(self, offset_ms: int) -> None:
        self._change("UPDATE tillsync_counter SET clock_offset_ms = ?", [(offset_ms,)])

    def note(self, name: str, value: str) -> None:
        """Remembers something for `status`."""
        self._change("REPLACE INTO tillsync_note (name, value) VALUES (?, ?)", [(name, value)])

    def notes(self) -> dict[str, str]:
        return dict(
            self._read("SELECT name, value FROM tillsync_note WHERE name <> 'schema_version'")
        )

    def prune(
        self,
        keep_settled_seconds: float = KEEP_SETTLED_SECONDS,
        max_settled_bytes: int = MAX_SETTLED_BYTES,
    ) -> int:
        """Deletes accepted and duplicate events that are too old or too many, oldest first; says
        how many. The only code that deletes.
        """
        oldest_ms = _ms(self._clock()) - int(keep_settled_seconds * 1000)
        excess_bytes = self._read(sql.SETTLED)[0][1] - max_settled_bytes
        pruned = 0
        while True:
            work = partial(books.prune_chunk, oldest_ms, excess_bytes)
            count, freed_bytes = self._file.run(work, reserve=True)
            if not count:
                return pruned
            pruned += count
            excess_bytes -= freed_bytes

    def checkpoint(self) -> None:
        """Moves the log into the database, so that it does not grow, and restores the ballast.

        PASSIVE: it waits for nobody and nobody waits for it. A joined file is left to its owner.
        """
        if not self._file.joined:
            self._file.checkpoint()
        self._file.ballast.fill()

    @property
    def set_aside(self) -> list[Path]:
        """The files that were unusable and lie beside, oldest first."""
        return self._file.set_aside_files()

    @property
    def disk_is_full(self) -> bool:
        """Whether the ballast had to be released, and there is no room yet to restore it."""
        return self._file.ballast.is_released()

    def mend(self) -> int:
        """Reads every page, sets a torn file aside, and brings what still waited in a file that
        was set aside back, under its old numbers. Says how many came back.

        About a second for 100 MB: for the agent, at its start and now and then.
        """
        if self._file.joined:
            return 0
        self._file.replace_if_torn()
        done = self.notes()
        return sum(
            self._bring_back(aside)
            for aside in self.set_aside
            if sql.NOTE_BROUGHT_BACK + aside.name not in done
        )

    def _bring_back(self, aside: Path) -> int:
        rows = readable_rows(aside, sql.RESCUE_IDS, sql.RESCUE)
        count = 0
        try:
            while chunk := list(islice(rows, sql.CHUNK_ROWS)):
                count += self._file.run(partial(sql.rescue, chunk))
        except OutboxUnavailable as error:
            _log.warning("%s waits to be brought back: %s", aside, error)
            return count  # not noted, so that the next start tries again
        self.note(sql.NOTE_BROUGHT_BACK + aside.name, str(count))
        _log.warning("brought %d waiting events back from %s", count, aside)
        return count

    # --- what people ask ------------------------------------------------------------------------

    def summary(self) -> Summary:
        waiting, waiting_bytes, oldest_id, held = self._read(sql.WAITING)[0]
        settled, _, last_settled_at = self._read(sql.SETTLED)[0]
        _, epoch, last_sequence, _ = self._read(sql.COUNTER)[0]
        recorded = self._read("SELECT recorded_at FROM tillsync_event WHERE id = ?", oldest_id)
        error = self._read(sql.HELD_ERROR) if held else []
        return Summary(
            waiting=waiting,
            waiting_bytes=waiting_bytes,
            oldest_waiting_at=_when(recorded[0][0]) if recorded else None,
            held=held,
            held_error=error[0][0] if error else "",
            settled=settled,
            dead_letters=self._read(sql.DEAD)[0][0],
            epoch=epoch,
            last_sequence=last_sequence,
            last_settled_at=_when(last_settled_at),
            money_waiting=money_of(self.waiting_envelopes()),
        )

    def backlog(self) -> tuple[int, int]:
        """How many events wait, and how many of these are held; cheap, unlike `summary`."""
        waiting, _, _, held = self._read(sql.WAITING)[0]
        return waiting, held

    def waiting_envelopes(self) -> Iterator[bytes]:
        """Every waiting event, oldest first, held ones too; in pages, so that nobody waits."""
        after = 0
        while page := self._file.run(
            partial(sql.take, (after, 2**62, 2**62, MAX_TAKE_EVENTS), MAX_TAKE_BYTES),
            begin="BEGIN",
        ):
            yield from (row.envelope for row in page)
            after = page[-1].id

    def dead_letters(self) -> Iterator[DeadLetter]:
        """Every event that the service refused, oldest first."""
        after = 0
        while rows := self._read(sql.DEAD_LETTERS, after):
            letter = DeadLetter(*rows[0])
            after = letter.id
            yield letter

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._file.run(lambda it: it.execute(query, values).fetchall(), begin="BEGIN")

    def _change(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        rows = list(rows)
        self._file.run(lambda cursor: cursor.executemany(statement, rows), reserve=True)


def _ms(when: datetime) -> int:
    return int(when.timestamp() * 1000)


def _when(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
