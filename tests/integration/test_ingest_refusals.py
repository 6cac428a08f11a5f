"""Calls that cannot succeed: the till is told what to do, and nobody's data gets out."""

import asyncio

import asyncpg
import grpc
import pytest

from support.builders import an_event, some_events
from support.polling import eventually
from support.service import Caller, failure_of, ids_as_token, ingest_served, names
from tillsync.v1.ingest_service_pb2 import IngestRequest, IngestResponse, IngestStreamRequest
from tillsync_service.foundation import limits
from tillsync_service.ingest.group_commit import GroupCommit
from tillsync_service.ingest.store import IngestStore

Code = grpc.StatusCode


@pytest.fixture
async def served(database):
    async with ingest_served(database) as served:
        yield served


@pytest.fixture
async def till(served, device):
    async with Caller(served.address, ids_as_token(device)) as caller:
        yield caller


async def first_answer(till: Caller, *requests: IngestStreamRequest):
    async def send():
        for request in requests:
            yield request

    async for answer in till.stream(send()):
        return answer
    return None


@pytest.mark.parametrize("count", [0, 1001])
@pytest.mark.parametrize("door", ["call", "stream"])
async def test_an_empty_or_oversize_batch_names_the_field(till, device, books, count, door):
    """A till's maker who misread the contract is told which field to correct; nothing is stored."""
    events = some_events(count)
    if door == "call":
        failure = await failure_of(till.ingest(*events))
    else:
        failure = await failure_of(first_answer(till, IngestStreamRequest(events=events)))

    assert (failure.code, failure.reason) == (Code.INVALID_ARGUMENT, "FIELD_INVALID")
    (violation,) = failure.details["BadRequest"].field_violations
    assert violation.field == "events"
    assert failure.details["ErrorInfo"].reason == "FIELD_INVALID"
    assert "RetryInfo" not in failure.details
    assert failure.pushback_ms is None
    assert await books.keys(device.tenant_id) == []


def a_message_with_bad_utf8() -> bytes:
    raw = IngestRequest(events=[an_event("key-here")]).SerializeToString()
    return raw.replace(b"key-here", b"key-\xff\xfe\xc0\x80")


@pytest.mark.parametrize(
    "raw",
    [
        b"<html>Sign in to the hotel's network</html>",
        b"\xff" * 64,
        IngestRequest(events=[an_event()]).SerializeToString()[:-3],
        a_message_with_bad_utf8(),
    ],
    ids=["a web page", "noise", "cut off", "not UTF-8"],
)
async def test_bytes_that_are_no_batch_are_an_invalid_request(till, device, books, raw):
    """A batch that was mangled on its way is not "unknown error": the till hears that the bytes are
    at fault and sends halves until the culprit is alone."""
    failure = await failure_of(till.offer_raw(raw))

    assert (failure.code, failure.reason) == (Code.INVALID_ARGUMENT, "REQUEST_MALFORMED")
    assert "Traceback" not in failure.text
    assert await books.keys(device.tenant_id) == []


async def test_a_mangled_batch_ends_its_stream_and_no_more(till, device, books):
    """In a stream, what was answered before a mangled batch stays good."""
    call = till.channel.stream_stream("/tillsync.v1.IngestService/IngestStream")(
        metadata=till.metadata
    )
    await call.write(IngestStreamRequest(events=[an_event("a")]).SerializeToString())
    assert names(IngestResponse.FromString(await call.read()).verdicts) == ["ACCEPTED"]
    await call.write(a_message_with_bad_utf8())

    failure = await failure_of(call.read())

    assert (failure.code, failure.reason) == (Code.INVALID_ARGUMENT, "REQUEST_MALFORMED")
    assert await books.keys(device.tenant_id) == ["a"]


async def test_an_unknown_field_of_a_newer_till_does_no_harm(till):
    """F46: a newer till sends a field that this service does not know; its sale counts."""
    raw = IngestRequest(events=[an_event()]).SerializeToString() + b"\xfa\x3f\x03new"

    answer = IngestResponse.FromString(await till.offer_raw(raw))

    assert names(answer.verdicts) == ["ACCEPTED"]


async def test_a_request_past_4_mib_is_refused_by_grpc_itself(till, device, books):
    """F37: a batch that is too large is an error that the till can act upon, and no hang-up."""
    large = {"type_url": "x", "value": bytes(limits.MAX_BODY_BYTES)}

    failure = await failure_of(till.ingest(*(an_event(body=large) for _ in range(5))))

    assert failure.code is Code.RESOURCE_EXHAUSTED
    assert await books.keys(device.tenant_id) == []


async def test_a_request_of_just_4_mib_is_taken(till):
    """The largest batch that the contract allows gets in."""
    large = {"type_url": "x", "value": bytes(limits.MAX_BODY_BYTES - 200)}
    events = [an_event(body=large) for _ in range(4)]
    assert IngestRequest(events=events).ByteSize() <= limits.MAX_REQUEST_BYTES

    assert names(await till.offer(*events)) == ["ACCEPTED"] * 4


