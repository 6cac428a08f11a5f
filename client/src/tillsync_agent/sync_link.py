"""SyncService on the one connection: a pull that ends when it falls silent, and a push."""

import asyncio

import grpc

from tillsync.v1 import sync_service_pb2 as pb
from tillsync.v1.sync_service_pb2_grpc import SyncServiceStub
from tillsync_agent.answers import CallFailed, Failure
from tillsync_agent.link import UNARY_TIMEOUT_SECONDS, Link, failure_of

# The service says something at least every 20 seconds. A peer that stays silent for longer than
# this is not there any more, whatever the network pretends (F18).
SILENCE_SECONDS = 45.0
# What came while the till was writing is written together, with one flush of the disk: twice as
# fast as one by one. A program that edits waits for it, about a tenth of a second.
MESSAGES_AHEAD = 8


class PullStream:
    """An open Pull, read ahead by a few messages. Made within the running event loop."""

    def __init__(
        self,
        call: "grpc.aio.UnaryStreamCall[pb.PullRequest, pb.PullResponse]",
        silence_seconds: float,
    ) -> None:
        self._call = call
        self._silence_seconds = silence_seconds
        self._came: asyncio.Queue[pb.PullResponse | Exception | None] = asyncio.Queue(
            MESSAGES_AHEAD
        )
        self._reading = asyncio.create_task(self._read_ahead())

    async def read(self) -> list[pb.PullResponse]:
        """What has come: at least one message, none after one with a checkpoint; nothing at the end
        that the service made of it. Raises CallFailed."""
        messages: list[pb.PullResponse] = []
        while isinstance(came := await self._came.get(), pb.PullResponse):
            messages.append(came)
            if self._came.empty() or came.HasField("checkpoint"):
                return messages
        if messages:
            self._came.put_nowait(came)  # how it ended is said the next time
        elif came is not None:
            raise came
        return messages

    def close(self) -> None:
        self._call.cancel()
        self._reading.cancel()

    async def _read_ahead(self) -> None:
        try:
            while (message := await self._next()) is not None:
                await self._came.put(message)
        except Exception as error:  # noqa: BLE001 -- raised where it is read
            await self._came.put(error)
        else:
            await self._came.put(None)

    async def _next(self) -> pb.PullResponse | None:
        try:
            async with asyncio.timeout(self._silence_seconds):
                message = await self._call.read()
        except TimeoutError:
            words = f"nothing was heard for {self._silence_seconds:g} s"
            raise CallFailed(Failure("DEADLINE_EXCEEDED", words)) from None
        except grpc.aio.AioRpcError as error:
            raise CallFailed(failure_of(error)) from None
        if isinstance(message, pb.PullResponse):
            return message
        if message is None:  # bytes that are no message come as None
            raise CallFailed(Failure("GARBAGE", "the answer is not a message"))
        return None


async def open_pull(
    link: Link,
    cursor: bytes,
    reload_collections: list[str],
    *,
    silence_seconds: float = SILENCE_SECONDS,
) -> PullStream:
    """A live pull from `cursor` on. Raises as `Link.token` does."""
    request = pb.PullRequest(cursor=cursor, live=True, reload_collections=reload_collections)
    call = SyncServiceStub(link.channel).Pull(request, metadata=await link.metadata())
    return PullStream(call, silence_seconds)


async def push(link: Link, epoch: int, mutations: list[pb.Mutation]) -> pb.PushResponse:
    """The answer to some edits. Raises CallFailed, and as `Link.token` does."""
    request = pb.PushRequest(epoch=epoch, mutations=mutations)
    metadata = await link.metadata()
    try:
        answer = await SyncServiceStub(link.channel).Push(
            request, metadata=metadata, timeout=UNARY_TIMEOUT_SECONDS
        )
    except grpc.aio.AioRpcError as error:
        raise CallFailed(failure_of(error)) from None
    if answer is None or answer.next_sequence <= 0:
        raise CallFailed(Failure("GARBAGE", "the answer is not a receipt"))
    return answer
