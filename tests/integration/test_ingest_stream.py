"""A till that sends batches ahead: they are stored in their order, or not at all."""

import asyncio

import grpc
import pytest

from support.builders import a_device, an_event
from support.polling import eventually
from support.service import Caller, ids_as_token, ingest_served
from tillsync.v1.ingest_service_pb2 import IngestStreamRequest
from tillsync_service.foundation.errors import Unavailable
from tillsync_service.ingest.batch import Batch
from tillsync_service.ingest.store import Receipt
from tillsync_service.ingest.verdicts import ACCEPTED, Verdicts


class Ledger:
    """In a group commit's place: lets one batch in at a time, and fails where it is told to."""

    def __init__(self, *, fails_at: str = "") -> None:
        self.asked: list[str] = []
        self.stored: list[str] = []
        self.door = asyncio.Event()
        self._fails_at = fails_at

    async def submit(self, _tenant_id: object, batch: Batch) -> Receipt:
        (key,) = batch.keys
        self.asked.append(key)
        await self.door.wait()
        if key == self._fails_at:
            raise Unavailable("The database is away.")
        self.stored.append(key)
        return Receipt("history", Verdicts([ACCEPTED], [len(self.stored)], [0], [None]))


async def test_no_batch_is_stored_after_one_that_failed():
    """A till sent five batches ahead when the database failed at the third: nothing newer is
    stored, so that head office has this till's sales in their order when all are sent again."""
    ledger = Ledger(fails_at="c")
    ledger.door.set()
    async with (
        ingest_served(group_commit=ledger) as served,
        Caller(served.address, ids_as_token(a_device())) as till,
    ):
        stream = till.stub.IngestStream(metadata=till.metadata)
        for key in "abcde":
            await stream.write(IngestStreamRequest(events=[an_event(key)]))

        answers = [(await stream.read()).verdicts[0].position for _ in range(2)]
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stream.read()

    assert answers == [1, 2]
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert ledger.stored == ["a", "b"]
    assert ledger.asked == ["a", "b", "c"]


async def test_a_batch_waits_until_the_one_before_is_stored():
    """However far ahead a till sends, only its oldest batch is being stored."""
    ledger = Ledger()
    async with (
        ingest_served(group_commit=ledger) as served,
        Caller(served.address, ids_as_token(a_device())) as till,
    ):
        stream = till.stub.IngestStream(metadata=till.metadata)
        for key in "abcde":
            await stream.write(IngestStreamRequest(events=[an_event(key)]))
        await stream.done_writing()
        await eventually(lambda: ledger.asked)
        await asyncio.sleep(0.1)  # whatever else would come, comes now
        assert ledger.asked == ["a"]

        ledger.door.set()
        positions = [answer.verdicts[0].position async for answer in stream]

    assert positions == [1, 2, 3, 4, 5]
    assert ledger.stored == [*"abcde"]
