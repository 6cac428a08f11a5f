"""More calls than memory: everybody is served in turn, and nobody brings the service down."""

import asyncio
import contextlib

import grpc
import pytest

from support.builders import an_event
from support.faultproxy import FaultProxy
from support.polling import eventually
from support.service import Caller, failure_of, ids_as_token, ingest_served, names
from tillsync.v1.ingest_service_pb2 import IngestRequest, IngestResponse, IngestStreamRequest
from tillsync.v1.ingest_service_pb2_grpc import IngestServiceStub
from tillsync_service import app
from tillsync_service.foundation import limits
from tillsync_service.foundation.budget import Budget
from tillsync_service.ingest.group_commit import GroupCommit
from tillsync_service.ingest.store import IngestStore

MIB = 1024 * 1024
ROOMS = 3


def room_for(calls: int, **more) -> Budget:
    """For so many calls whose message is not known yet, of one tenant or of several."""
    size = calls * limits.MAX_RECEIVE_BYTES
    return Budget(size, size, **more)


def four_mib() -> list:
    body = {"type_url": "x", "value": bytes(limits.MAX_BODY_BYTES - 300)}
    return [an_event(body=body) for _ in range(4)]


class Gate:
    """A store that notes what is inside and lets nothing out before `open` is set."""

    def __init__(self, database) -> None:
        self._store = IngestStore(database)
        self.groups: list[int] = []
        self.open = asyncio.Event()

    async def commit(self, tenant_id, batch):
        self.groups.append(len(batch))
        await self.open.wait()
        return await self._store.commit(tenant_id, batch)


class Submissions:
    """A group commit that counts who is inside."""

    def __init__(self, database) -> None:
        self.gate = Gate(database)
        self._group_commit = GroupCommit(self.gate)
        self.inside = 0

    async def submit(self, tenant_id, batch):
        self.inside += 1
        return await self._group_commit.submit(tenant_id, batch)


@pytest.fixture
def submissions(database):
    return Submissions(database)


@pytest.fixture
def quick_rounds(monkeypatch):
    monkeypatch.setattr(limits, "ROUND_SECONDS", 0.02)
    monkeypatch.setattr(limits, "PEER_PATIENCE_SECONDS", 0.1)


def unfinished(caller: Caller):
    """A call of Ingest whose message does not come yet."""
    call = caller.channel.stream_unary(
        "/tillsync.v1.IngestService/Ingest", IngestRequest.SerializeToString
    )
    return call(metadata=caller.metadata)


async def receiving(served) -> None:
    """Returns when a call holds room for a message that is not here."""
    guests = served.doorkeeper._house._guests
    await eventually(lambda: any(guest.waits_for_peer_since is not None for guest in guests))


async def test_what_there_is_no_room_for_stays_with_the_tills(submissions, device):
    """Five tills send 4 MiB each at once, and there is room for three: the others' bytes are not
    even taken off the line until there is, and then all are stored."""
    budget = room_for(ROOMS)
    async with ingest_served(
        group_commit=submissions, budget=budget, options=app._SERVER_OPTIONS
    ) as served:
        host, _, port = served.address.partition(":")
        async with (
            FaultProxy(host, int(port)) as network,
            Caller(network.address, ids_as_token(device)) as till,
        ):
            calls = [asyncio.create_task(till.offer(*four_mib())) for _ in range(ROOMS + 2)]
            await eventually(lambda: (submissions.inside, budget._waiting) == (ROOMS, 2))
            assert network.bytes_up < ROOMS * 4 * MIB + MIB

            submissions.gate.open.set()
            verdicts = await asyncio.gather(*calls)

    assert [names(answer) for answer in verdicts] == [["ACCEPTED"] * 4] * (ROOMS + 2)


