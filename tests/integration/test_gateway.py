"""Store-and-forward on the till itself, for point-of-sale programs in other languages."""

import os
import stat

import grpc
import pytest

from support.scripted_service import ScriptedService
from support.till import Till, a_sale, until
from tillsync.v1 import event_pb2, ingest_service_pb2, ingest_service_pb2_grpc
from tillsync_agent.errors import OutboxFull
from tillsync_agent.gateway import Gateway


@pytest.fixture
def till(tmp_path):
    till = Till(tmp_path, ScriptedService(port=1))
    yield till
    till.close()


@pytest.fixture
async def port(till):
    gateway = Gateway(till.outbox, till.settings.gateway_token_path)
    yield await gateway.start(0)
    await gateway.stop()


@pytest.fixture
async def stub(port):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield ingest_service_pb2_grpc.IngestServiceStub(channel)


@pytest.fixture
def metadata(till, port):
    token = till.settings.gateway_token_path.read_text()
    return (("authorization", f"Bearer {token}"),)


def an_event(key: str, number: int = 1) -> event_pb2.Event:
    event = event_pb2.Event(key=key, business_day="2026-11-22")
    event.body.Pack(a_sale(number))
    return event


def a_batch(*events: event_pb2.Event) -> ingest_service_pb2.IngestRequest:
    return ingest_service_pb2.IngestRequest(events=events)


async def test_a_queued_sale_is_durable_on_the_till(till, stub, metadata):
    """A till program in another language hears QUEUED: the sale is in the outbox's file by then,
    numbered like any other, and the same sale again is no second one."""
    for _ in range(2):
        answer = await stub.Ingest(a_batch(an_event("a"), an_event("b", 2)), metadata=metadata)

    assert [v.outcome for v in answer.verdicts] == [event_pb2.OUTCOME_QUEUED] * 2
    taken = [event_pb2.Event.FromString(row.envelope) for row in till.outbox.take()]
    assert [(event.key, event.device_sequence) for event in taken] == [("a", 1), ("b", 2)]


async def test_a_stream_answers_each_batch_in_order(till, stub, metadata):
    """A program with many sales sends batch after batch on one stream, as to head office."""
    call = stub.IngestStream(metadata=metadata)
    for key in "abc":
        await call.write(ingest_service_pb2.IngestStreamRequest(events=[an_event(key)]))
        answer = await call.read()
        assert [v.outcome for v in answer.verdicts] == [event_pb2.OUTCOME_QUEUED]
    await call.done_writing()

    assert till.waiting == 3


async def test_one_bad_event_is_rejected_alone(till, stub, metadata):
    """One sale of three can never be stored: it is refused with the field at fault, as head
    office would, and the others are safe (I9)."""
    events = a_batch(an_event("a"), an_event("k" * 201), an_event("c"))

    answer = await stub.Ingest(events, metadata=metadata)

    assert [v.outcome for v in answer.verdicts] == [
        event_pb2.OUTCOME_QUEUED,
        event_pb2.OUTCOME_REJECTED,
        event_pb2.OUTCOME_QUEUED,
    ]
    assert answer.verdicts[1].refusal.reason == "EVENT_NOT_STORABLE"
    assert answer.verdicts[1].refusal.field == "key"
    assert till.waiting == 2


@pytest.mark.parametrize("shown", [None, "Bearer nope", "nope"])
async def test_a_program_without_the_token_gets_nothing_in(till, stub, port, shown):
    """Another user's program on the same machine reaches the port: without the token file it
    records nothing."""
    metadata = (("authorization", shown),) if shown else ()
    with pytest.raises(grpc.aio.AioRpcError) as unary:
        await stub.Ingest(a_batch(an_event("a")), metadata=metadata)
    call = stub.IngestStream(metadata=metadata)
    with pytest.raises(grpc.aio.AioRpcError) as stream:
        await call.read()

    assert unary.value.code() is stream.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert till.waiting == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
async def test_only_its_owner_reads_the_token(till, port):
    """The token is as private as the outbox."""
    assert stat.S_IMODE(till.settings.gateway_token_path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "raw", [b"\xff\xff", b"", b"\x0a\x00" * 1001], ids=["garbage", "0", "1001"]
)
async def test_an_unusable_request_is_invalid_and_never_unknown(till, port, metadata, raw):
    """A program sends nonsense: it hears INVALID_ARGUMENT, by which an agent halves its batch."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.unary_unary("/tillsync.v1.IngestService/Ingest")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await method(raw, metadata=metadata)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_full_disk_is_said_and_not_swallowed(till, stub, metadata, monkeypatch):
    """The till's disk is full: the program hears that nothing was recorded, and can tell the
    shopkeeper, instead of QUEUED."""

    def full(_event):
        raise OutboxFull("the disk is full")

    monkeypatch.setattr(till.outbox, "record_event", full)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Ingest(a_batch(an_event("a")), metadata=metadata)

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "disk is full" in refused.value.details()


async def test_two_gateways_do_not_share_a_port(till, port, tmp_path):
    """A second agent on the same port is refused: a sale must not land in another till's outbox."""
    with pytest.raises(OSError, match="cannot listen"):
        await Gateway(till.outbox, tmp_path / "other.token").start(port)


async def test_what_the_gateway_took_reaches_head_office(tmp_path):
    """From a foreign program through the till's outbox to head office, under its own key."""
    async with ScriptedService() as service:
        free = Gateway(None, tmp_path / "probe.token")
        free_port = await free.start(0)
        await free.stop()
        till = Till(tmp_path, service, gateway_port=free_port)
        async with till.agent():
            token = till.settings.gateway_token_path.read_text()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{free_port}") as channel:
                stub = ingest_service_pb2_grpc.IngestServiceStub(channel)
                await stub.Ingest(
                    a_batch(an_event("receipt-1")),
                    metadata=(("authorization", f"Bearer {token}"),),
                )
            await until(lambda: "receipt-1" in service.stored)
        till.close()