async def test_an_oversize_sale_is_refused_alone(till, device, books):
    """F37: one sale with a photo in it is too large. It is named; the others are stored."""
    large = {"type_url": "x", "value": bytes(limits.MAX_BODY_BYTES + 1)}

    verdicts = await till.offer(an_event("a"), an_event("big", body=large), an_event("b"))

    assert names(verdicts) == ["ACCEPTED", "REJECTED", "ACCEPTED"]
    assert (verdicts[1].refusal.reason, verdicts[1].refusal.field) == (
        "EVENT_TOO_LARGE",
        "body.value",
    )
    assert await books.keys(device.tenant_id) == ["a", "b"]


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("key", {"key": ""}),
        ("key", {"key": "k" * 201}),
        ("key", {"key": "a\0b"}),
        ("business_day", {"business_day": "yesterday"}),
        ("amounts.currency", {"amounts": [("", 1)]}),
        ("amounts.currency", {"amounts": [("\0", 1)]}),
        ("device_sequence", {"number": -1}),
        ("body.type_url", {"body": None}),
    ],
)
async def test_a_sale_that_cannot_be_stored_is_refused_alone(till, device, books, field, bad):
    """A till with a bug hears which field is wrong, and its good sales are not held up."""
    verdicts = await till.offer(an_event("a"), an_event(**{"key": "bad", **bad}), an_event("b"))

    assert names(verdicts) == ["ACCEPTED", "REJECTED", "ACCEPTED"]
    assert verdicts[1].refusal.field == field
    assert await books.keys(device.tenant_id) == ["a", "b"]


async def test_no_token_and_a_bad_token_are_told_apart(served):
    """A till that forgot its token, and one with another service's, know what to do."""
    async with Caller(served.address, "nonsense") as caller:
        bad = await failure_of(caller.ingest(an_event()))
        caller.metadata = ()
        missing = await failure_of(caller.ingest(an_event()))

    assert (bad.code, bad.reason) == (Code.UNAUTHENTICATED, "TOKEN_INVALID")
    assert (missing.code, missing.reason) == (Code.UNAUTHENTICATED, "TOKEN_MISSING")


@pytest.mark.parametrize(
    ("authorization", "reason"), [("", "TOKEN_MISSING"), ("Bearer nonsense", "TOKEN_INVALID")]
)
async def test_a_stream_without_a_good_token_is_turned_away_at_once(
    database, monkeypatch, authorization, reason
):
    """Whoever opens streams without a token and says nothing more costs the service no memory: it
    hears so before its first message, without waiting for a round, and is forgotten."""
    monkeypatch.setattr(limits, "ROUND_SECONDS", 3600)
    async with ingest_served(database) as served, Caller(served.address, "") as caller:
        caller.metadata = (("authorization", authorization),)

        failure = await failure_of(caller.stub.IngestStream(metadata=caller.metadata).read())

        await eventually(lambda: served.doorkeeper._house.inside == 0)
    assert (failure.code, failure.reason) == (Code.UNAUTHENTICATED, reason)


async def test_too_much_waiting_is_resource_exhausted_with_a_delay(database, device, books):
    """On the busiest hour a till is told to come back in a second; it loses nothing by it."""
    group_commit = GroupCommit(IngestStore(database), max_waiting_events=5)
    async with (
        ingest_served(group_commit=group_commit) as served,
        Caller(served.address, ids_as_token(device)) as caller,
    ):
        await books.connection.execute("BEGIN")
        await books.connection.execute("SELECT FROM tillsync.tenant_head FOR UPDATE")
        waiting = [asyncio.create_task(caller.offer(*some_events(5))) for _ in range(2)]
        await eventually(lambda: served.doorkeeper._house.inside == 2)

        failure = await failure_of(caller.ingest(an_event()))

        await books.connection.execute("ROLLBACK")
        await asyncio.gather(*waiting)
    assert (failure.code, failure.reason) == (Code.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert failure.details["RetryInfo"].retry_delay.ToMilliseconds() == 1000
    assert failure.pushback_ms == "1000"


@pytest.mark.parametrize(
    "cause",
    [
        ZeroDivisionError("SELECT secret FROM tillsync.event"),
        asyncpg.InternalServerError("secret row of another tenant"),
    ],
)
async def test_a_fault_of_ours_tells_nothing_of_our_insides(device, cause):
    """Whatever breaks inside, a till sees a fixed text: no stack trace, no SQL, nobody's data."""

    class Broken:
        async def submit(self, *_):
            raise cause

    async with (
        ingest_served(group_commit=Broken()) as served,
        Caller(served.address, ids_as_token(device)) as caller,
    ):
        call = await failure_of(caller.ingest(an_event()))
        streamed = await failure_of(first_answer(caller, IngestStreamRequest(events=[an_event()])))

    for failure in (call, streamed):
        assert (failure.code, failure.reason) == (Code.INTERNAL, "INTERNAL")
        shown = f"{failure.text} {failure.metadata}"
        assert not any(word in shown for word in ("secret", "SELECT", "Traceback", "Error("))
    assert "nothing is known to be stored" in call.text


async def test_what_postgres_says_stays_inside(till, device, books):
    """Postgres puts rows into its messages. A till is told to send again, and not what it said."""
    await books.refuse_key("bad", "40001")

    failure = await failure_of(till.ingest(an_event("bad")))

    assert (failure.code, failure.reason) == (Code.UNAVAILABLE, "DATABASE_UNAVAILABLE")
    shown = f"{failure.text} {failure.metadata}"
    assert str(device.tenant_id) not in shown
    assert "40001" not in shown
    assert failure.details["RetryInfo"].retry_delay.ToMilliseconds() == 1000
    assert failure.pushback_ms == "1000"