async def test_large_batches_of_streams_are_looked_at_in_turn(submissions, device):
    """The same by stream: what came is taken apart and stored three at a time."""
    budget = room_for(ROOMS)
    async with (
        ingest_served(group_commit=submissions, budget=budget) as served,
        Caller(served.address, ids_as_token(device)) as till,
    ):
        streams = [till.stream() for _ in range(ROOMS + 2)]
        for stream in streams:
            await stream.write(IngestStreamRequest(events=four_mib()))
        await eventually(lambda: (submissions.inside, budget._waiting) == (ROOMS, 2))

        submissions.gate.open.set()
        answers = [await stream.read() for stream in streams]
        for stream in streams:
            stream.cancel()

    assert [names(answer.verdicts) for answer in answers] == [["ACCEPTED"] * 4] * (ROOMS + 2)


async def test_a_stream_gives_its_room_back_with_its_answer(submissions, device):
    """A till that was answered and says nothing more holds up nobody."""
    budget = room_for(1)
    submissions.gate.open.set()
    async with (
        ingest_served(group_commit=submissions, budget=budget) as served,
        Caller(served.address, ids_as_token(device)) as till,
    ):
        stream = till.stream()
        await stream.write(IngestStreamRequest(events=four_mib()))
        assert names((await stream.read()).verdicts) == ["ACCEPTED"] * 4

        assert names(await till.offer(an_event())) == ["ACCEPTED"]
        stream.cancel()


async def test_a_till_that_takes_no_answers_holds_no_room(submissions, device, quick_rounds):
    """A frozen program sends batches and never takes an answer. When no more answers go to it, the
    room of the last batch is not kept until it wakes up: the other tills go on."""
    submissions.gate.open.set()
    batch = IngestStreamRequest(events=[an_event() for _ in range(limits.MAX_BATCH_EVENTS)])
    async with (
        ingest_served(group_commit=submissions, budget=room_for(1)) as served,
        # A small window: megabytes of answers would fit into what gRPC takes by itself.
        grpc.aio.insecure_channel(served.address, options=(("grpc.http2.bdp_probe", 0),)) as frozen,
        Caller(served.address, ids_as_token(device)) as till,
    ):
        stream = IngestServiceStub(frozen).IngestStream(metadata=till.metadata)
        sending = asyncio.create_task(write_for_ever(stream, batch))
        for _ in range(30):
            assert names(await till.offer(an_event())) == ["ACCEPTED"]
        sending.cancel()
        stream.cancel()


async def write_for_ever(stream, batch) -> None:
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while True:
            await stream.write(batch)


async def test_hundreds_of_small_sales_are_stored_together(submissions, device):
    """At noon four hundred tills send a sale each. They all get inside while the first of them is
    being stored, although there is room for three large ones only, and share its successor."""
    async with (
        ingest_served(group_commit=submissions, budget=room_for(ROOMS)) as served,
        Caller(served.address, ids_as_token(device)) as till,
    ):
        calls = [asyncio.create_task(till.offer(an_event())) for _ in range(400)]
        await eventually(lambda: submissions.inside == 400)
        submissions.gate.open.set()

        assert [names(answer) for answer in await asyncio.gather(*calls)] == [["ACCEPTED"]] * 400
    assert submissions.gate.groups == [1, 399]


async def test_a_sender_who_never_finishes_does_not_starve_the_others(
    database, device, quick_rounds
):
    """A broken program holds the only room with a message that does not come. As soon as somebody
    has waited for it a while, the program loses its room and is told to come again."""
    async with (
        ingest_served(database, budget=room_for(1)) as served,
        Caller(served.address, ids_as_token(device)) as till,
    ):
        call = unfinished(till)
        await receiving(served)

        assert names(await till.offer(an_event())) == ["ACCEPTED"]

        failure = await failure_of(call)
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert failure.details["RetryInfo"].retry_delay.ToMilliseconds() == 1000


