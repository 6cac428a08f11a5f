"""The way of the schema: up, again, together, down, by a DBA's hand, and on the wrong version."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from support.schema import snapshot
from tillsync_service import databases
from tillsync_service.config import Settings, SettingsError
from tillsync_service.foundation import migrations
from tillsync_service.foundation.migrations import MigrationError

SNAPSHOT = Path(__file__).with_name("schema.snapshot.sql")
PROGRAM = Path(sys.executable).with_name("tillsync-service")


@pytest.fixture
async def empty(postgres):
    """The migrator's URL of a database without anything in it."""
    name = "test_empty"
    await postgres.drop_database(name)
    await postgres.administer(f"CREATE DATABASE {name}")
    yield postgres.admin_url(name)
    await postgres.drop_database(name)


@pytest.fixture
def serving_settings(empty, postgres, tmp_path, monkeypatch):
    """How a service would be started on the empty database."""
    for name in [name for name in os.environ if name.startswith("TILLSYNC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TILLSYNC_DATABASE_URL", postgres.serving_url("test_empty"))
    monkeypatch.setenv("TILLSYNC_SIGNING_KEYS", str(tmp_path / "keys.json"))
    return Settings()


async def schema_of(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return await snapshot(connection)
    finally:
        await connection.close()


async def execute(url: str, statement: str):
    connection = await asyncpg.connect(url)
    try:
        return await connection.execute(statement)
    finally:
        await connection.close()


async def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a command, as an operator sees them."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith("TILLSYNC_")}
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *arguments,
        env={**mine, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def test_the_schema_is_the_one_that_was_agreed_on(empty, request):
    """Nobody changes what head office keeps by accident: what the migrations make from nothing is
    what the committed snapshot says. `pytest --renew-schema` writes it anew."""
    await migrations.upgrade(empty)
    found = await schema_of(empty)

    if request.config.getoption("renew_schema"):
        SNAPSHOT.write_text(found, encoding="utf-8")
    assert found == SNAPSHOT.read_text(encoding="utf-8")


async def test_up_twice_is_harmless(empty):
    """An operator who is not sure runs it again, and nothing happens."""
    first = await migrations.upgrade(empty)
    before = await schema_of(empty)

    again = await migrations.upgrade(empty)

    assert first == again
    assert again.pending == ()
    assert await schema_of(empty) == before


async def test_replicas_that_migrate_together_all_succeed(empty):
    """Three replicas start at once after an update: one migrates, the others wait, all go on."""
    answers = await asyncio.gather(
        *(
            run(
                "migrate",
                "up",
                TILLSYNC_MIGRATION_URL=empty,
                TILLSYNC_DATABASE_URL=empty.replace("//postgres:", "//tillsync_service:"),
            )
            for _ in range(3)
        )
    )

    assert [status for status, _, _ in answers] == [0, 0, 0], answers
    assert all("tillsync_service may serve" in output for _, output, _ in answers)
    assert await schema_of(empty) == SNAPSHOT.read_text(encoding="utf-8")


async def test_down_to_nothing_and_up_again(empty):
    """Going back and forth ends where it began."""
    await migrations.upgrade(empty)
    before = await schema_of(empty)

    down = await migrations.downgrade(empty, "base")
    connection = await asyncpg.connect(empty)
    nothing = await connection.fetchval("SELECT to_regnamespace('tillsync') IS NULL")
    await connection.close()
    await migrations.upgrade(empty)

    assert down.current is None
    assert nothing
    assert await schema_of(empty) == before


async def test_a_migration_that_fails_leaves_nothing_behind(empty):
    """Something stands in the way halfway through: the database is as it was before, and after
    the obstacle is gone the same command succeeds."""
    await execute(empty, "CREATE SCHEMA tillsync; CREATE TABLE tillsync.device_day (id int)")

    with pytest.raises(MigrationError, match="refused"):
        await migrations.upgrade(empty)
    tables = await schema_of(empty)
    await execute(empty, "DROP SCHEMA tillsync CASCADE")
    status = await migrations.upgrade(empty)

    assert "event_key" not in tables
    assert status.pending == ()


async def test_the_printed_sql_makes_the_same_schema(empty):
    """A DBA who lets no program near the schema runs the printed SQL by hand, with one result."""
    status, sql, _ = await run("migrate", "sql")
    assert status == 0

    await execute(empty, sql)

    assert await schema_of(empty) == SNAPSHOT.read_text(encoding="utf-8")
    assert (await migrations.status(empty)).pending == ()


async def test_status_tells_what_is_pending(empty):
    """A deployment script asks before it acts: 3 means that there is something to do."""
    status, output, _ = await run("migrate", "status", TILLSYNC_MIGRATION_URL=empty)

    assert status == 3
    assert "current: none" in output
    assert "pending: 0001" in output


async def test_a_service_refuses_to_start_before_its_migrations(serving_settings):
    """A new version on the old schema does not half work: it names the command that is missing."""
    with pytest.raises(SettingsError, match="tillsync-service migrate up"):
        async with databases.database_beside(serving_settings):
            pass


async def test_a_service_refuses_a_newer_database(empty, serving_settings):
    """The old version, started by mistake after an update, leaves the new schema alone."""
    await migrations.upgrade(empty)
    await execute(empty, "UPDATE tillsync_migration SET version_num = '9999'")

    with pytest.raises(SettingsError, match=r"9999.*newer tillsync-service"):
        async with databases.database_beside(serving_settings):
            pass


async def test_the_serving_login_may_ask_for_the_status(empty, postgres):
    """A service with nothing but its own rights can tell whether the schema fits."""
    await migrations.upgrade(empty)

    status = await migrations.status(postgres.serving_url("test_empty"))

    assert status.pending == ()


async def test_a_database_that_is_away_is_one_line(unused_tcp_port):
    """The operator reads one line and no stack trace, and the password is not in it."""
    url = f"postgresql://owner:hunter2@127.0.0.1:{unused_tcp_port}/x"

    status, output, errors = await run("migrate", "up", TILLSYNC_MIGRATION_URL=url)

    assert (status, output) == (1, "")
    assert errors.startswith("tillsync-service: The database at 127.0.0.1 cannot be reached")
    assert errors.count("\n") == 1
    assert "hunter2" not in errors
