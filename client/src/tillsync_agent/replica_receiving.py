"""What a PullResponse does to the replica: stage, and at a checkpoint apply all of it at once.

Everything here runs inside one SQLite transaction per response, or for some of them together, with
the cursor in it: a crash leaves all of a response or nothing of it.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any

from tillsync.v1 import sync_service_pb2 as pb
from tillsync.v1.record_pb2 import Collection, RecordBlock
from tillsync_agent.replica_edits import note_held
from tillsync_agent.storage import Cursor

_MODULUS = 2**128
_HASH_BYTES = 16

# A statement for many rows takes two thirds of the time of as many statements. SQLite 3.24 takes
# 999 values in one.
_ROWS = 200
_FILL = "INSERT INTO record (part_id, record_id, version, body) VALUES (?, ?, ?, ?)"
_FILL_MANY = _FILL + ", (?, ?, ?, ?)" * (_ROWS - 1)

# By what the records of a part are found under one name: the texts and whole numbers, of one value
# or in a list, but no members of an object, which alone have texts for keys. A number beyond 64
# bits is a REAL here, and not found.
_KEYS = (
    "SELECT record.part_id, :name, item.atom, record.record_id"
    " FROM record CROSS JOIN json_each(record.body, :path) AS item"
    " WHERE record.part_id = :part AND item.type IN ('text', 'integer')"
    " AND typeof(item.atom) <> 'real' AND item.atom <> '' AND typeof(item.key) <> 'text'"
)
# In their order: each page of the index is written once.
_INDEX = "INSERT OR IGNORE INTO record_key (part_id, name, value, record_id) {} ORDER BY 3, 4"
_INDEX_ALL = _INDEX.format(_KEYS)
_STAGED = "(SELECT record_id FROM staged WHERE part_id = :part)"
_KEYS_STAGED = f"{_KEYS} AND record.record_id IN {_STAGED}"
_INDEX_STAGED = _INDEX.format(_KEYS_STAGED)
_UNINDEX = "DELETE FROM record_key WHERE part_id = ? AND name = ? AND value = ? AND record_id = ?"
_DROP_STAGED = f"DELETE FROM record WHERE part_id = :part AND record_id IN {_STAGED}"  # noqa: S608 -- our own words
_TAKE_STAGED = (
    "INSERT INTO record SELECT part_id, record_id, version, body FROM staged"
    " WHERE part_id = :part AND body IS NOT NULL"
)


@dataclass(frozen=True, slots=True)
class Applied:
    """A checkpoint that is visible now. `mismatched`: collections that are not what the service
    says they are."""

    version: int
    mismatched: list[str]


@dataclass(frozen=True, slots=True)
class Received:
    """What a response came to."""

    applied: Applied | None = None


@dataclass(slots=True)
class _Part:
    part_id: int
    record_count: int
    digest: int
    keys: list[str]


def record_hash(record_id: str, body: str) -> int:
    """What a record adds to its part's digest."""
    digest = hashlib.sha256(f"{record_id}\0{body}".encode()).digest()
    return int.from_bytes(digest[:_HASH_BYTES], "big")


def _keys_of(part: _Part) -> list[dict[str, object]]:
    """What _KEYS needs, for each lookup key; one that a path cannot name is none."""
    return [
        {"part": part.part_id, "name": name, "path": f'$."{name}"'}
        for name in part.keys
        if not {'"', "\\"} & set(name)
    ]


def receive(message: pb.PullResponse, cursor: Cursor) -> Received:
    """Does all of a response."""
    receiving = _Receiving(cursor)
    if message.HasField("load_begun"):
        receiving.begin(message.load_begun)
    for block in message.blocks:
        receiving.stage(block)
    if message.cursor:
        cursor.execute("UPDATE place SET staged_cursor = ?", (message.cursor,))
    applied = None
    if message.HasField("checkpoint"):
        applied = receiving.apply(message.checkpoint, message.cursor)
    receiving.write_totals()
    return Received(applied)


def forget_staged(cursor: Cursor) -> None:
    """What came after the last checkpoint goes: half of a load must not be taken for a whole one
    by the checkpoint of another."""
    cursor.execute("DELETE FROM staged")
    cursor.execute("UPDATE part SET state = 'dropped' WHERE state = 'loading'")
    cursor.execute("UPDATE place SET staged_cursor = x'', everything = 0")


