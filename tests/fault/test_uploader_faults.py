"""Bad links, strange answers and power cuts between the till and head office."""

import asyncio
import random
import sys
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from support.faultproxy import FaultProxy
from support.scripted_service import ScriptedService, fails, hangs
from support.till import Till, until
from tillsync_agent import link
from tillsync_agent.errors import OutboxFull

KILLED_AGENT = Path(__file__).parents[1] / "support" / "killed_agent.py"
STEPS = ("take", "send", "answer", "settle")


@pytest.fixture
async def service():
    async with ScriptedService() as running:
        yield running


@pytest.fixture
async def network(service):
    async with FaultProxy("127.0.0.1", service.port) as proxy:
        yield proxy


@pytest.fixture
def till(tmp_path, service, network):
    till = Till(tmp_path, service, network.address)
    yield till
    till.close()


@pytest.fixture
def quick_keepalive(monkeypatch):
    """A keepalive of a second instead of twenty; the other settings stay as they are."""
    options = {**dict(link._CHANNEL_OPTIONS)}
    for name in ("keepalive_time_ms", "keepalive_timeout_ms", "http2.ping_timeout_ms"):
        options[f"grpc.{name}"] //= 20
    monkeypatch.setattr(link, "_CHANNEL_OPTIONS", tuple(options.items()))


async def test_a_lost_answer_makes_no_second_sale(till, service, network):
    """Head office stored the sale, the answer was lost and the line broke: the till sends it
    again, hears DUPLICATE, and head office has it once (I2, F9)."""
    network_lost = asyncio.Event()

    async def lose(service, request, context):
        network.lose_responses()
        network_lost.set()
        return service.answer(request.events).SerializeToString()

    service.script.append(lose)
    keys = till.record(10)

    async with till.agent() as agent:
        await network_lost.wait()
        await until(lambda: len(service.stored) == 10)
        assert till.waiting == 10
        network.pass_on()
        network.cut()
        left = await agent.drain(20)

    assert left.waiting == 0
    assert list(service.stored) == keys
    assert len(service.batches) == 2


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK])
@pytest.mark.parametrize("stored", [False, True], ids=["not-stored", "stored"])
async def test_i4_no_status_code_makes_a_till_drop_a_sale(tmp_path, service, code, stored):
    """401 and 404 from a proxy, UNIMPLEMENTED, PERMISSION_DENIED, anything: whether the batch was
    stored or not, the till keeps the sales until a verdict came, and each counts once (I4, F14)."""
    till = Till(tmp_path, service)
    service.script.extend([fails(code, "no", stored=stored), fails(code, "no")])
    keys = till.record(4)

    await till.drained()

    assert sorted(service.stored) == sorted(keys)
    assert till.outbox.summary().settled == 4
    till.close()


@pytest.mark.parametrize("reason", ["DEVICE_REVOKED", "TENANT_GONE", "SECRET_UNKNOWN", ""])
async def test_a_till_that_is_refused_a_token_keeps_its_sales(till, service, reason):
    """The till was revoked, or its secret is not known: nothing is lost, nothing is hammered, and
    status has the reason."""
    code = grpc.StatusCode.PERMISSION_DENIED
    service.token_failures.extend([(code, "no", reason)] * 50)
    till.record(3)

    async with till.agent():
        await until(lambda: till.note.last_error)

    assert till.waiting == 3
    assert service.batches == []
    assert (reason or code.name) in till.note.last_error
    if reason in {"DEVICE_REVOKED", "TENANT_GONE"}:
        assert len(service.token_failures) == 49


async def test_a_service_that_never_answers_does_not_hold_the_till_for_ever(till, service):
    """Head office takes the batch and says nothing: after a while the till tries again."""
    till.settings = replace(till.settings, batch_timeout_seconds=0.3)
    keys = till.record(2)
    service.script.append(hangs)

    await till.drained()

    assert sorted(service.stored) == keys


@pytest.mark.usefixtures("quick_keepalive")
async def test_a_half_open_link_is_noticed_while_a_batch_waits(till, service, network):
    """The router restarted and forgot the connection, nobody said goodbye: the keepalive notices
    long before the batch's time is over, and the sales go out on a new connection (F18)."""
    async with till.agent() as agent:
        till.record()
        await until(lambda: till.waiting == 0)
        network.drop_silently()
        till.record(3)
        await until(lambda: till.note.last_error, timeout_seconds=4)
        assert "DEADLINE" not in till.note.last_error
        network.pass_on()
        network.cut()
        left = await agent.drain(20)

    assert left.waiting == 0
    assert len(service.stored) == 4


@pytest.fixture
def impatient_connects(monkeypatch):
    """A try to connect may take a twentieth of its time; the other settings stay as they are."""
    options = {**dict(link._CHANNEL_OPTIONS)}
    options["grpc.min_reconnect_backoff_ms"] //= 20
    monkeypatch.setattr(link, "_CHANNEL_OPTIONS", tuple(options.items()))


@pytest.fixture
async def silent_server():
    """Takes every connection and never says a word, as a program that hangs does. Gives its port,
    and how many connections there are."""
    open_now = []

    async def say_nothing(reader, writer):
        open_now.append(writer)
        try:
            while await reader.read(65_536):
                pass
        finally:
            open_now.remove(writer)
            writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], open_now


