"""The file under the outbox or the replica: one connection, and what happens when it goes bad.

An own file that is found torn or foreign is set aside, with its log, and selling goes on in a new
one. A joined file is never renamed.

Nothing here opens a database file that is there by other means than SQLite: closing any other
descriptor of it would drop the locks of every connection in this process (a trait of POSIX locks).
"""

import contextlib
import errno
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from tillsync_agent import filelock, files
from tillsync_agent.ballast import Ballast
from tillsync_agent.errors import JoinRefused, OutboxBusy, OutboxFull, OutboxUnavailable
from tillsync_agent.ids import mint_epoch
from tillsync_agent.storage import (
    PAGE_BYTES,
    WAL_LIMIT_PAGES,
    Begin,
    Connection,
    Layout,
    SqliteError,
    Trouble,
    Unusable,
    Work,
    as_ours,
    check_durable,
    classify,
    connect,
    full_message,
    main_path,
    steps,
    transaction,
    transaction_within,
    value_of,
)

T = TypeVar("T")

SETUP_WAIT_SECONDS = 30.0
ATTEMPTS = 4

_log = logging.getLogger("tillsync_agent.outbox")


def _first_outbox_rows(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO tillsync_counter (only, epoch, last_sequence, last_id) VALUES (1, ?, 0, ?)",
        (mint_epoch(), secrets.randbits(61)),
    )


OUTBOX = Layout(
    noun="outbox",
    file_name="outbox.db",
    application_id=0x54_53_4F_42,  # "TSOB"
    migrations=steps("outbox.sql", "outbox_2.sql"),
    first_rows=_first_outbox_rows,
    one_row_table="tillsync_counter",
)


