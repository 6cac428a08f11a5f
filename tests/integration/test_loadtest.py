"""`tillsync-service loadtest` as a gate before a release: what it counts, and what it leaves."""

# ruff: noqa: N802 - gRPC dictates the names of the service that is played here

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import asyncpg
import grpc
import pytest
from grpc_health.v1.health import aio as health_aio
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from support.operators import Shell, service_with_postgres, shell_at
from support.polling import eventually
from support.service import ServiceProcess
from tillsync.v1 import admin_service_pb2, device_service_pb2, ingest_service_pb2
from tillsync.v1.admin_service_pb2_grpc import (
    AdminServiceServicer,
    add_AdminServiceServicer_to_server,
)
from tillsync.v1.device_service_pb2_grpc import (
    DeviceServiceServicer,
    add_DeviceServiceServicer_to_server,
)
from tillsync.v1.event_pb2 import Outcome, Verdict
from tillsync.v1.ingest_service_pb2_grpc import (
    IngestServiceServicer,
    add_IngestServiceServicer_to_server,
)

NAMES = {"total", "unique", "accepted", "duplicates", "other", "p50_ms", "p95_ms"}


@pytest.fixture(scope="module")
def database(postgres):
    """The name of this module's database."""
    name = asyncio.run(postgres.make_database())
    yield name
    asyncio.run(postgres.drop_database(name))


@pytest.fixture(scope="module")
def service(postgres, database, tmp_path_factory):
    """A service for all tests of this module that leave it alive."""
    service = ServiceProcess(postgres.serving_url(database), tmp_path_factory.mktemp("service"))
    asyncio.run(service.start())
    yield service
    asyncio.run(service.kill())


@pytest.fixture
def shell(service) -> Shell:
    """An operator of every tenant."""
    return shell_at(service)


