"""Postgres: one pool, transactions that always name a role and a tenant, and named statements.

The two rules that the rest relies on:
- every transaction sets its role and its tenant with SET LOCAL, so that row-level security holds
  whatever the login may do, and nothing outlives the transaction;
- what the server said about the COMMIT is what the caller is told: anything but a clean COMMIT is
  Unavailable, never success.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import StrEnum
from importlib.resources import files
from time import perf_counter
from typing import Any, Self, TypeAlias
from uuid import UUID

import asyncpg

from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import ServiceError, Unavailable
from tillsync_service.foundation.metrics import Metrics

# A standard UUID to everybody else, and one that hashes and encodes in C.
FastUUID: TypeAlias = asyncpg.pgproto.pgproto.UUID

Row: TypeAlias = asyncpg.Record

# SQLSTATE classes that blame the data and not the database.
_DATA_CLASSES = ("22", "23", "54")


# What a connection raises that is lost, or that was lost in the middle of an answer.
_LOST = (
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    asyncio.IncompleteReadError,
)


class Role(StrEnum):
    """Who a transaction acts as; see migrations/versions/0001_foundation.py."""

    APP = "tillsync_app"
    WORKER = "tillsync_worker"


class DataRefused(Exception):
    """Postgres refused the data (SQLSTATE class 22, 23 or 54): the same again cannot help."""

    def __init__(self, sqlstate: str, constraint: str | None) -> None:
        super().__init__(f"SQLSTATE {sqlstate}")
        self.sqlstate = sqlstate
        self.constraint = constraint


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg ships no types
    """A connection without asyncpg's reset round trip: nothing here outlives a transaction."""

    def get_reset_query(self) -> str:
        return ""


class Transaction:
    """One open transaction of one tenant. Statements bind the tenant as $1 themselves."""

    def __init__(self, connection: asyncpg.Connection, metrics: Metrics) -> None:
        self._connection = connection
        self._metrics = metrics

    async def fetch(self, statement: str, *arguments: object) -> list[Row]:
        fetching = self._connection.fetch(statement, *arguments)
        rows: list[Row] = await _timed(self._metrics, statement, fetching)
        return rows

    async def fetch_one(
        self, statement: str, *arguments: object, timeout_seconds: float | None = None
    ) -> Row | None:
        """The first row. `timeout_seconds`: for a statement that may take longer than others."""
        fetching = self._connection.fetchrow(statement, *arguments, timeout=timeout_seconds)
        return await _timed(self._metrics, statement, fetching)

    async def execute(self, statement: str, *arguments: object) -> str:
        executing = self._connection.execute(statement, *arguments)
        status: str = await _timed(self._metrics, statement, executing)
        return status


async def _timed(metrics: Metrics, statement: str, answer: Awaitable[Any]) -> Any:
    began = perf_counter()
    try:
        return await answer
    finally:
        metrics.query(_NAMES.get(statement, "other"), perf_counter() - began)


