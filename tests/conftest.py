import os

# Tests start processes while gRPC runs in this one; its fork handlers would close the wrong files.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import asyncio

import asyncpg
import pytest

from support.books import Books
from support.fleet import fleet_served, settings_on
from support.postgres import running_server
from tillsync_service.foundation.db import Database


def pytest_addoption(parser):
    parser.addoption("--renew-schema", action="store_true", help="write schema.snapshot.sql anew")


@pytest.fixture(scope="session")
def postgres():
    """A running Postgres with a migrated template database."""
    with running_server() as server:
        asyncio.run(server.make_template())
        yield server


@pytest.fixture
async def database_name(postgres):
    """A migrated database of the test's own."""
    name = await postgres.make_database()
    yield name
    await postgres.drop_database(name)


@pytest.fixture
def database_url(postgres, database_name):
    """Where the service logs in."""
    return postgres.serving_url(database_name)


@pytest.fixture
def admin_database_url(postgres, database_name):
    """Where the migrator logs in: sees every tenant's rows."""
    return postgres.admin_url(database_name)


@pytest.fixture
async def database(database_url):
    """The serving pool."""
    database = await Database.connect(database_url)
    yield database
    await database.close()


@pytest.fixture
async def migrator(admin_database_url):
    """A connection that sees every tenant's rows."""
    connection = await asyncpg.connect(admin_database_url)
    yield connection
    await connection.close()


@pytest.fixture
def books(migrator):
    """What head office holds, read past the service."""
    return Books(migrator)


@pytest.fixture
async def device(books):
    """An enrolled device of a tenant of its own."""
    return await books.enrol()


@pytest.fixture
def settings(database_url, tmp_path):
    """Of a service as it is composed, on ports of its own."""
    return settings_on(database_url, tmp_path)


@pytest.fixture
async def fleet(database, tmp_path):
    """All three services on a port of their own, with an operator and tills at hand."""
    async with fleet_served(database, tmp_path) as fleet:
        yield fleet