async def some_sales_are_stored(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:

        async def stored() -> bool:
            return await connection.fetchval("SELECT count(*) FROM tillsync.event") > 50

        await eventually(stored, within_seconds=60)
    finally:
        await connection.close()


async def test_every_sale_counts_once(shell):
    """400 sales are sent 2,000 times, 75 at once: each counts once, the gate opens, and nothing
    is left behind."""
    load = await shell.run("loadtest", "--total", "2000", "--unique", "400")

    assert load.status == 0, load.err
    counted = load.last_json
    assert set(counted) == NAMES
    assert (counted["accepted"], counted["duplicates"], counted["other"]) == (400, 1600, 0)
    assert 0 < counted["p50_ms"] <= counted["p95_ms"]
    assert load.err == ""
    assert await shell.trials_left() == []


async def test_more_different_sales_than_calls_is_wrong_usage(shell):
    """Nobody can send 10 different sales in 5 calls: the command says so."""
    load = await shell.run("loadtest", "--total", "5", "--unique", "10")

    assert (load.status, load.out) == (2, "")
    assert "--unique 10 is more than --total 5" in load.err


async def test_a_load_test_that_cannot_begin_does_not_open_the_gate(service, shell):
    """A dead address or an operator of one tenant: status 2, one line, no numbers."""
    tenant = (await shell.run("tenants", "create", "-q", "Shops")).out.strip()
    dead = await shell.run("loadtest", "--service", "127.0.0.1:1")
    limited = await shell_at(service, tenant).run("loadtest")

    for load, words in ((dead, "No Tillsync service"), (limited, "(PERMISSION_DENIED)")):
        assert (load.status, load.out) == (2, "")
        assert load.err.count("\n") == 1
        assert words in load.err


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
async def test_an_interrupted_load_test_cleans_up(postgres, database, shell, number, status):
    """The operator loses patience and presses Ctrl-C, twice: the tenant is removed all the same."""
    running = await shell.start("loadtest", "--total", "50000", "--unique", "5000")
    await some_sales_are_stored(postgres.admin_url(database))

    running.signal(number)
    await asyncio.sleep(0.05)
    with suppress(ProcessLookupError):  # it may have cleaned up by now
        running.signal(number)
    load = await running.ended()

    assert load.status == status
    assert load.out == ""
    assert await shell.trials_left() == []


async def test_a_call_without_an_answer_in_time_is_no_success(shell):
    """The service is too slow for the tills: calls time out, none is sent again, status 2."""
    load = await shell.run(
        "loadtest", "--total", "300", "--unique", "300", "--timeout-seconds", "0.001"
    )

    counted = load.last_json
    assert load.status == 2
    assert counted["accepted"] + counted["duplicates"] + counted["other"] == 300
    assert counted["other"] > 0
    assert "did not answer within 0.001 s" in load.err
    assert await shell.trials_left() == []


async def test_a_postgres_that_dies_meanwhile_closes_the_gate():
    """The database goes away in the middle and comes back: the calls of that time are counted as
    something else, the status is 2, and the tenant is removed once the database is back."""
    async with service_with_postgres() as (service, postgres):
        shell = shell_at(service)
        running = await shell.start("loadtest", "--total", "8000", "--unique", "4000")
        await some_sales_are_stored(postgres.admin_url)

        await postgres.stop()
        await asyncio.sleep(2)
        await postgres.start()
        load = await running.ended()

        counted = load.last_json
        assert load.status == 2
        assert counted["other"] > 0
        assert counted["accepted"] + counted["duplicates"] + counted["other"] == 8000
        assert "(DATABASE_UNAVAILABLE)" in load.err
        assert await shell.trials_left() == []


class Forgetful(IngestServiceServicer, DeviceServiceServicer, AdminServiceServicer):
    """A service that forgets what it has stored: every sale is ACCEPTED, each time."""

    def __init__(self) -> None:
        self.tenants: set[str] = set()
        self.removal_works = True
        self.position = 0

    async def CreateTenant(self, request, context):
        assert request.disposable
        self.tenants.add(request.tenant_id)
        return admin_service_pb2.CreateTenantResponse()

    async def CreateStore(self, request, context):
        store = admin_service_pb2.Store(store_id=str(uuid4()))
        return admin_service_pb2.CreateStoreResponse(store=store)

    async def CreateEnrolmentCode(self, request, context):
        return admin_service_pb2.CreateEnrolmentCodeResponse(code="CODE")

    async def DeleteTenant(self, request, context):
        if not self.removal_works:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no longer")
        self.tenants.remove(request.tenant_id)
        return admin_service_pb2.DeleteTenantResponse()

    async def Enroll(self, request, context):
        return device_service_pb2.EnrollResponse(device_id=str(uuid4()))

    async def IssueToken(self, request, context):
        answer = device_service_pb2.IssueTokenResponse(access_token="token")
        answer.expires_in.FromSeconds(600)
        return answer

    async def Ingest(self, request, context):
        self.position += 1
        verdict = Verdict(outcome=Outcome.OUTCOME_ACCEPTED, position=self.position)
        return ingest_service_pb2.IngestResponse(verdicts=[verdict])


@asynccontextmanager
async def served(servicer: Forgetful) -> AsyncIterator[Shell]:
    """The servicer on a port of its own, and a shell for it."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    health = health_aio.HealthServicer()
    await health.set("", HealthCheckResponse.SERVING)
    add_HealthServicer_to_server(health, server)
    add_AdminServiceServicer_to_server(servicer, server)
    add_DeviceServiceServicer_to_server(servicer, server)
    add_IngestServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Shell(f"127.0.0.1:{port}", "token")
    finally:
        await server.stop(None)


async def test_a_sale_that_counts_twice_closes_the_gate():
    """A service forgets its keys and takes repeats for new sales: status 1, and it says so."""
    servicer = Forgetful()
    async with served(servicer) as shell:
        load = await shell.run("loadtest", "--total", "20", "--unique", "5")

    assert load.status == 1
    assert (load.last_json["accepted"], load.last_json["duplicates"]) == (20, 0)
    assert "20 were ACCEPTED" in load.err
    assert servicer.tenants == set()


async def test_smoke_removes_its_tenant_also_when_a_step_failed():
    """The same forgetful service fails the smoke test at the repeat, and is left as it was."""
    servicer = Forgetful()
    async with served(servicer) as shell:
        smoke = await shell.run("smoke")

    assert smoke.status == 1
    failed, cleaned = smoke.out.splitlines()[-2:]
    assert failed.startswith("✗ the same again")
    assert "ACCEPTED instead of DUPLICATE" in failed
    assert cleaned.startswith("✓ clean up")
    assert servicer.tenants == set()


async def test_what_could_not_be_removed_is_named():
    """The tenant cannot be removed: the numbers are told, the gate stays closed, and the operator
    gets the command that removes it later."""
    servicer = Forgetful()
    servicer.removal_works = False
    async with served(servicer) as shell:
        load = await shell.run("loadtest", "--total", "5", "--unique", "5")

    (left,) = servicer.tenants
    assert load.status == 2
    assert load.last_json["accepted"] == 5
    assert re.search(f"tillsync-service tenants delete {left}", load.err)
