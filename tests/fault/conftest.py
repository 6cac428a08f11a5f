"""A database that a test may break."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import asyncpg
import pytest

from support.books import Books
from tillsync_service.foundation import migrations
from tillsync_service.foundation.db import Database
from tillsync_service.foundation.identity import Device


@pytest.fixture(scope="module")
def server_to_break():
    own_postgres = pytest.importorskip("support.own_postgres")
    folder = Path(tempfile.mkdtemp(prefix="tillsync-fault-"))
    folder.chmod(0o755)  # the server may run as another account, which must get through here
    server = own_postgres.OwnPostgres(folder / "data")

    async def begin() -> None:
        await server.start()
        await migrations.upgrade(server.admin_url)
        await migrations.grant_serving(server.admin_url, own_postgres.SERVICE_USER)

    asyncio.run(begin())
    yield server
    asyncio.run(server.stop())
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def postgres_of_my_own(server_to_break):
    """Whole and running, before the test and after it."""
    yield server_to_break
    server_to_break.thaw()
    if not server_to_break.is_running():
        await server_to_break.start()
    connection = await asyncpg.connect(server_to_break.admin_url)
    await connection.execute("ALTER SYSTEM RESET ALL")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()


@pytest.fixture
async def my_books(postgres_of_my_own):
    connection = await asyncpg.connect(postgres_of_my_own.admin_url)
    yield Books(connection)
    connection.terminate()


@pytest.fixture
async def my_device(my_books) -> Device:
    return await my_books.enrol()


@pytest.fixture
async def my_database(postgres_of_my_own):
    database = await Database.connect(postgres_of_my_own.serving_url)
    yield database
    database.abandon()
