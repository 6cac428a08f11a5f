"""The replica: this device's copy of the records, and its own edits over it.

Point of sale programs read and edit, any number of them at once; one agent keeps the copy equal to
the service. A reader sees the state of one checkpoint, whole, under this device's own edits.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tillsync.v1 import sync_service_pb2 as pb
from tillsync_agent import overlay, replica_edits
from tillsync_agent.entries import ReplicaSummary
from tillsync_agent.errors import EditRefused, RecordMissing, ReplicaReplaced
from tillsync_agent.files import default_path
from tillsync_agent.ids import mint_epoch, mint_key
from tillsync_agent.outboxfile import OutboxFile
from tillsync_agent.overlay import ADD, DELETE, PATCH, PUT, Record
from tillsync_agent.replica_reading import (
    Scope,
    base_version,
    found,
    must_be_known,
    own_store,
    shown,
    store_of,
)
from tillsync_agent.replica_reading import page as read_page
from tillsync_agent.replica_receiving import (
    Applied,
    Received,
    forget_staged,
    receive,
)
from tillsync_agent.replica_upkeep import is_sound, prune_dropped
from tillsync_agent.storage import Connection, Cursor, Layout, readable_rows, steps

BUSY_TIMEOUT_SECONDS = 10.0
KEEP_EDITS_SECONDS = 14 * 86_400.0

__all__ = ["Applied", "Received", "Record", "Replica", "ReplicaSummary"]

_log = logging.getLogger(__name__)


def _first_rows(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO place (only, copy_id, epoch) VALUES (1, ?, ?)", (mint_epoch(), mint_epoch())
    )


REPLICA = Layout(
    noun="replica",
    file_name="replica.db",
    application_id=0x54_53_52_50,  # "TSRP"
    migrations=steps("replica.sql", "replica_2.sql"),
    first_rows=_first_rows,
    one_row_table="place",
    # Lookup keys come in no order: with less, a load writes the same pages again and again.
    cache_kib=8_000,
)


@dataclass(frozen=True, slots=True)
class LocalEdit:
    """An edit of this device. `outcome`: the contract's MutationOutcome; 0: not answered yet."""

    sequence: int
    collection: str
    store_id: str
    record_id: str
    kind: pb.MutationKind.ValueType
    base_version: int
    body: str
    made_at_ms: int
    outcome: pb.MutationOutcome.ValueType
    reason: str
    description: str
    shown: bool
    """Whether it is over the copy still."""