@pytest.mark.usefixtures("impatient_connects")
async def test_a_server_that_takes_the_connection_and_stays_silent_is_let_go(
    till, service, network, silent_server
):
    """Head office's service hangs: it takes the shopkeeper's connection and never says a word. The
    till hangs up by itself, and when the service is back the sale arrives by itself too."""
    silent_port, open_now = silent_server
    network.retarget("127.0.0.1", silent_port)
    keys = till.record()

    async with till.agent() as agent:
        await until(lambda: network.connections >= 2 and till.note.failures_in_a_row >= 2)
        assert till.waiting == 1
        network.retarget("127.0.0.1", service.port)
        left = await agent.drain(20)
        await until(lambda: not open_now)

    assert left.waiting == 0
    assert list(service.stored) == keys


async def test_a_service_that_gives_no_token_for_ever_is_let_go(till, service, monkeypatch):
    """Head office takes the question for a token and never answers it: the shopkeeper's till asks
    again after a while, and the sale arrives."""
    monkeypatch.setattr(link, "UNARY_TIMEOUT_SECONDS", 0.3)
    service.token_hangs = 2
    keys = till.record()

    await till.drained()

    assert list(service.stored) == keys
    assert service.token_hangs == 0
    assert "DEADLINE_EXCEEDED" in till.note.last_error


async def test_a_slow_line_gets_the_sales_through(till, service, network):
    """A satellite line with long delays: slow, and nothing fails."""
    network.delay(0.1)
    keys = till.record(50)

    await till.drained()

    assert list(service.stored) == keys


async def test_a_service_that_restarts_is_found_again(tmp_path):
    """Head office restarts its service while tills sell: they go on by themselves when it is
    back, and nothing counts twice."""
    async with ScriptedService() as first:
        till = Till(tmp_path, first)
        async with till.agent() as agent:
            till.record(5)
            await until(lambda: till.waiting == 0)
            await first._server.stop(grace=None)
            till.record(5)
            await until(lambda: till.note.failures_in_a_row >= 2)
            again = ScriptedService(
                port=first.port, stored=first.stored, secrets=first.secrets, tokens=first.tokens
            )
            async with again:
                left = await agent.drain(20)
                assert left.waiting == 0

    assert len(first.stored) == 10
    till.close()


@pytest.mark.parametrize(
    "address", ["no-such-host.invalid:443", "127.0.0.1:1"], ids=["no such name", "nobody listens"]
)
async def test_an_address_that_does_not_answer_loses_nothing(tmp_path, service, address):
    """The name cannot be resolved, or nobody is there: the sales wait and status says which."""
    till = Till(tmp_path, service, address, plaintext=True)
    till.record(2)

    async with till.agent():
        await until(lambda: till.note.failures_in_a_row >= 2)

    assert till.waiting == 2
    assert "UNAVAILABLE" in till.note.last_error
    till.close()


async def test_f20_a_captive_portal_is_not_head_office(tmp_path, service):
    """The shop's guest network answers every connection with a web page: the sales wait."""

    async def portal(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html>Welcome</html>")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(portal, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        till = Till(tmp_path, service, f"127.0.0.1:{port}")
        till.record(2)
        async with till.agent():
            await until(lambda: till.note.failures_in_a_row >= 2)

    assert till.waiting == 2
    till.close()


async def test_the_service_says_when_to_come_back_and_is_obeyed(till, service):
    """Head office is overloaded and asks for two seconds: the till does not come earlier."""
    busy = fails(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "work waits", reason="OVERLOADED", pushback_ms=2_000
    )
    service.script.append(busy)
    till.record()
    loop = asyncio.get_running_loop()

    async with till.agent():
        await until(lambda: len(service.batches) == 1)
        refused_at = loop.time()
        await until(lambda: len(service.batches) == 2)

    assert loop.time() - refused_at >= 1.9


async def test_a_full_disk_while_settling_costs_a_repeat_and_no_sale(
    tmp_path, service, monkeypatch
):
    """The till's disk fills up just when head office has answered: the sales stay on the till, are
    sent again when there is room, and head office counts each once (F31)."""
    till = Till(tmp_path, service, batch_events=5)
    keys = till.record(20)
    settle, failures = till.outbox.settle, [OutboxFull("the disk is full")] * 3

    def settle_when_there_is_room(settlements):
        if failures:
            raise failures.pop()
        settle(settlements)

    monkeypatch.setattr(till.outbox, "settle", settle_when_there_is_room)

    await till.drained()

    assert list(service.stored) == keys
    assert till.outbox.summary().settled == 20
    assert len(service.batches) > 4
    assert till.note.last_error == "the disk is full"
    till.close()


async def run_killed_agent(till: Till, step: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(KILLED_AGENT), str(till.folder), step
    )
    return await asyncio.wait_for(process.wait(), 60)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("step", STEPS)
async def test_a_power_cut_at_any_step_loses_and_doubles_nothing(tmp_path, service, step):
    """The power fails right after take, send, answer or settle: after the restart every sale is
    at head office, once (F16, F17)."""
    till = Till(tmp_path, service, batch_events=5)
    keys = till.record(12)

    assert await run_killed_agent(till, step) == -9
    kept = till.waiting + till.outbox.summary().settled
    assert kept == 12
    assert await run_killed_agent(till, "none") == 0

    assert list(service.stored) == keys
    assert till.waiting == 0
    till.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
async def test_many_power_cuts_in_a_row_always_end_with_everything_sent(tmp_path, service):
    """A shop with a loose plug: the till is switched off again and again, and still gets there."""
    chance = random.Random(17)
    till = Till(tmp_path, service, batch_events=3)
    keys = till.record(20)

    for _ in range(8):
        await run_killed_agent(till, chance.choice(STEPS))
    assert await run_killed_agent(till, "none") == 0

    assert list(service.stored) == keys
    till.close()
