"""A real Postgres for the tests: one server a session, one database a test."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from tillsync_service.foundation import migrations
from tillsync_service.foundation.embedded import EmbeddedPostgres

TEMPLATE = "tillsync_template"


@dataclass(frozen=True)
class Server:
    """A running server: the URL of a superuser and of the serving login, on any database."""

    admin: str
    serving: str

    def admin_url(self, database: str) -> str:
        return _on(self.admin, database)

    def serving_url(self, database: str) -> str:
        return _on(self.serving, database)

    async def administer(self, statement: str, database: str = "postgres") -> None:
        connection = await asyncpg.connect(self.admin_url(database))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def make_template(self) -> None:
        await self.administer(f"DROP DATABASE IF EXISTS {TEMPLATE}")
        await self.administer(f"CREATE DATABASE {TEMPLATE}")
        await migrations.upgrade(self.admin_url(TEMPLATE))
        login = urlsplit(self.serving).username
        await migrations.grant_serving(self.admin_url(TEMPLATE), login)

    async def make_database(self) -> str:
        name = f"test_{uuid4().hex}"
        await self.administer(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return name

    async def drop_database(self, name: str) -> None:
        await self.administer(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _on(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


@contextmanager
def running_server() -> Iterator[Server]:
    """The embedded server, or the one that TILLSYNC_TEST_ADMIN_URL and TILLSYNC_TEST_SERVING_URL
    name (to run the tests on another version of Postgres)."""
    if "TILLSYNC_TEST_ADMIN_URL" in os.environ:
        yield Server(os.environ["TILLSYNC_TEST_ADMIN_URL"], os.environ["TILLSYNC_TEST_SERVING_URL"])
        return
    folder = Path(tempfile.mkdtemp(prefix="tillsync-test-"))
    folder.chmod(0o755)  # the server may run as another account, which must get through here
    embedded = EmbeddedPostgres(folder / "data")
    asyncio.run(embedded.start())
    try:
        yield Server(embedded.admin_url, embedded.service_url)
    finally:
        asyncio.run(embedded.stop())
        shutil.rmtree(folder, ignore_errors=True)
