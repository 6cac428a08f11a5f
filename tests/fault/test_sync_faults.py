"""Links that lie, disks that fill up and steps that fail, between a till's copy and head office."""

import sys
from uuid import UUID

import pytest

from support.disks import mounted_disk
from support.faultproxy import FaultProxy
from support.fleet import app_served
from support.sync import HeadOffice
from support.synctill import SyncTill
from support.till import a_sale, until
from tillsync_agent import link, puller
from tillsync_agent.answers import CallFailed, Failure
from tillsync_agent.sync_link import PullStream
from tillsync_service.app import _SERVER_OPTIONS
from tillsync_service.foundation import limits


@pytest.fixture
async def fleet(database_url, tmp_path):
    async with app_served(database_url, tmp_path) as fleet:
        yield fleet


@pytest.fixture
async def store(fleet):
    return await fleet.a_store()


@pytest.fixture
async def office(database, migrator, store):
    office = HeadOffice(database, migrator, UUID(store.tenant_id))
    await office.define("price")
    await office.define("product")
    return office


@pytest.fixture
async def proxy(fleet):
    host, _, port = fleet.address.rpartition(":")
    async with FaultProxy(host, int(port)) as proxy:
        yield proxy


@pytest.fixture
async def till(fleet, store, proxy, tmp_path):
    code = (await fleet.operator().stub.CreateEnrolmentCode(store)).code
    till = await SyncTill.enrolled(fleet, tmp_path / "till", code, address=proxy.address)
    yield till
    till.close()


async def test_f18_a_half_open_connection_is_noticed_and_made_anew(
    office, till, proxy, monkeypatch
):
    """A router swallows everything both ways and closes nothing: the till notices that nobody
    speaks any more, and has the new price when the router works again."""
    monkeypatch.setattr(puller.Puller.__init__, "__kwdefaults__", quick_silence())
    await office.write("price", {"1": {"minor": 1}})
    async with till.agent():
        await till.has(await office.records())
        proxy.drop_silently()
        await office.write("price", {"1": {"minor": 2}})
        await until(lambda: till.agent_steps.count("open") >= 2)
        proxy.cut()
        proxy.pass_on()
        await till.has(await office.records())


def quick_silence():
    return puller.Puller.__init__.__kwdefaults__ | {"silence_seconds": 0.3}


async def test_f19_each_step_of_a_first_load_may_fail_once(office, till, monkeypatch):
    """The first load is interrupted at its opening, at its first message and at the next: the same
    agent goes on each time, and the till ends with everything."""
    await office.write("product", {f"p{n}": {"n": n} for n in range(3_000)})
    failing = iter(["open", "message", "message", "applied"])
    next_failure = [next(failing)]
    real = PullStream.read

    async def fails_once(stream):
        messages = await real(stream)
        if next_failure[0] is not None:
            next_failure[0] = next(failing, None)
            raise CallFailed(Failure("UNAVAILABLE", "interrupted"))
        return messages

    monkeypatch.setattr(PullStream, "read", fails_once)
    async with till.agent():
        await till.has(await office.records())

    assert next_failure == [None]
    assert till.replica.summary().loads <= 2


def test_f39_pings_are_not_too_many():
    """A till that sits idle on a live stream all night is not sent away for its pings: the service
    allows them as often as the agent, and the service itself, send them."""
    agent, service = dict(link._CHANNEL_OPTIONS), dict(_SERVER_OPTIONS)

    allowed_ms = service["grpc.http2.min_recv_ping_interval_without_data_ms"]
    assert agent["grpc.keepalive_time_ms"] >= 2 * allowed_ms
    assert service["grpc.keepalive_permit_without_calls"] == 1
    assert service["grpc.keepalive_time_ms"] >= 2 * limits.MIN_PING_INTERVAL_MS
    assert agent["grpc.http2.max_pings_without_data"] == 0
    # And a live stream is never silent for as long as the agent takes for dead.
    assert 2 * limits.HEARTBEAT_SECONDS < link.KEEPALIVE_TIME_SECONDS * 2 < 45


async def test_f39_an_idle_stream_outlives_its_pings(office, till, monkeypatch):
    """Nothing changes at head office for a while: the till's stream stays the one it opened."""
    quick = tuple(
        (name, 300 if name == "grpc.keepalive_time_ms" else value)
        for name, value in link._CHANNEL_OPTIONS
    )
    monkeypatch.setattr(link, "_CHANNEL_OPTIONS", quick)
    await office.write("price", {"1": {"minor": 1}})
    async with till.agent():
        await till.has(await office.records())
        opened = till.agent_steps.count("open")
        await office.write("price", {"1": {"minor": 2}})
        await till.has(await office.records())
        assert till.agent_steps.count("open") == opened


async def test_a_copy_that_stays_wrong_is_not_loaded_again_and_again(office, till, migrator):
    """Head office's own digest is wrong: the till loads that collection once more, and then goes on
    living with it and hearing of changes."""
    await office.write("price", {"1": {"minor": 1}})
    await migrator.execute("UPDATE tillsync.record_digest SET digest = 7")
    async with till.agent():
        await until(lambda: till.replica.summary().heals >= 2)
        await office.write("product", {"1": {"n": 1}})
        await till.has(await office.records())

    assert till.agent_steps.count("open") <= 3


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small disk")
async def test_a_disk_that_is_full_of_records_stops_no_sale(fleet, store, office, tmp_path):
    """The catalogue does not fit onto the till's disk: sales go on being recorded and sent, and the
    copy is whole when there is room."""
    with mounted_disk(tmp_path / "disk", 4) as disk:
        code = (await fleet.operator().stub.CreateEnrolmentCode(store)).code
        till = await SyncTill.enrolled(fleet, disk / "till", code)
        room = disk / "room"
        room.write_bytes(bytes(2 << 20))
        await office.write("product", {f"p{n}": {"text": "x" * 500} for n in range(1_500)})
        async with till.agent():
            await until(lambda: "message" in till.agent_steps)
            room_was_short = True
            try:
                till.outbox.record(a_sale(1), amounts={"USD": 1})
            except Exception as error:  # noqa: BLE001 - said, and nothing lost: tried again
                room_was_short = "full" in str(error)
            assert room_was_short
            room.unlink()
            till.outbox.record(a_sale(2), amounts={"USD": 1})
            await until(lambda: till.outbox.summary().waiting == 0)
            await till.has(await office.records())
        till.close()
