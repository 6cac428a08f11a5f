"""Head office: PostgreSQL and the service, each a process that can be ended and started again."""

import asyncio
import os
import re
import socket
import sys
from pathlib import Path

from demo import postgres
from demo.failure import DemoFailed
from demo.processes import Process, Processes, program
from tillsync_service.foundation.embedded import Access, EmbeddedPostgres

# Below the ports that systems hand out by themselves: while the service is down, nobody gets its.
_FIRST_PORT, _LAST_PORT = 20_000, 30_000
_SERVICE = program("tillsync-service")
_COUNT = re.compile(r"(\d+) (\w+)")


class HeadOffice:
    """`port`: of the service, the same after every restart."""

    access: Access  # once PostgreSQL has started

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._processes = processes
        self._data = folder / "postgres"
        self._keys = folder / "signing-keys.json"
        self._running: dict[str, Process] = {}
        self.operator_token = ""
        self.port = _free_port()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def open(self) -> None:
        """From nothing to a service that serves."""
        async with asyncio.TaskGroup() as steps:
            steps.create_task(self.start_postgres())
            steps.create_task(self._processes.run("keys", _SERVICE, "keys", "new", str(self._keys)))
        async with asyncio.TaskGroup() as steps:
            steps.create_task(self._command("migrate", "up"))
            token = steps.create_task(self._command("operator-token", "--label", "demo"))
        await self.start_service()
        self.operator_token = token.result()

    async def close(self) -> None:
        """In order, the service first."""
        for name in ("service", "postgres"):
            if name in self._running:
                await self._running.pop(name).stop()

    def check(self) -> None:
        """Raises DemoFailed when one of them ended by itself."""
        for process in self._running.values():
            process.check()

    async def start_postgres(self) -> None:
        self._running["postgres"] = await self._processes.start(
            "postgres", sys.executable, "-m", "demo.postgres", str(self._data)
        )
        await self._running["postgres"].until_says(postgres.READY)
        access = EmbeddedPostgres.running_urls(self._data)
        if access is None or getattr(self, "access", access) != access:
            raise DemoFailed("PostgreSQL came back on another port: something took its own")
        self.access = access

    async def stop_postgres(self) -> None:
        await self._running.pop("postgres").stop()
        _must_be_silent(self.access.port, "PostgreSQL was stopped")

    async def start_service(self) -> None:
        self._running["service"] = await self._processes.start(
            "service", _SERVICE, "serve", settings=self._settings
        )
        await self._running["service"].until_says('"serving"')

    async def kill_service(self) -> None:
        await self._running.pop("service").kill()
        _must_be_silent(self.port, "the service was killed")

    async def take_in(self, file: Path) -> tuple[int, int]:
        """What an operator does with a till's file: how many were new, how many known already."""
        answer = (await self._command("ingest-file", str(file))).replace(",", "")
        counts = {name: count for count, name in _COUNT.findall(answer)}
        return int(counts.get("accepted", 0)), int(counts.get("duplicate", 0))

    async def operate(self, *arguments: str) -> str:
        """An operator's command at the running service; what it answered."""
        settings = {
            "TILLSYNC_SERVICE_ADDRESS": self.address,
            "TILLSYNC_OPERATOR_TOKEN": self.operator_token,
        }
        name = f"tillsync-service {arguments[0]}"
        return await self._processes.run(name, _SERVICE, *arguments, settings=settings)

    @property
    def _settings(self) -> dict[str, str]:
        return {
            "TILLSYNC_DATABASE_URL": self.access.service_url,
            "TILLSYNC_MIGRATION_URL": self.access.admin_url,
            "TILLSYNC_SIGNING_KEYS": str(self._keys),
            "TILLSYNC_LISTEN": self.address,
        }

    async def _command(self, *arguments: str) -> str:
        name = f"tillsync-service {arguments[0]}"
        return await self._processes.run(name, _SERVICE, *arguments, settings=self._settings)


def _free_port() -> int:
    for port in range(_FIRST_PORT + os.getpid() % 5_000, _LAST_PORT):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise DemoFailed("no TCP port is free on 127.0.0.1")


def _must_be_silent(port: int, what: str) -> None:
    with socket.socket() as probe:
        if not probe.connect_ex(("127.0.0.1", port)):
            raise DemoFailed(f"{what}, but somebody still answers on its port {port}")