class OutboxFile:
    """One connection to the file, shared by the threads of this process in turn."""

    def __init__(
        self,
        path: Path,
        busy_timeout_seconds: float,
        *,
        layout: Layout | None = None,
        joined: bool = False,
        ballast_bytes: int = 0,
    ) -> None:
        self._layout = layout or OUTBOX
        # SQLite resolves links as well before it names the log.
        self.path = path.resolve()
        self.joined = joined
        self.ballast = Ballast(_beside(self.path, ".ballast"), ballast_bytes)
        self._busy_timeout_seconds = busy_timeout_seconds
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._turn = threading.Lock()
        self._connection: Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._current()

    def close(self) -> None:
        with self._turn:
            self._closed = True
            self._disconnect()

    def _disconnect(self) -> None:
        # SQLite sees by itself when the file was renamed, and then leaves the log that has the
        # name now alone.
        if self._connection:
            self._connection.close()
        self._connection = None

    def run(self, work: Work[T], *, begin: Begin = "BEGIN IMMEDIATE", reserve: bool = False) -> T:
        """Does `work` in a transaction of its own, which is durable when this returns.

        `reserve`: on a full disk the ballast may be given up for it. `work` runs again when the
        file was mended, or was replaced by another process before we had committed.
        """
        return self._attempt(lambda it: transaction(it, work, begin), reserve=reserve)

    def checkpoint(self) -> None:
        """Moves the log into the database as far as nobody reads it."""
        self._attempt(lambda it: it.execute("PRAGMA wal_checkpoint").fetchone(), reserve=True)

    def _attempt(self, action: Callable[[Connection], T], *, reserve: bool) -> T:
        if self._pid != os.getpid():
            # A connection must not cross a fork; the parent's is kept, unused, as it is.
            self._inherited = self._connection
            self._start()
        with self._my_turn():
            if self._closed:
                raise OutboxUnavailable(
                    f"the {self._layout.noun} {self.path} was closed by this program"
                )
            for _ in range(ATTEMPTS):
                try:
                    result = action(self._current())
                except SqliteError as error:
                    self._mend(error, reserve=reserve)
                else:
                    if _identity(self.path) == self._identity:
                        return result
        raise OutboxUnavailable(f"{self.path} cannot be written: it was replaced again and again")

    def run_within(self, connection: Connection, work: Work[T]) -> T:
        """Does `work` in the transaction that the point of sale has open, and commits nothing."""
        if not self.joined:
            raise JoinRefused("this outbox has its own file; use Outbox.join() to share one")
        try:
            if not connection.in_transaction:
                raise JoinRefused("the connection has no transaction open; BEGIN one first")
            check_durable(connection)
            if not self.path.samefile(main_path(connection)):
                raise JoinRefused(f"the connection is not to {self.path}")
            return transaction_within(connection, work)
        except SqliteError as error:
            raise as_ours(error, self.path) from error

    def replace_if_torn(self) -> None:
        """Reads every page of an own file, which takes about a second for 100 MB."""
        found = self.run(lambda cursor: value_of(cursor, "PRAGMA quick_check(1)"), begin="BEGIN")
        if found != "ok":
            with self._my_turn():
                self._replace(str(found))

    def set_aside_files(self) -> list[Path]:
        """The databases that were set aside, oldest first."""
        found = self.path.parent.glob(f"{self.path.name}.set-aside-*")
        return sorted(path for path in found if not path.name.endswith(("-wal", "-shm")))

    @contextlib.contextmanager
    def _my_turn(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=self._busy_timeout_seconds):
            raise OutboxBusy(f"{self.path} is busy in another thread; try again in a moment")
        try:
            yield
        finally:
            self._turn.release()

    def _current(self) -> Connection:
        """The connection, to the file that has the path now."""
        if self._connection and _identity(self.path) != self._identity:
            self._disconnect()
        if not self._connection:
            self._connection = self._connect()
        return self._connection

    def _mend(self, error: SqliteError, *, reserve: bool) -> None:
        """Returns where another try makes sense."""
        trouble = classify(error, self.path)
        if trouble is Trouble.UNUSABLE and not self.joined:
            self._replace(str(error))
        elif not (trouble is Trouble.FULL and reserve and self.ballast.release()):
            raise as_ours(error, self.path) from error

    def _replace(self, reason: str) -> None:
        """Sets an own file aside, unless another process just did, and opens what is there."""
        self._disconnect()
        with self._setup():
            if _identity(self.path) == self._identity:
                self._set_aside(reason)
        self._current()

    # --- opening -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _setup(self) -> Iterator[None]:
        """One process at a time: two that find a torn file must not set aside each other's new
        one.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.held(_beside(self.path, ".setup-lock"), wait_seconds=SETUP_WAIT_SECONDS)
            with lock as ours:
                if not ours:
                    raise OutboxBusy(f"{self.path} is being opened by another program")
                yield
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> OutboxUnavailable:
        if error.errno == errno.ENOSPC:
            return OutboxFull(full_message(self.path))
        if self.joined:
            return OutboxUnavailable(f"{self.path} cannot be opened: {error}")
        return OutboxUnavailable(files.unusable(self.path.parent, error))

    def _connect(self) -> Connection:
        with self._setup():
            try:
                return self._prepared()
            except Unusable as unusable:
                if self.joined:
                    raise OutboxUnavailable(f"{self.path}: {unusable}") from unusable
                noun = self._layout.noun
                if not self._may_be_ours():
                    raise OutboxUnavailable(
                        f"{self.path} is no {noun} ({unusable}) and is left as it is: "
                        f"give the {noun} a path of its own"
                    ) from unusable
                self._set_aside(str(unusable))
            except OutboxFull:
                # Opening takes a few pages. An agent that could not even open would never settle.
                if not self.ballast.release():
                    raise
            return self._prepared()

    def _may_be_ours(self) -> bool:
        """Whether the file has the name that such files have, or one has lived here. Anything else
        is perhaps somebody's, under a path that was mistyped."""
        beside = (_beside(self.path, ".ballast"), _beside(self.path, ".agent-lock"))
        return self.path.name == self._layout.file_name or any(path.exists() for path in beside)

    def _prepared(self) -> Connection:
        if not self.joined:
            self._create()
        timeout = self._busy_timeout_seconds
        connection = connect(
            self.path, self._layout, joined=self.joined, busy_timeout_seconds=timeout
        )
        if self.ballast.size_bytes:
            # Where no agent checkpoints, a recorder does, early enough: on a full disk the log
            # must fit into the ballast twice, once moved and once written again by settling.
            pages = min(WAL_LIMIT_PAGES, max(1, self.ballast.size_bytes // (4 * PAGE_BYTES)))
            connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        # Under the lock: nobody can rename the file between these two.
        self._identity = _identity(self.path)
        self.ballast.fill()
        return connection

    def _create(self) -> None:
        """With the right mode, which SQLite then gives to the log as well."""
        try:
            files.create(self.path)
        except OSError as error:
            raise self._refused(error) from error

    def _set_aside(self, reason: str) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        aside = _beside(self.path, f".set-aside-{stamp}")
        # The log first: should the power fail in between, then a database without its log is
        # found wanting again, but a new database beside an old log would swallow it.
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                _beside(self.path, suffix).rename(_beside(aside, suffix))
        _log.warning("%s is unusable (%s): set aside as %s", self.path, reason, aside)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file has this path now; None if none has."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
