"""What the measurements stand on: a real Postgres, real service processes, tenants and tokens."""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import grpc
import psutil

from bench.memory import peak_megabytes
from bench.sales import Till
from tillsync_service.databases import utc_now
from tillsync_service.fleet.keys import KeyFile, create_key_file
from tillsync_service.fleet.tokens import TokenIssuer
from tillsync_service.foundation import migrations
from tillsync_service.foundation.embedded import ADMIN_USER, SERVICE_USER, EmbeddedPostgres

START_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Target:
    """One service process on one database."""

    address: str
    http_address: str
    serving_url: str
    admin_url: str
    process: psutil.Process
    issuer: TokenIssuer

    async def tills(self, *, tenants: int, count: int) -> list[Till]:
        """New tills, spread evenly over new tenants, enrolled by hand."""
        connection = await asyncpg.connect(self.admin_url)
        try:
            tenant_ids = [await _tenant(connection) for _ in range(tenants)]
        finally:
            await connection.close()
        return await self.tills_of([tenant_ids[number % tenants] for number in range(count)])

    async def tills_of(self, tenant_ids: Sequence[UUID]) -> list[Till]:
        """A new till of each, in a store of its own."""
        tills = [Till.of(tenant_id) for tenant_id in tenant_ids]
        connection = await asyncpg.connect(self.admin_url)
        try:
            for till in tills:
                await _enrol(connection, till)
        finally:
            await connection.close()
        return tills

    def token(self, till: Till) -> str:
        return self.issuer.device_token(till.device)[0]

    def operator_token(self) -> str:
        return self.issuer.operator_token("bench", None, 3600)

    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def peak_megabytes(self) -> float:
        return peak_megabytes(self.process.pid)


class Rig:
    """The Postgres server of this run, and what is started on it."""

    def __init__(self, folder: Path, postgres: EmbeddedPostgres) -> None:
        self._folder = folder
        self._postgres = postgres
        self._keys = folder / "signing-keys.json"
        create_key_file(self._keys)

    async def database(self, name: str) -> None:
        """A new, migrated database."""
        connection = await asyncpg.connect(self._postgres.admin_url)
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()
        await migrations.upgrade(self._postgres.url(name, ADMIN_USER))
        await migrations.grant_serving(self._postgres.url(name, ADMIN_USER), SERVICE_USER)

    @asynccontextmanager
    async def service(self, database: str, **settings: str) -> AsyncIterator[Target]:
        """A service process on that database, with its port open; `settings` by their names. It
        projects only where workers are given: other measurements are not of that."""
        serving_url = self._postgres.url(database)
        address, http_address = (f"127.0.0.1:{_free_port()}" for _ in range(2))
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("tillsync-service")),
            "serve",
            env={
                **os.environ,
                "TILLSYNC_DATABASE_URL": serving_url,
                "TILLSYNC_SIGNING_KEYS": str(self._keys),
                "TILLSYNC_LISTEN": address,
                "TILLSYNC_HTTP_LISTEN": http_address,
                "TILLSYNC_PROJECTION_WORKERS": "0",
                "TILLSYNC_LOG_LEVEL": "warning",
                **{f"TILLSYNC_{name.upper()}": value for name, value in settings.items()},
            },
        )
        try:
            await _until_open(address)
            yield Target(
                address,
                http_address,
                serving_url,
                self._postgres.url(database, ADMIN_USER),
                psutil.Process(process.pid),
                TokenIssuer(KeyFile(self._keys), utc_now),
            )
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


@asynccontextmanager
async def running() -> AsyncIterator[Rig]:
    """A rig in a folder of its own, removed afterwards."""
    folder = _open_folder()
    try:
        async with EmbeddedPostgres(folder / "postgres") as postgres:
            yield Rig(folder, postgres)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _open_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tillsync-bench-"))
    folder.chmod(0o755)  # as root the server runs as another account, which must get through here
    return folder


async def _tenant(connection: asyncpg.Connection) -> UUID:
    tenant_id = uuid4()
    await connection.execute("INSERT INTO tillsync.tenant VALUES ($1, 'bench', true)", tenant_id)
    await connection.execute(
        "INSERT INTO tillsync.tenant_head (tenant_id, stream) VALUES ($1, 'event'), ($1, 'record')",
        tenant_id,
    )
    return tenant_id


async def _enrol(connection: asyncpg.Connection, till: Till) -> None:
    device = till.device
    await connection.execute(
        "INSERT INTO tillsync.store VALUES ($1, $2, $3, 'bench')",
        device.tenant_id,
        device.store_id,
        str(device.store_id),
    )
    await connection.execute(
        "INSERT INTO tillsync.device (tenant_id, device_id, store_id, name) "
        "VALUES ($1, $2, $3, 'bench')",
        device.tenant_id,
        device.device_id,
        device.store_id,
    )


async def _until_open(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.wait_for(channel.channel_ready(), START_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