class Database:
    """The serving pool. Made by `connect`, ended by `close`."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        metrics: Metrics | None = None,
        is_away: Callable[[], bool] = lambda: False,
    ) -> None:
        self._pool = pool
        self._metrics = metrics or Metrics()
        self._is_away = is_away

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        connections: int = limits.POOL_CONNECTIONS,
        metrics: Metrics | None = None,
        is_away: Callable[[], bool] = lambda: False,
    ) -> Self:
        """A pool on `url`. No connection is opened yet: a database that is away is met, and
        named, by the first use. While `is_away` says so, no transaction is tried: a thousand that
        wait for a server that says nothing would be a pile-up when it comes back.
        """
        pool = asyncpg.create_pool(
            url,
            min_size=0,
            max_size=connections,
            connection_class=_Connection,
            timeout=limits.CONNECT_SECONDS,
            command_timeout=limits.COMMAND_SECONDS,
            server_settings={
                "application_name": "tillsync-service",
                "lock_timeout": str(limits.LOCK_TIMEOUT_MS),
                "statement_timeout": str(limits.STATEMENT_TIMEOUT_MS),
                "idle_in_transaction_session_timeout": str(limits.IDLE_IN_TRANSACTION_TIMEOUT_MS),
                "tcp_user_timeout": str(limits.TCP_USER_TIMEOUT_MS),
                "jit": "off",
            },
        )
        return cls(await pool, metrics, is_away)

    @property
    def connections(self) -> dict[str, int]:
        """How many there may be, by what they do: busy, idle, unopened."""
        opened, idle = self._pool.get_size(), self._pool.get_idle_size()
        unopened = self._pool.get_max_size() - opened
        return {"busy": opened - idle, "idle": idle, "unopened": unopened}

    async def close(self) -> None:
        await self._pool.close()

    def abandon(self) -> None:
        """Drops all connections at once, without waiting for what they do."""
        self._pool.terminate()

    @asynccontextmanager
    async def transaction(
        self,
        tenant_id: UUID | None,
        *,
        role: Role = Role.APP,
        then: str = "",
        snapshot: bool = False,
    ) -> AsyncIterator[Transaction]:
        """A READ COMMITTED transaction as `role`, seeing the rows of `tenant_id` only (none
        without one). `then` is a statement without arguments that rides in the opening round trip.
        `snapshot`: it only reads, and all its statements see the moment of the first.

        Leaving the block commits; an exception rolls back. Raises Unavailable when the database
        cannot be reached or did not confirm the commit, DataRefused when it refused the data.
        """
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if snapshot else "BEGIN"
        opening = f"{begin}; SET LOCAL ROLE {role.value}; {_tenant_setting(tenant_id)}; {then}"
        if self._is_away():
            raise Unavailable("The database does not answer; send the same again.")
        with _database_errors():
            connection = await self._acquire()
            try:
                await _timed(self._metrics, _BEGIN, connection.execute(opening))
                yield Transaction(connection, self._metrics)
                await _timed(self._metrics, _COMMIT, _commit(connection))
            except BaseException as error:
                await _abort(connection, error)
                raise
            finally:
                await _release(self._pool, connection)

    async def ping(self) -> None:
        """Raises Unavailable unless the database answers a query."""
        with _database_errors():
            async with self._pool.acquire(timeout=limits.CONNECT_SECONDS) as connection:
                await connection.execute("SELECT 1", timeout=limits.CONNECT_SECONDS)

    async def _acquire(self) -> asyncpg.Connection:
        # No limit on waiting for a busy pool: callers are bounded by the group commit's queue, and
        # a pool that is busy with a dead server empties as its commands time out.
        return await self._pool.acquire()


def _tenant_setting(tenant_id: UUID | None) -> str:
    # A literal, because set_config() does not reach the workers of a Citus cluster. Safe, because
    # a UUID's own text has no quote in it.
    return f"SET LOCAL tillsync.tenant = '{UUID(str(tenant_id)) if tenant_id else ''}'"


async def _commit(connection: asyncpg.Connection) -> None:
    warnings: list[str] = []

    def listen(_connection: object, message: Any) -> None:
        # With a synchronous standby, a cancelled wait ends in a WARNING and a COMMIT that only
        # this server knows of.
        if message.severity_en == "WARNING":
            warnings.append(message.sqlstate)

    connection.add_log_listener(listen)
    try:
        status = await connection.execute("COMMIT")
    finally:
        connection.remove_log_listener(listen)
    if status != "COMMIT" or warnings:
        raise Unavailable("The database did not confirm the commit; send the same again.")


async def _abort(connection: asyncpg.Connection, error: BaseException) -> None:
    """Ends whatever the connection is in. One that cannot even roll back is thrown away."""
    if connection.is_closed():
        return
    if isinstance(error, TimeoutError | asyncio.CancelledError):
        # A statement is perhaps still under way, and asyncpg would wait, without a limit, for a
        # silent server to confirm that it is not.
        connection.terminate()
        return
    try:
        if connection.is_in_transaction():
            await connection.execute("ROLLBACK", timeout=limits.CONNECT_SECONDS)
    except (asyncpg.PostgresError, *_LOST):
        connection.terminate()


async def _release(pool: asyncpg.Pool, connection: asyncpg.Connection) -> None:
    # One that was terminated has left the pool's hands: to ask it anything raises, in the place of
    # what ended the transaction, and a task that was cancelled would go on.
    with suppress(asyncpg.InterfaceError):
        if connection.is_in_transaction():
            connection.terminate()
    await pool.release(connection)


@contextmanager
def _database_errors() -> Iterator[None]:
    try:
        yield
    except ServiceError:
        raise
    except asyncpg.PostgresError as error:
        sqlstate = error.sqlstate or ""
        if sqlstate.startswith(_DATA_CLASSES):
            raise DataRefused(sqlstate, error.constraint_name) from error
        raise Unavailable("The database cannot take this now; send the same again.") from error
    except _LOST as error:
        raise Unavailable("The database cannot be reached; send the same again.") from error


# Names of statements, as metrics have them. With `begin` comes what is locked at once.
_BEGIN, _COMMIT = "BEGIN", "COMMIT"
_NAMES = {_BEGIN: "begin", _COMMIT: "commit"}

_STATEMENT = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def statements(package: str, file: str = "queries.sql") -> dict[str, str]:
    """The statements of a file of `package` by name: each begins with `-- name: <name>`, and
    the comment lines under it say why it is as it is.
    """
    text = files(package).joinpath(file).read_text(encoding="utf-8")
    parts: Sequence[str] = _STATEMENT.split(text)
    named = dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
    room = package.rpartition(".")[2]
    _NAMES.update({statement: f"{room}.{name}" for name, statement in named.items()})
    return named
