"""Streams that are open and silent, and whose they are."""

from datetime import timedelta

import grpc
import pytest

from support.builders import an_event
from support.polling import eventually
from support.service import Caller, failure_of, names
from tillsync.v1.ingest_service_pb2 import IngestStreamRequest
from tillsync_service.databases import utc_now
from tillsync_service.foundation import limits


@pytest.fixture(autouse=True)
def quick_rounds(monkeypatch):
    monkeypatch.setattr(limits, "ROUND_SECONDS", 0.02)


class OpenStream:
    """A till that has sold something and is silent since."""

    def __init__(self, fleet, till) -> None:
        self._fleet = fleet
        self.till = till

    async def __aenter__(self):
        token = (await self.till.issue()).access_token
        self._caller = Caller(self._fleet.address, token)
        self.stream = self._caller.stream()
        assert await self.sells()
        return self

    async def __aexit__(self, *_):
        self.stream.cancel()
        await self._caller.channel.close()

    async def sells(self) -> bool:
        await self.stream.write(IngestStreamRequest(events=[an_event()]))
        return names((await self.stream.read()).verdicts) == ["ACCEPTED"]


async def revoke(fleet, till) -> None:
    identity = till.identity
    await fleet.operator().call(
        "RevokeDevice", tenant_id=identity.tenant_id, device_id=identity.device_id
    )


async def test_the_silent_stream_of_a_stolen_till_is_ended(fleet):
    """An operator revokes a stolen till that says nothing: its stream is ended all the same, within
    moments of the decision being known, and the other tills' streams stay."""
    async with (
        OpenStream(fleet, await fleet.an_enrolled_till()) as stolen,
        OpenStream(fleet, await fleet.an_enrolled_till()) as honest,
    ):
        await revoke(fleet, stolen.till)
        await fleet.standing.refresh()

        failure = await failure_of(stolen.stream.read())

        await eventually(lambda: fleet.doorkeeper._house.inside == 1)
        assert await honest.sells()
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "DEVICE_REVOKED",
    )


async def test_a_silent_stream_ends_with_its_token(fleet):
    """A token is over while its till is silent: the stream ends, and the till opens another one
    with a new token when it has something to say."""
    async with OpenStream(fleet, await fleet.an_enrolled_till()) as silent:
        fleet.verifier._clock = lambda: utc_now() + timedelta(hours=1)

        failure = await failure_of(silent.stream.read())

    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")


async def test_silent_streams_stay_while_nobody_knows_who_was_revoked(fleet):
    """The database is away for a while: silent tills are not sent away for it, and sell on as soon
    as it is back."""
    async with OpenStream(fleet, await fleet.an_enrolled_till()) as silent:
        fleet.standing._known_at = None
        (guest,) = fleet.doorkeeper._house._guests
        fleet.doorkeeper._house._look_at(guest)
        await fleet.standing.refresh()

        assert await silent.sells()