@dataclass(slots=True)
class _Receiving:
    cursor: Cursor
    parts: dict[int, _Part] = field(default_factory=dict)

    def begin(self, load: pb.LoadBegun) -> None:
        """Parts that are sent whole are filled beside what is visible."""
        self._define(load.collections)
        if load.everything:
            self.cursor.execute("DELETE FROM staged")
            self.cursor.execute("UPDATE part SET state = 'dropped' WHERE state = 'loading'")
            self.cursor.execute("UPDATE place SET everything = 1, loads = loads + 1")
        for part in load.parts:
            if (begun := self._find(part.collection, part.store_id, "loading")) is not None:
                self.cursor.execute(
                    "UPDATE part SET state = 'dropped' WHERE part_id = ?", (begun.part_id,)
                )
            if (visible := self._find(part.collection, part.store_id, "visible")) is not None:
                self.cursor.execute("DELETE FROM staged WHERE part_id = ?", (visible.part_id,))
            self._create(part.collection, part.store_id)

    def stage(self, block: RecordBlock) -> None:
        ids, bodies = list(block.record_ids), list(block.bodies)
        versions = list(block.versions)
        loading = self._find(block.collection, block.store_id, "loading")
        if loading is None:
            (everything,) = self.cursor.execute("SELECT everything FROM place").fetchone()
            visible = self._find(block.collection, block.store_id, "visible")
            if visible is not None and not everything:
                self.cursor.executemany(
                    "INSERT OR REPLACE INTO staged (part_id, record_id, version, body)"
                    " VALUES (?, ?, ?, nullif(?, ''))",
                    zip([visible.part_id] * len(ids), ids, versions, bodies, strict=True),
                )
                return
            loading = self._create(block.collection, block.store_id)
        if self._follows(loading, ids) and all(bodies):
            self._fill(loading, ids, versions, bodies)
        else:
            for row in zip(ids, versions, bodies, strict=True):
                self._put(loading, *row)

    def apply(self, checkpoint: pb.Checkpoint, pull_cursor: bytes) -> Applied:
        """Makes everything that was staged visible."""
        for (part_id,) in self.cursor.execute("SELECT DISTINCT part_id FROM staged").fetchall():
            self._take_staged(self._part(part_id))
        self.cursor.execute("DELETE FROM staged")
        loaded = self.cursor.execute("SELECT part_id FROM part WHERE state = 'loading'")
        for (part_id,) in loaded.fetchall():
            self._index(self._part(part_id))
        self._flip(checkpoint.store_id)
        self._define(checkpoint.collections)
        self._move_mark(checkpoint)
        now_ms = time.time_ns() // 1_000_000
        note_held(now_ms, self.cursor)
        self.cursor.execute(
            "UPDATE place SET cursor = ?, staged_cursor = x'', everything = 0, version = ?,"
            " history_id = ?, store_id = ?, checkpoint_at = ?",
            (
                pull_cursor,
                checkpoint.version,
                checkpoint.history_id,
                checkpoint.store_id,
                now_ms,
            ),
        )
        self.write_totals()
        mismatched = self._mismatched(checkpoint)
        if mismatched:
            self.cursor.execute("UPDATE place SET heals = heals + ?", (len(mismatched),))
        return Applied(checkpoint.version, mismatched)

    def write_totals(self) -> None:
        """The counts and digests of the parts that changed."""
        self.cursor.executemany(
            "UPDATE part SET record_count = ?, digest = ? WHERE part_id = ?",
            [
                (part.record_count, part.digest.to_bytes(_HASH_BYTES, "big"), part.part_id)
                for part in self.parts.values()
            ],
        )

    def _fill(self, part: _Part, ids: list[str], versions: list[int], bodies: list[str]) -> None:
        """A page of a load: records that the part has none of yet. Their keys come with the
        checkpoint, all together."""
        rows = list(zip([part.part_id] * len(ids), ids, versions, bodies, strict=True))
        whole = len(rows) - len(rows) % _ROWS
        for start in range(0, whole, _ROWS):
            values = list(chain.from_iterable(rows[start : start + _ROWS]))
            self.cursor.execute(_FILL_MANY, values)
        self.cursor.executemany(_FILL, rows[whole:])
        part.record_count += len(ids)
        part.digest = (part.digest + sum(map(record_hash, ids, bodies))) % _MODULUS

    def _put(self, part: _Part, record_id: str, version: int, body: str) -> None:
        """One record of a load, whatever was there; an empty body deletes it."""
        at = (part.part_id, record_id)
        before = self.cursor.execute(
            "SELECT body FROM record WHERE part_id = ? AND record_id = ?", at
        ).fetchone()
        if before:
            part.record_count -= 1
            part.digest = (part.digest - record_hash(record_id, before[0])) % _MODULUS
            self.cursor.execute("DELETE FROM record WHERE part_id = ? AND record_id = ?", at)
        if body:
            self._fill(part, [record_id], [version], [body])

    def _take_staged(self, part: _Part) -> None:
        """Changes to a visible part take the place of what was there."""
        at = {"part": part.part_id}
        changes = self._beside(
            "SELECT record_id, staged.body, record.body FROM staged LEFT JOIN record"
            " USING (part_id, record_id) WHERE part_id = :part",
            at,
        )
        for record_id, body, before in changes:
            for text, sign in ((before, -1), (body, 1)):
                if text is not None:
                    part.record_count += sign
                    part.digest = (part.digest + sign * record_hash(record_id, text)) % _MODULUS
        for key in _keys_of(part):
            self.cursor.executemany(_UNINDEX, self._beside(_KEYS_STAGED, key))
        self.cursor.execute(_DROP_STAGED, at)
        self.cursor.execute(_TAKE_STAGED, at)
        for key in _keys_of(part):
            self.cursor.execute(_INDEX_STAGED, key)

    def _beside(self, query: str, values: Mapping[str, object]) -> Cursor:
        """The rows of a query, read while the cursor does other things."""
        return self.cursor.connection.execute(query, values)

    def _index(self, part: _Part) -> None:
        for key in _keys_of(part):
            self.cursor.execute(_INDEX_ALL, key)

    def _follows(self, part: _Part, ids: list[str]) -> bool:
        """Whether these ids ascend, and come after all that the part has."""
        if any(a >= b for a, b in pairwise(ids)):
            return False
        there = self.cursor.execute(
            "SELECT 1 FROM record WHERE part_id = ? AND record_id >= ? LIMIT 1",
            (part.part_id, ids[0] if ids else ""),
        )
        return there.fetchone() is None

    def _flip(self, store_id: str) -> None:
        """Loaded parts take the place of the old ones; a store that the device left is gone."""
        self.cursor.execute(
            "UPDATE part SET state = 'dropped' WHERE state = 'visible' AND"
            " ((SELECT everything FROM place) OR EXISTS (SELECT 1 FROM part AS loaded"
            " WHERE loaded.state = 'loading' AND loaded.collection = part.collection"
            " AND loaded.store_id = part.store_id))"
        )
        self.cursor.execute("UPDATE part SET state = 'visible' WHERE state = 'loading'")
        self.cursor.execute(
            "UPDATE part SET state = 'dropped' WHERE state = 'visible' AND store_id NOT IN ('', ?)",
            (store_id,),
        )

    def _move_mark(self, checkpoint: pb.Checkpoint) -> None:
        """How far this device's edits are in the copy. What was never on its way cannot be in it:
        such a number was used by somebody else (a cloned disk), and the push will find out. A
        service that was restored may say less than before: then they are shown, and pushed, again.
        """
        epoch, everything = self.cursor.execute("SELECT epoch, everything FROM place").fetchone()
        marks = {mark.epoch: mark.sequence for mark in checkpoint.marks}
        if epoch in marks or checkpoint.complete:
            self.cursor.execute("UPDATE place SET mark = min(?, pushed)", (marks.get(epoch, 0),))
        if everything:
            self.cursor.execute("UPDATE place SET answered = min(answered, mark)")

    def _mismatched(self, checkpoint: pb.Checkpoint) -> list[str]:
        held = {
            (collection, store_id): (count, digest)
            for collection, store_id, count, digest in self.cursor.execute(
                "SELECT collection, store_id, record_count, digest FROM part"
                " WHERE state = 'visible' AND record_count > 0"
            )
        }
        said = {
            (part.collection, part.store_id): (part.record_count, part.digest)
            for part in checkpoint.digests
        }
        parts = set(said) | set(held) if checkpoint.complete else set(said)
        nothing = (0, bytes(_HASH_BYTES))
        return sorted(
            {part[0] for part in parts if held.get(part, nothing) != said.get(part, nothing)}
        )

    def _define(self, collections: Iterable[Collection]) -> None:
        for each in collections:
            keys = json.dumps(list(each.lookup_keys))
            known = self.cursor.execute(
                "SELECT lookup_keys FROM collection WHERE name = ?", (each.name,)
            ).fetchone()
            self.cursor.execute(
                "INSERT OR REPLACE INTO collection (name, policy, lookup_keys) VALUES (?, ?, ?)",
                (each.name, each.policy, keys),
            )
            if known is None or known[0] != keys:
                self._index_anew(each.name, list(each.lookup_keys))

    def _index_anew(self, collection: str, keys: list[str]) -> None:
        rows = self.cursor.execute(
            "SELECT part_id, state FROM part WHERE collection = ? AND state <> 'dropped'",
            (collection,),
        ).fetchall()
        for part_id, state in rows:
            part = self._part(part_id)
            part.keys = keys
            self.cursor.execute("DELETE FROM record_key WHERE part_id = ?", (part_id,))
            if state == "visible":  # the others are indexed when they are
                self._index(part)

    def _find(self, collection: str, store_id: str, state: str) -> _Part | None:
        row = self.cursor.execute(
            "SELECT part_id FROM part WHERE collection = ? AND store_id = ? AND state = ?",
            (collection, store_id, state),
        ).fetchone()
        return self._part(row[0]) if row else None

    def _create(self, collection: str, store_id: str) -> _Part:
        self.cursor.execute(
            "INSERT INTO part (collection, store_id, state) VALUES (?, ?, 'loading')",
            (collection, store_id),
        )
        return self._part(self.cursor.lastrowid)

    def _part(self, part_id: Any) -> _Part:
        if part_id not in self.parts:
            count, digest, keys = self.cursor.execute(
                "SELECT record_count, digest,"
                " (SELECT lookup_keys FROM collection WHERE name = part.collection)"
                " FROM part WHERE part_id = ?",
                (part_id,),
            ).fetchone()
            self.parts[part_id] = _Part(
                part_id, count, int.from_bytes(digest, "big"), json.loads(keys or "[]")
            )
        return self.parts[part_id]
