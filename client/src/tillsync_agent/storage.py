"""What SQLite is told and what it says: opening a file, its layout, transactions, errors.

An *own* file belongs to us and runs in WAL with synchronous=FULL. A *joined* file is the point of
sale's own database: no setting that is stored in it is ever changed.
"""

import contextlib
import enum
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeVar

from tillsync_agent.ballast import free_bytes
from tillsync_agent.errors import (
    JoinRefused,
    OutboxBusy,
    OutboxFull,
    OutboxTooNew,
    OutboxUnavailable,
)

T = TypeVar("T")
Connection = sqlite3.Connection
Cursor = sqlite3.Cursor
SqliteError = sqlite3.Error
Work = Callable[[Cursor], T]
Begin = Literal["BEGIN", "BEGIN IMMEDIATE"]


def steps(*names: str) -> tuple[str, ...]:
    """A layout's migrations: step n brings a file of version n to version n + 1, with everything in
    it. One that was released is never edited."""
    return tuple(
        files("tillsync_agent").joinpath(name).read_text(encoding="utf-8") for name in names
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file of ours holds. `first_rows`: what a new one begins with. `one_row_table`: holds
    one row in every file that is whole. `cache_kib`: how much of it a connection may remember."""

    noun: str
    file_name: str
    application_id: int
    migrations: tuple[str, ...]
    first_rows: Callable[[sqlite3.Connection], object]
    one_row_table: str
    cache_kib: int = 2_000


# Only the agent checkpoints. Where none has for so long that the log is this large (nobody
# enrolled the device yet), a recorder does: at 4 KiB a page 64 MiB, and less beside ballast.
WAL_LIMIT_PAGES = 16_384
PAGE_BYTES = 4096
# What stays allocated to the log after a checkpoint: room that a full disk cannot take away.
WAL_KEEP_BYTES = 4 << 20
MAX_PROBES = 1_000_000
# With less than this free, an error of the file system means that the disk is full.
FULL_BELOW_BYTES = 65_536


class Trouble(enum.Enum):
    """What an error of SQLite asks for."""

    FULL = enum.auto()
    BUSY = enum.auto()
    UNUSABLE = enum.auto()
    OTHER = enum.auto()


class Unusable(Exception):
    """The file is not, or no longer, what it should be."""


def connect(path: Path, layout: Layout, *, joined: bool, busy_timeout_seconds: float) -> Connection:
    """A connection to a file whose layout is the present one.

    Raises Unusable for what is no file of this layout, or else an error of ours.
    """
    connection = None
    try:
        connection = sqlite3.connect(
            path, timeout=busy_timeout_seconds, isolation_level=None, check_same_thread=False
        )
        prepare = _prepare_joined if joined else _prepare_own
        prepare(connection, path, layout)
    except BaseException as error:
        if connection:
            connection.close()
        if not isinstance(error, sqlite3.Error):
            raise
        if classify(error, path) is Trouble.UNUSABLE:
            raise Unusable(str(error)) from error
        raise as_ours(error, path) from error
    return connection


def transaction(connection: Connection, work: Work[T], begin: Begin) -> T:
    """What `work` gives, after the commit; whatever it raises, after the rollback."""
    cursor = connection.cursor()
    cursor.execute(begin)
    try:
        result = work(cursor)
        cursor.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.rollback()
        raise
    finally:
        cursor.close()
    return result


def transaction_within(connection: Connection, work: Work[T]) -> T:
    """Does `work` in the transaction that is open, or nothing of it; commits nothing."""
    cursor = Cursor(connection)  # and not connection.cursor(), which takes over its row_factory
    cursor.execute("SAVEPOINT tillsync")
    try:
        result = work(cursor)
    except BaseException:
        # After some errors SQLite has rolled the whole transaction back by itself.
        if connection.in_transaction:
            cursor.execute("ROLLBACK TO tillsync")
            cursor.execute("RELEASE tillsync")
        raise
    cursor.execute("RELEASE tillsync")
    return result


def readable_rows(path: Path, ids: str, query: str) -> Iterator[tuple[object, ...]]:
    """What `query` finds in a torn file for each of `ids`, passing over what cannot be read.

    Raises OutboxUnavailable where the file cannot even be opened.
    """
    try:
        # As a read-only guest: what was set aside stays evidence.
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    except sqlite3.Error as error:
        raise as_ours(error, path) from error
    with contextlib.closing(connection):
        for row_id in _ids(connection, ids):
            with contextlib.suppress(sqlite3.Error):
                yield from connection.execute(query, (row_id,)).fetchall()


def _ids(connection: Connection, query: str) -> Iterable[int]:
    with contextlib.suppress(sqlite3.Error):
        return [row_id for (row_id,) in connection.execute(query)]
    # The index is torn: try every number that the table may hold.
    with contextlib.suppress(sqlite3.Error):
        last_id = _int(value_of(connection, "SELECT last_id FROM tillsync_counter"))
        return range(max(0, last_id - MAX_PROBES), last_id + 1)
    return ()


def main_path(connection: Connection) -> Path:
    """The file behind a connection."""
    for _, name, path in Cursor(connection).execute("PRAGMA database_list"):
        if text_of(name) == "main" and path:
            return Path(text_of(path))
    raise JoinRefused("the database is in memory only, where no sale is durable")


def check_durable(connection: Connection) -> None:
    """Raises JoinRefused where a commit of this connection may not survive a power cut."""
    full = 2
    synchronous = value_of(connection, "PRAGMA synchronous")
    if not isinstance(synchronous, int) or synchronous < full:
        raise JoinRefused("a commit may not survive a power cut: set PRAGMA synchronous=FULL")
    mode = text_of(value_of(connection, "PRAGMA journal_mode"))
    if mode in {"off", "memory"}:
        raise JoinRefused(f"a commit may not survive a power cut: journal_mode is {mode}; use WAL")


def classify(error: sqlite3.Error, path: Path) -> Trouble:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return Trouble.BUSY
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return Trouble.UNUSABLE
    if code == sqlite3.SQLITE_FULL:
        return Trouble.FULL
    # Where the shared memory file cannot grow, a full disk calls itself an input/output error;
    # where a log cannot be created, a file that cannot be opened.
    input_output = code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
    if input_output and free_bytes(path.parent) < FULL_BELOW_BYTES:
        return Trouble.FULL
    return Trouble.OTHER


def as_ours(error: sqlite3.Error, path: Path) -> OutboxUnavailable:
    trouble = classify(error, path)
    if trouble is Trouble.FULL:
        return OutboxFull(full_message(path))
    if trouble is Trouble.BUSY:
        return OutboxBusy(f"{path} was held by another program for too long; try again ({error})")
    hint = "; let this account write it, and in its folder" if _is_refused(error) else ""
    return OutboxUnavailable(f"{path} cannot be used: {error}{hint}")


def _is_refused(error: sqlite3.Error) -> bool:
    """Whether the operating system does not let this account at the file."""
    refused = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in refused


def full_message(path: Path) -> str:
    return (
        f"nothing was recorded: the disk that holds {path} is full. Free some space there and "
        "record again; what was recorded before is safe"
    )


def _prepare_own(connection: Connection, path: Path, layout: Layout) -> None:
    is_new = value_of(connection, "SELECT count(*) FROM sqlite_master") == 0
    application_id = value_of(connection, "PRAGMA application_id")
    if application_id != layout.application_id and not (is_new and application_id == 0):
        raise Unusable("it belongs to another program")
    version = _int(value_of(connection, "PRAGMA user_version"))
    _check_known(version, path, layout)
    if text_of(value_of(connection, "PRAGMA journal_mode = WAL")) != "wal":
        raise OutboxUnavailable(f"{path} is on a file system without shared memory; use a disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # on macOS nothing less reaches the disk
    connection.execute(f"PRAGMA cache_size = -{layout.cache_kib}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_LIMIT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_KEEP_BYTES}")
    _migrate(
        connection,
        version,
        layout,
        f"PRAGMA user_version = {len(layout.migrations)}",
        f"PRAGMA application_id = {layout.application_id}",
    )
    if value_of(connection, f"SELECT count(*) FROM {layout.one_row_table}") != 1:  # noqa: S608 -- our own name
        raise Unusable(f"the row of {layout.one_row_table} is gone")


def _prepare_joined(connection: Connection, path: Path, layout: Layout) -> None:
    # Settings of this connection alone; nothing of them is stored in the file.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")
    there = value_of(connection, "SELECT count(*) FROM sqlite_master WHERE name = 'tillsync_note'")
    known = "SELECT value FROM tillsync_note WHERE name = 'schema_version'"
    version = int(text_of(value_of(connection, known))) if there else 0
    _check_known(version, path, layout)
    _migrate(
        connection,
        version,
        layout,
        f"REPLACE INTO tillsync_note VALUES ('schema_version', {len(layout.migrations)})",  # noqa: S608 -- our own number
    )


def _check_known(version: int, path: Path, layout: Layout) -> None:
    if version > len(layout.migrations):
        raise OutboxTooNew(
            f"{path} has layout {version}, this release knows {len(layout.migrations)}: update it. "
            "The file was left as it is"
        )


def _migrate(connection: Connection, version: int, layout: Layout, *stamps: str) -> None:
    if version == len(layout.migrations):
        return
    try:
        connection.executescript("BEGIN IMMEDIATE;" + "".join(layout.migrations[version:]))
        if version == 0:
            layout.first_rows(connection)
        for stamp in stamps:
            connection.execute(stamp)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.rollback()
        raise


def value_of(source: Connection | Cursor, query: str) -> object:
    cursor = Cursor(source if isinstance(source, Connection) else source.connection)
    row = cursor.execute(query).fetchone()
    cursor.close()
    return row[0] if row else None


def text_of(value: object) -> str:
    """Text, whatever the point of sale set as its connection's text_factory."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _int(value: object) -> int:
    assert isinstance(value, int)  # noqa: S101 -- SQLite promises it; this tells the type checker
    return value
