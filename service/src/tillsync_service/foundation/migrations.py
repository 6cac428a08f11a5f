"""Runs the migrations of `migrations/` and tells which are pending."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

VERSION_TABLE = "tillsync_migration"
CONNECT_SECONDS = 10


class MigrationError(RuntimeError):
    """The database cannot be reached or refused a migration; nothing of it was applied."""


@dataclass(frozen=True, slots=True)
class Status:
    """Which revision a database is at, and which this program knows."""

    current: str | None
    known: tuple[str, ...]

    @property
    def pending(self) -> tuple[str, ...]:
        """The revisions still to be applied, oldest first."""
        if self.current is None:
            return self.known
        if self.current not in self.known:
            return ()
        return self.known[self.known.index(self.current) + 1 :]

    @property
    def is_newer(self) -> bool:
        """Whether the database was migrated by a newer program."""
        return self.current is not None and self.current not in self.known


def folder() -> Path:
    """The migrations: beside the sources in a checkout, inside the package when installed."""
    package = Path(__file__).parents[1]
    checkout = package.parents[2] / "migrations"
    return checkout if (checkout / "env.py").is_file() else package / "_migrations"


def upgrade_sql() -> None:
    """Prints the SQL of all migrations, for a DBA to read or run."""
    command.upgrade(_config(), "head", sql=True)


async def upgrade(url: str) -> Status:
    """Applies what is pending, in one transaction, and returns the status after it. Replicas that
    do this together queue behind each other. Raises MigrationError.
    """
    await _run(url, lambda config: command.upgrade(config, "head"))
    return await status(url)


async def downgrade(url: str, revision: str) -> Status:
    """Goes back to `revision` ("base": to nothing). Drops data. Raises MigrationError."""
    await _run(url, lambda config: command.downgrade(config, revision))
    return await status(url)


async def status(url: str) -> Status:
    """Where the database stands. Raises MigrationError when it cannot be reached."""
    current: list[str | None] = []

    def look(connection: Connection) -> None:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        current.append(context.get_current_revision())

    await _with_connection(url, look)
    script = ScriptDirectory.from_config(_config())
    known = tuple(reversed([revision.revision for revision in script.walk_revisions()]))
    return Status(current[0], known)


def newest() -> str:
    """The migration that this program serves with."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


async def grant_serving(url: str, login: str) -> None:
    """Lets `login` act in the two serving roles. Raises MigrationError."""

    def grant(connection: Connection) -> None:
        quoted = connection.dialect.identifier_preparer.quote(login)
        connection.exec_driver_sql(f"GRANT tillsync_app, tillsync_worker TO {quoted}")

    await _with_connection(url, grant)


async def _run(url: str, action: Callable[[Config], None]) -> None:
    def act(connection: Connection) -> None:
        config = _config()
        config.attributes["connection"] = connection
        action(config)

    await _with_connection(url, act)


async def _with_connection(url: str, action: Callable[[Connection], None]) -> None:
    engine = create_async_engine(
        make_url(url).set(drivername="postgresql+asyncpg"),
        poolclass=NullPool,
        connect_args={"timeout": CONNECT_SECONDS},
    )
    try:
        async with engine.begin() as connection:
            await connection.run_sync(action)
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        raise MigrationError(
            f"The database at {make_url(url).host} cannot be reached: {error}"
        ) from error
    except DBAPIError as error:
        raise MigrationError(f"The database refused: {_cause(error)}{_hint(error)}") from error
    finally:
        await engine.dispose()


def _cause(error: DBAPIError) -> str:
    # The driver's wrapper puts its own class name in front.
    return str(error.orig).split(">: ", 1)[-1]


def _hint(error: DBAPIError) -> str:
    if "role" in str(error.orig) and "permission denied" in str(error.orig):
        return (
            ". The owner makes three roles and grants them: give it CREATEROLE, or migrate once as "
            "a superuser"
        )
    return ""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder()).replace("%", "%%"))
    return config
