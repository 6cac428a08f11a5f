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


class PullStream:
    """An open Pull."""

    def __init__(
        self,
        call: "grpc.aio.UnaryStreamCall[pb.PullRequest, pb.PullResponse]",
        silence_seconds: float,
    ) -> None:
        self._call = call
        self._silence_seconds = silence_seconds

    async def read(self) -> pb.PullResponse | None:
        """The next message; None at the end that the service made of it. Raises CallFailed."""
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

    def close(self) -> None:
        self._call.cancel()


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
