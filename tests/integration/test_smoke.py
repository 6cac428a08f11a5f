"""`tillsync-service smoke` against a running service, well and unwell."""

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from support.operators import service_with_postgres, shell_at
from support.polling import eventually

STEPS = [
    "health",
    "tenant",
    "store and code",
    "enrol a till",
    "token",
    "a sale",
    "the same again",
    "another body",
    "a bad one",
    "clean up",
]


async def test_a_service_that_is_well_passes_and_is_as_before(shell):
    """After an installation the operator sees one line a step, all of them good, and nothing of
    it is left in the service."""
    smoke = await shell.run("smoke")

    assert smoke.status == 0, smoke.out
    lines = smoke.out.splitlines()
    assert len(lines) == len(STEPS)
    for step, line in zip(STEPS, lines, strict=True):
        assert line.startswith(f"✓ {step} ")
        assert " ms " in line
    assert await shell.trials_left() == []


async def test_each_verdict_is_the_right_one(shell):
    """A till's first sale is taken, its repeat is the same sale, another under its key is kept
    apart, and a bad one is refused with the field's name."""
    report = (await shell.run("smoke", "--json")).json

    details = {step["step"]: step["detail"] for step in report["steps"]}
    assert report["passed"]
    assert details["a sale"] == "ACCEPTED at position 1"
    assert details["the same again"] == "DUPLICATE of position 1"
    assert details["another body"] == "CONFLICT with position 1"
    assert details["a bad one"] == "REJECTED, naming key"


async def test_a_terminal_without_check_marks(shell):
    """On a terminal that knows ASCII only, the operator reads "ok" and "FAIL"."""
    shell.settings = {"PYTHONIOENCODING": "ascii"}
    well = await shell.run("smoke")
    unwell = await shell.run("smoke", "--service", "127.0.0.1:1")

    assert {line.split()[0] for line in well.out.splitlines()} == {"ok"}
    assert unwell.out.startswith("FAIL health")


async def test_a_dead_address_fails_at_once(shell):
    """Nothing listens there: one line says so, and nothing else is tried."""
    smoke = await shell.run("smoke", "--service", "127.0.0.1:1")

    assert smoke.status == 1
    (line,) = smoke.out.splitlines()
    assert line.startswith("✗ health ")
    assert "No Tillsync service answers at 127.0.0.1:1" in line


async def test_an_operator_of_one_tenant_cannot_try_the_service_out(service, shell):
    """The trial needs a tenant of its own: the operator of one retailer reads why it fails."""
    tenant = (await shell.run("tenants", "create", "-q", "Shops")).out.strip()

    smoke = await shell_at(service, tenant).run("smoke")

    assert smoke.status == 1
    assert "(PERMISSION_DENIED)" in smoke.out.splitlines()[-1]
    assert [line[0] for line in smoke.out.splitlines()] == ["✓", "✗"]


async def is_unready(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await HealthStub(channel).Check(HealthCheckRequest(), timeout=5)
    return answer.status == HealthCheckResponse.NOT_SERVING


async def test_without_its_postgres_a_service_fails():
    """The database is down: the operator reads that it is the database, and nothing is made. When
    it is back, the service passes again."""
    async with service_with_postgres() as (service, postgres):
        shell = shell_at(service)
        await postgres.stop()

        # Not by smoke itself: one that still finds health good would go on to its tenant, and try
        # for half a minute to remove it again.
        await eventually(lambda: is_unready(service.address), within_seconds=30)
        smoke = await shell.run("smoke")

        assert smoke.status == 1
        (line,) = smoke.out.splitlines()
        assert "its database does not answer" in line

        await postgres.start()

        async def passes() -> bool:
            return (await shell.run("smoke")).status == 0

        await eventually(passes, within_seconds=30)
        assert await shell.trials_left() == []
