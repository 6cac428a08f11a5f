"""The consumers that are shown to integrators do what they say, against a service as it runs."""

import asyncio
import base64
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import asyncpg
import pytest

from support.builders import an_event
from support.feed import Reader, declare_restored
from support.polling import eventually
from support.service import ServiceProcess
from tillsync_service.databases import utc_now
from tillsync_service.fleet.keys import KeyFile
from tillsync_service.fleet.tokens import TokenIssuer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"


class PythonConsumer:
    """docs/examples/consumer.py, and what it has in its file."""

    name = "erp"

    def __init__(self, folder: Path) -> None:
        self._file = folder / "sales.db"

    def command(self, address: str) -> list[str]:
        program = str(EXAMPLES / "consumer.py")
        return [sys.executable, program, "--service", address, "--database", str(self._file)]

    def held(self) -> list[tuple[str, bytes]]:
        if not self._file.exists():
            return []
        connection = sqlite3.connect(self._file)
        try:
            return connection.execute("SELECT key, body FROM event ORDER BY rowid").fetchall()
        except sqlite3.OperationalError:
            return []  # it has not made its tables yet
        finally:
            connection.close()


class NodeConsumer:
    """docs/examples/consumer.mjs, with its packages, and what it has in its file."""

    name = "warehouse"

    def __init__(self, folder: Path, installed: Path) -> None:
        self._file = folder / "sales.jsonl"
        self._installed = installed

    def command(self, address: str) -> list[str]:
        program = str(self._installed / "consumer.mjs")
        files = ["--file", str(self._file), "--protos", str(ROOT / "protos")]
        return ["node", program, "--service", address, *files]

    def held(self) -> list[tuple[str, bytes]]:
        if not self._file.exists():
            return []
        lines = self._file.read_text().splitlines(keepends=True)
        pages = [json.loads(line) for line in lines if line.endswith("\n")]
        return [
            (event["key"], base64.b64decode(event["body"]))
            for page in pages
            for event in page["events"]
        ]

    def tear(self) -> None:
        """A crash in the middle of a line."""
        with self._file.open("a") as file:
            file.write('{"cursor": "')


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The Node example with its packages, in a folder of its own."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("Node.js and npm are not installed")
    folder = tmp_path_factory.mktemp("node-example")
    for name in ("consumer.mjs", "package.json", "package-lock.json"):
        shutil.copy(EXAMPLES / name, folder)
    answer = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    if answer.returncode:
        pytest.skip(f"npm cannot install from a registry here: {answer.stderr[-300:]}")
    return folder


@pytest.fixture(params=["python", "node"])
def consumer(request, tmp_path):
    if request.param == "python":
        return PythonConsumer(tmp_path)
    return NodeConsumer(tmp_path, request.getfixturevalue("installed"))


@pytest.fixture
async def service(database_url, tmp_path):
    async with ServiceProcess(database_url, tmp_path) as service:
        yield service


class Running:
    """An example as a process, with an integrator's token."""

    def __init__(self, service: ServiceProcess, device) -> None:
        self._service = service
        self._token = TokenIssuer(KeyFile(service.keys), utc_now).integrator_token(
            "test", device.tenant_id, 3600
        )

    async def start(self, consumer, *more: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *consumer.command(self._service.address),
            *more,
            env={**os.environ, "TILLSYNC_TOKEN": self._token},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    async def to_the_end(self, consumer) -> str:
        """Until caught up; gives what it said."""
        process = await self.start(consumer, "--once")
        _, said = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, said
        return said.decode()

    def reader(self) -> Reader:
        return Reader(self._service.address, self._token)


async def sell(service, device, keys: Iterable[str]) -> list[tuple[str, bytes]]:
    """What a consumer must hold of it."""
    events = [an_event(key, receipt=key) for key in keys]
    async with service.caller(device) as till:
        await till.offer(*events)
    return [(event.key, event.body.value) for event in events]


async def test_an_example_holds_each_event_once_whatever_happens_to_it(service, device, consumer):
    """The ERP's program reads, is killed while it is live, and goes on: it holds each sale once,
    in order, and its operator sees how far it is."""
    run = Running(service, device)
    sold = await sell(service, device, [f"a{n}" for n in range(500)])
    await run.to_the_end(consumer)
    assert consumer.held() == sold

    process = await run.start(consumer)
    try:
        for part in range(5):
            sold += await sell(service, device, [f"{part}-{n}" for n in range(100)])
        await eventually(lambda: len(consumer.held()) > 500, within_seconds=30)
    finally:
        process.kill()
        await process.wait()
    if isinstance(consumer, NodeConsumer):
        consumer.tear()
    sold += await sell(service, device, ["last"])
    await run.to_the_end(consumer)

    assert consumer.held() == sold
    async with run.reader() as reader:
        (listed,) = (await reader.consumers()).consumers
    assert (listed.name, listed.lag_events) == (consumer.name, 0)


async def test_i11_an_example_holds_each_event_once_after_a_restore(
    service, device, consumer, admin_database_url
):
    """The service's database was restored: the program reads again from the start, and holds
    nothing twice."""
    run = Running(service, device)
    sold = await sell(service, device, [f"a{n}" for n in range(20)])
    await run.to_the_end(consumer)
    connection = await asyncpg.connect(admin_database_url)
    await declare_restored(connection, device.tenant_id)
    await connection.close()
    sold += await sell(service, device, ["new"])

    said = await run.to_the_end(consumer)

    assert "restored" in said
    assert consumer.held() == sold
    assert await run.to_the_end(consumer) == ""


async def test_an_example_waits_for_a_service_that_is_away(service, device, consumer):
    """The service is restarted: the program that was connected goes on by itself."""
    run = Running(service, device)
    sold = await sell(service, device, ["before"])
    process = await run.start(consumer)
    try:
        await eventually(lambda: consumer.held() == sold, within_seconds=30)
        port = service.address.rpartition(":")[2]
        assert await service.stopped() == 0
        service._environment["TILLSYNC_LISTEN"] = f"127.0.0.1:{port}"
        await service.start()
        sold += await sell(service, device, ["after"])
        await eventually(lambda: consumer.held() == sold, within_seconds=60)
    finally:
        process.kill()
        await process.wait()
