"""What probes are told, and when."""

import asyncio

import pytest
from grpc_health.v1 import health_pb2

from support.polling import eventually
from tillsync_service.foundation.errors import Unavailable
from tillsync_service.health import Health


class Postgres:
    """Answers, refuses, or says nothing at all."""

    def __init__(self) -> None:
        self.state = "answers"
        self.asked = 0

    async def ping(self) -> None:
        self.asked += 1
        if self.state == "refuses":
            raise Unavailable("no")
        if self.state == "says nothing":
            await asyncio.Event().wait()
        if self.state == "is odd":
            raise ZeroDivisionError


@pytest.fixture
def postgres():
    return Postgres()


@pytest.fixture
def health(postgres):
    return Health(["tillsync.v1.IngestService"], postgres.ping, timeout_seconds=0.05)


async def status(health, service):
    """The gRPC health's answer for a service."""
    request = health_pb2.HealthCheckRequest(service=service)
    answer = await health.servicer.Check(request, None)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def test_a_service_is_not_ready_before_it_has_heard_of_its_database(health):
    """A shop's sale is sent to no replica that does not know yet whether it can store it."""
    assert health.why_not_ready()
    await health.look()
    assert health.why_not_ready() == ""
    assert await status(health, "") == "SERVING"


@pytest.mark.parametrize("state", ["refuses", "says nothing", "is odd"])
async def test_without_its_database_it_is_alive_and_not_ready(health, postgres, state):
    """The database is away, in whatever manner: sales go to another replica, and nobody restarts
    this one, which would not help."""
    await health.look()
    postgres.state = state

    await health.look()

    assert health.why_not_ready()
    assert health.why_not_live() == ""
    for service in ("", "readiness", "tillsync.v1.IngestService"):
        assert await status(health, service) == "NOT_SERVING"
    assert [await status(health, name) for name in ("startup", "liveness")] == ["SERVING"] * 2

    postgres.state = "answers"
    await health.look()
    assert health.why_not_ready() == ""


async def test_a_look_leaves_nothing_behind(health, postgres):
    """The database says nothing for a month: every look ends, and the service's memory does not
    grow by one that still waits."""
    postgres.state = "says nothing"
    before = asyncio.all_tasks()
    for _ in range(20):
        await health.look()
    assert asyncio.all_tasks() == before


async def test_probes_ask_the_database_nothing(health, postgres):
    """A thousand probes a second from a load balancer that means it well: the database is asked
    once a second, by the service itself."""
    await health.look()
    for _ in range(1_000):
        health.why_not_ready()
        await status(health, "readiness")
    assert postgres.asked == 1


async def test_a_stop_is_no_fault_of_the_database(health, postgres):
    """The service is updated: it is not ready from the first moment on, and stays so, although the
    database is there."""
    await health.look()
    await health.drain()
    await health.look()

    assert health.why_not_ready() == "It is stopping."
    assert await status(health, "") == "NOT_SERVING"


async def test_a_service_that_lost_a_part_of_itself_is_restarted(postgres):
    """A bug ends what should go on for ever, such as the look for new prices: the probe says so,
    and the service is started anew instead of serving old prices."""
    ended = []
    health = Health([], postgres.ping, timeout_seconds=1, ended=lambda: ended)
    await health.look()
    assert await status(health, "liveness") == "SERVING"

    ended.append("the look for changes")
    await health.look()

    assert "the look for changes" in health.why_not_live()
    assert await status(health, "liveness") == "NOT_SERVING"


async def test_looks_go_on(health, postgres, monkeypatch):
    """Readiness follows the database by itself, there and back."""
    monkeypatch.setattr("tillsync_service.health.EVERY_SECONDS", 0.01)
    running = asyncio.create_task(health.run())
    await eventually(lambda: not health.why_not_ready())
    postgres.state = "refuses"
    await eventually(health.why_not_ready)
    postgres.state = "answers"
    await eventually(lambda: not health.why_not_ready())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_an_old_answer_is_none(health, monkeypatch):
    """The service's loop stood still for a minute: what it knew of the database before is not
    what it says now."""
    await health.look()
    now = health._looked_at
    monkeypatch.setattr("tillsync_service.health.monotonic", lambda: now + 60)
    assert "seconds" in health.why_not_ready()