class Replica:
    """Use `Replica.open()`. Threads may share one; so may processes, each with its own."""

    def __init__(self, file: OutboxFile) -> None:
        self._file = file
        self._copy_id = 0

    @classmethod
    def open(
        cls, path: Path | str | None = None, *, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS
    ) -> Self:
        """Opens or creates a replica (default: `replica.db` beside the default outbox).

        A torn one is set aside, which the log says; its edits are brought over, and the copy is
        loaded anew. Raises OutboxUnavailable where it cannot be.
        """
        path = Path(path) if path else default_path().with_name("replica.db")
        replica = cls(OutboxFile(path, busy_timeout_seconds, layout=REPLICA))
        replica._bring_back()
        return replica

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

    # --- reading --------------------------------------------------------------------------------

    def lookup(self, collection: str, record_id: str) -> Record | None:
        """The record as it is shown here: the own store's, or else the tenant's."""
        return self._file.run(partial(shown, collection, record_id), begin="BEGIN")

    def find(self, collection: str, **key: str | int) -> list[Record]:
        """The records with this value of a lookup key, as in `find("product", barcode="40")`."""
        if len(key) != 1:
            raise EditRefused("key", "one lookup key, as in find('product', barcode='4006381')")
        ((name, value),) = key.items()
        return self._file.run(partial(found, collection, name, str(value)), begin="BEGIN")

    def scan(
        self, collection: str, *, prefix: str = "", start: str = "", stop: str | None = None
    ) -> Iterator[Record]:
        """The records by id: those that begin with `prefix`, from `start` on, before `stop`. Read
        in pages, so that nobody waits; each page is the state of one checkpoint."""
        after = max(prefix, start)
        page = self._file.run(partial(read_page, collection, after, after), begin="BEGIN")
        while page:
            for record_id, record in page:
                if not record_id.startswith(prefix) or (stop is not None and record_id >= stop):
                    return
                if record is not None:
                    yield record
            last = page[-1][0]
            page = self._file.run(partial(read_page, collection, last, ""), begin="BEGIN")

    def collections(self) -> dict[str, list[str]]:
        """The names of what was loaded here, by name, each with its lookup keys."""
        rows = self._read("SELECT name, lookup_keys FROM collection ORDER BY name")
        return {name: json.loads(keys) for name, keys in rows}

    # --- editing --------------------------------------------------------------------------------

    def put(
        self,
        collection: str,
        record_id: str,
        fields: Mapping[str, Any],
        *,
        scope: Scope = "shown",
    ) -> int:
        """The record is `fields` from now on. Durable when this returns, shown here at once, and
        on its way; gives the edit's number.

        `scope`: "tenant" for the whole tenant's record, "store" for the own store's, "shown" for
        the one that is shown here, and for a new one the own store's. Raises EditRefused,
        CollectionUnknown, RecordMissing (patch, delete) or OutboxUnavailable: then nothing was
        written.
        """
        return self._edit(PUT, collection, record_id, fields, scope)

    def patch(
        self,
        collection: str,
        record_id: str,
        fields: Mapping[str, Any],
        *,
        scope: Scope = "shown",
    ) -> int:
        """Replaces the fields that are named, takes away those that are None; as `put`."""
        return self._edit(PATCH, collection, record_id, fields, scope)

    def add(
        self,
        collection: str,
        record_id: str,
        deltas: Mapping[str, int],
        *,
        scope: Scope = "shown",
    ) -> int:
        """Adds whole numbers to fields, as stock moves: `add("stock", "4711", {"on_hand": -2})`.
        Adds of many tills add up, whatever their order; as `put`."""
        return self._edit(ADD, collection, record_id, deltas, scope)

    def delete(self, collection: str, record_id: str, *, scope: Scope = "shown") -> int:
        """The record goes; as `put`."""
        return self._edit(DELETE, collection, record_id, {}, scope)

    def edits(self) -> list[LocalEdit]:
        """The edits of this device that are kept, oldest first."""
        rows = self._read(
            "SELECT sequence, collection, store_id, record_id, kind, base_version, body, made_at,"
            " outcome, reason, description, epoch = (SELECT epoch FROM place)"
            " AND sequence > (SELECT mark FROM place) FROM edit ORDER BY made_at, sequence"
        )
        return [LocalEdit(*row) for row in rows]

    def _edit(
        self,
        kind: int,
        collection: str,
        record_id: str,
        fields: Mapping[str, Any],
        scope: Scope,
    ) -> int:
        overlay.checked_id(record_id)
        now_ms = time.time_ns() // 1_000_000

        def work(cursor: Cursor) -> int:
            must_be_known(cursor, collection)
            store_id = store_of(cursor, scope)
            present = shown(collection, record_id, cursor, store_id)
            if present is None and kind in {PATCH, DELETE}:
                raise RecordMissing(collection, record_id)
            if store_id is None:
                store_id = present.store_id if present else own_store(cursor)
            body = ""
            if kind != DELETE:
                body = overlay.body_of(kind, fields, present.fields if present else {})
            base = base_version(cursor, collection, record_id, store_id)
            row = (collection, store_id, record_id, kind, base, body, mint_key(), now_ms)
            return replica_edits.append(cursor, row)

        return self._file.run(work)

    # --- the agent's side -----------------------------------------------------------------------

    def receive(self, *messages: pb.PullResponse) -> Received:
        """Stages responses of the service, of which the last may bring a checkpoint and is applied
        then: all of them in one transaction. They follow a cursor that was asked for here: raises
        ReplicaReplaced when the copy that it was of is not there any more."""

        def work(cursor: Cursor) -> Received:
            if cursor.execute("SELECT copy_id FROM place").fetchone() != (self._copy_id,):
                raise ReplicaReplaced(f"{self.path} began anew: what comes does not fit it")
            return [receive(message, cursor) for message in messages][-1]

        return self._file.run(work)

    def resume_cursor(self) -> bytes:
        """From where a pull goes on, what was staged included."""
        return self._cursor("coalesce(nullif(staged_cursor, x''), cursor)")

    def checkpoint_cursor(self) -> bytes:
        """The cursor of the last checkpoint; what was staged since goes, for it comes again."""
        self._file.run(forget_staged)
        return self._cursor("cursor")

    def forget_cursor(self) -> None:
        """The next pull loads everything; until its checkpoint the copy is shown as it is."""
        self._change("UPDATE place SET cursor = x'', staged_cursor = x''")

    def edits_to_push(self, limit: int) -> tuple[int, list[pb.Mutation]]:
        """The epoch, and the oldest edits that the service has not answered; they count as on
        their way from now on."""
        return self._file.run(partial(replica_edits.to_push, limit))

    def edits_waiting(self) -> int:
        """How many edits the service has not answered."""
        return int(self._read("SELECT last_sequence - answered FROM place")[0][0])

    def answered(self, results: Sequence[pb.MutationResult], next_sequence: int) -> None:
        """The service's answer to a push. Takes no edit off the display: a checkpoint does."""
        self._file.run(partial(replica_edits.answered, results, next_sequence))

    def renumber(self) -> None:
        """The numbers of the waiting edits were used by somebody else (a cloned disk), or this is
        another device now."""
        self._file.run(replica_edits.renumber)

    def verify(self) -> list[str]:
        """Reads every record, and returns the collections that are not what was written: a disk
        that forgets. About a second for 300,000 records."""
        damaged = set()
        for part_id, collection in self._read(
            "SELECT part_id, collection FROM part WHERE state = 'visible'"
        ):
            if not self._file.run(partial(is_sound, part_id)):
                damaged.add(collection)
        return sorted(damaged)

    def prune(self, keep_seconds: float = KEEP_EDITS_SECONDS) -> int:
        """Forgets edits that a checkpoint has held for so long, and the rows of dropped parts; says
        how many."""
        held_before_ms = int((time.time() - keep_seconds) * 1000)
        pruned = self._file.run(partial(replica_edits.prune, held_before_ms))
        while chunk := self._file.run(prune_dropped):
            pruned += chunk
        return pruned

    def checkpoint(self) -> None:
        """Moves the log into the database, so that it does not grow."""
        self._file.checkpoint()

    def summary(self) -> ReplicaSummary:
        records = self._read(
            "SELECT collection, sum(record_count) FROM part WHERE state = 'visible'"
            " GROUP BY collection ORDER BY collection"
        )
        row = self._read(
            "SELECT version, checkpoint_at, staged_cursor <> x'', last_sequence - answered,"
            " last_sequence - mark,"
            " (SELECT count(*) FROM edit WHERE outcome = 3),"
            " (SELECT count(*) FROM edit WHERE outcome = 4),"
            " (SELECT count(*) FROM edit WHERE outcome = 5), loads, heals FROM place"
        )[0]
        version, checkpoint_at_ms, loading, waiting, over, lost, parked, rejected, loads, heals = (
            row
        )
        return ReplicaSummary(
            records=dict(records),
            version=version,
            checkpoint_at_ms=checkpoint_at_ms,
            loading=bool(loading),
            edits_waiting=waiting,
            edits_shown=over,
            edits_lost=lost,
            edits_parked=parked,
            edits_rejected=rejected,
            loads=loads,
            heals=heals,
            set_aside=[str(path) for path in self._file.set_aside_files()],
        )

    def _cursor(self, which: str) -> bytes:
        ((self._copy_id, cursor),) = self._read(f"SELECT copy_id, {which} FROM place")  # noqa: S608 -- our own words
        return bytes(cursor)

    def _bring_back(self) -> None:
        done = {name for (name,) in self._read("SELECT name FROM brought_back")}
        for aside in self._file.set_aside_files():
            if aside.name in done:
                continue
            rows = list(readable_rows(aside, replica_edits.RESCUE_IDS, replica_edits.RESCUE))

            def work(cursor: Cursor, name: str = aside.name, rows: Any = rows) -> int:
                cursor.execute("INSERT OR IGNORE INTO brought_back VALUES (?)", (name,))
                return replica_edits.rescue(rows, cursor) if cursor.rowcount else 0

            count = self._file.run(work)
            _log.warning("brought %d edits back from %s", count, aside)

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._file.run(lambda it: it.execute(query, values).fetchall(), begin="BEGIN")

    def _change(self, statement: str) -> None:
        self._file.run(lambda cursor: cursor.execute(statement))
