"""The whole service while its database is away, and while it starts and stops."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from support.builders import an_event
from support.fleet import settings_on
from support.polling import eventually
from support.service import Caller, ServiceProcess, failure_of, names
from support.web import get
from tillsync_service.app import App
from tillsync_service.databases import token_issuer

if sys.platform == "win32":
    pytest.skip("needs signals", allow_module_level=True)

Code = grpc.StatusCode
TILLS = 300
WAITING_FOR_A_LOCK = "SELECT count(*) FROM pg_locks WHERE NOT granted"


@pytest.fixture
def my_settings(postgres_of_my_own, tmp_path):
    url = postgres_of_my_own.serving_url
    return settings_on(url, tmp_path, ready_timeout_seconds=0.5)


@pytest.fixture
async def app(my_settings):
    async with App(my_settings) as app:
        yield app


@pytest.fixture
async def till(app, my_settings, my_device):
    async with Caller(app.address, token_issuer(my_settings).device_token(my_device)[0]) as till:
        yield till


async def is_ready(app) -> bool:
    return (await get(app.http_port, "/readyz"))[0] == 200


async def is_not_ready(app) -> bool:
    return not await is_ready(app)


@pytest.mark.parametrize("manner", ["stopped", "frozen"])
async def test_while_the_database_is_away_sales_go_elsewhere_at_once(
    postgres_of_my_own, my_books, app, till, my_device, manner
):
    """The database is maintained, or its machine hangs: load balancers are told within seconds,
    hundreds of tills hear within a second that they shall come again, the service goes on living,
    and when the database is back everything works by itself."""
    assert names(await till.offer(an_event("before"))) == ["ACCEPTED"]
    if manner == "stopped":
        await postgres_of_my_own.stop()
    else:
        postgres_of_my_own.freeze()
    await eventually(lambda: is_not_ready(app))

    began = monotonic()
    failures = await asyncio.gather(
        *(failure_of(till.ingest(an_event(f"during-{n}"))) for n in range(TILLS))
    )

    assert monotonic() - began < 5  # for all of them, on any machine
    assert {failure.code for failure in failures} == {Code.UNAVAILABLE}
    assert await get(app.http_port, "/livez") == (200, "ok\n")
    async with grpc.aio.insecure_channel(app.address) as channel:
        answer = await HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=""))
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING

    if manner == "stopped":
        await postgres_of_my_own.start()
    else:
        postgres_of_my_own.thaw()
    await eventually(lambda: is_ready(app), within_seconds=30)
    assert names(await till.offer(an_event("after"))) == ["ACCEPTED"]


@pytest.fixture
def open_folder():
    """Where the account that PostgreSQL runs as may enter."""
    folder = Path(tempfile.mkdtemp(prefix="tillsync-start-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def test_a_service_that_is_stopped_while_it_starts_leaves_nothing_behind(open_folder):
    """The operator thinks better of it while the service is still making its database: it ends at
    once, with status 0, and so does the database."""
    folder, log = open_folder / "data", open_folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [Path(sys.executable).with_name("tillsync-service"), "serve"],
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("TILLSYNC_")},
                "TILLSYNC_DATA_DIR": str(folder),
                "TILLSYNC_LISTEN": "127.0.0.1:0",
            },
            stdout=output,
            stderr=output,
        )
    try:
        await eventually((folder / "postgres").exists, within_seconds=30)
        process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(process.wait, 60)
    finally:
        process.kill()

    assert (status, "stopped while it was starting" in log.read_text()) == (0, True)
    await eventually(lambda: not _processes_in(folder))


def _processes_in(folder: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(folder) in " ".join(process.info["cmdline"] or ())
    ]


async def test_a_stop_says_in_plain_words_how_it_went(postgres_of_my_own, my_device, tmp_path):
    """An operator reads the last line of a stop: it was drained, or so many calls were cut."""
    async with ServiceProcess(postgres_of_my_own.serving_url, tmp_path) as service:
        async with service.caller(my_device) as caller:
            await caller.offer(an_event())
        assert await service.stopped() == 0
        assert "\ndrained in " in service.log()


async def test_a_call_that_takes_too_long_is_cut_and_counted(my_books, my_settings, my_device):
    """Somebody holds the retailer's row for longer than a stop may take: the stop ends in time and
    says that a call was cut; the till sends its sale again later."""
    hasty = my_settings.model_copy(update={"stop_grace_seconds": 0.5})
    token = token_issuer(hasty).device_token(my_device)[0]
    async with App(hasty) as app, Caller(app.address, token) as till:
        transaction = my_books.connection.transaction()
        await transaction.start()
        await my_books.connection.execute(
            "SELECT FROM tillsync.tenant_head WHERE tenant_id = $1 FOR UPDATE", my_device.tenant_id
        )
        call = asyncio.create_task(failure_of(till.ingest(an_event())))
        await eventually(lambda: my_books.connection.fetchval(WAITING_FOR_A_LOCK))

        report = await app.stop()

        await transaction.rollback()
    assert (report.outcome, report.calls_cut) == ("deadline", 1)
    assert str(report).startswith("deadline: 1 calls cut after ")
    assert (await call).code in {Code.UNAVAILABLE, Code.CANCELLED}