async def test_a_slow_link_has_all_the_time_while_nobody_waits(database, device, quick_rounds):
    """A shop on a slow link sends for longer than anybody's patience: it is let finish, because
    there is room for the others."""
    async with (
        ingest_served(database, budget=room_for(2)) as served,
        Caller(served.address, ids_as_token(device)) as till,
    ):
        call = unfinished(till)
        await receiving(served)
        (slow,) = served.doorkeeper._house._guests
        slow.waits_for_peer_since -= 3600
        for _ in range(3):
            assert names(await till.offer(an_event())) == ["ACCEPTED"]
            served.doorkeeper._house._look_at(slow)

        await call.write(IngestRequest(events=[an_event()]))
        await call.done_writing()

        assert names(IngestResponse.FromString(await call).verdicts) == ["ACCEPTED"]


async def test_a_call_that_is_given_up_leaves_its_room_and_its_place(database, device):
    """A till hangs up while it sends, another while it waits: the next one is served at once."""
    budget = room_for(1)
    async with (
        ingest_served(database, budget=budget) as served,
        Caller(served.address, ids_as_token(device)) as till,
    ):
        sending = unfinished(till)
        await receiving(served)
        waiting = till.stub.Ingest(IngestRequest(events=[an_event()]), metadata=till.metadata)
        behind = asyncio.create_task(till.offer(an_event("kept")))
        await eventually(lambda: budget._waiting == 2)

        waiting.cancel()
        await eventually(lambda: budget._waiting == 1)
        sending.cancel()

        assert names(await behind) == ["ACCEPTED"]
        await eventually(lambda: served.doorkeeper._house.inside == 0)
    assert not budget._payers


async def test_a_line_that_is_too_long_is_told_to_come_later(database, device):
    """The till behind a line that is long enough hears at once that it shall come in a second, and
    sends none of its bytes for nothing."""
    budget = room_for(1, max_waiting=1)
    async with (
        ingest_served(database, budget=budget) as served,
        Caller(served.address, ids_as_token(device)) as till,
    ):
        sending = unfinished(till)
        await receiving(served)
        waiting = asyncio.create_task(till.offer(an_event()))
        await eventually(lambda: budget._waiting == 1)

        failure = await failure_of(till.ingest(an_event()))

        sending.cancel()
        assert names(await waiting) == ["ACCEPTED"]
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert failure.pushback_ms == "1000"


async def test_more_streams_than_the_service_holds_are_refused(database, device, monkeypatch):
    """A program that opens streams without end is stopped at a number, and when one of them is
    closed the next is taken again."""
    monkeypatch.setattr(limits, "MAX_CALLS_INSIDE", 2)
    async with (
        ingest_served(database) as served,
        Caller(served.address, ids_as_token(device)) as till,
    ):
        streams = [till.stream() for _ in range(2)]
        await eventually(lambda: served.doorkeeper._house.inside == 2)

        failure = await failure_of(till.stream().read())
        assert names(await till.offer(an_event())) == ["ACCEPTED"]  # another method has its own

        streams.pop().cancel()
        await eventually(lambda: served.doorkeeper._house.inside == 1)
        stream = till.stream()
        await stream.write(IngestStreamRequest(events=[an_event()]))
        assert names((await stream.read()).verdicts) == ["ACCEPTED"]
        for open_ in (stream, *streams):
            open_.cancel()
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")


async def test_a_stop_does_not_wait_for_a_message_that_does_not_come(database, device):
    """The operator stops the service while a till is half-way through a message and another waits
    for room: both hear that it is stopping, and the stop does not wait for them."""
    budget = room_for(1)
    async with (
        ingest_served(database, budget=budget) as served,
        Caller(served.address, ids_as_token(device)) as till,
    ):
        sending = unfinished(till)
        await receiving(served)
        waiting = asyncio.create_task(failure_of(till.ingest(an_event())))
        await eventually(lambda: budget._waiting == 1)

        calls_cut = await served.doorkeeper.close(grace_seconds=20)

        failures = [await failure_of(sending), await waiting]
    assert calls_cut == 0
    for failure in failures:
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
