"""The one door every call comes through: it parses, identifies the caller, and renders errors.

Servicers behind it get a parsed message, find the caller in `identity`, and raise ServiceErrors.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Protocol, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.foundation import identity
from tillsync_service.foundation.errors import (
    InvalidRequest,
    PermissionDenied,
    ServiceError,
    Unauthenticated,
    Unavailable,
    render,
)

log = structlog.get_logger(__name__)

Handler = Any  # grpc.RpcMethodHandler; grpc's types leave its fields open
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_BEARER = "bearer "


class Authenticator(Protocol):
    """Knows tokens and who was revoked."""

    def authenticate(self, token: str) -> identity.Caller:
        """The caller behind `token`, as of now. Called again for every message of a stream.

        Raises Unauthenticated (invalid, expired), PermissionDenied (revoked), Unavailable (cannot
        know now).
        """


# Which kind of caller a service of ours is for. A service that is not listed (health, reflection)
# is open to everybody, and so is DeviceService, whose requests carry their own proof.
AUDIENCE: dict[str, type[identity.Device] | type[identity.Operator]] = {
    "tillsync.v1.IngestService": identity.Device,
    "tillsync.v1.AdminService": identity.Operator,
}
# What is still taken from a device whose secret is in two hands: a shop must not stop selling.
OPEN_TO_SUSPECTS = frozenset({"tillsync.v1.IngestService"})


class Doorkeeper(grpc.aio.ServerInterceptor):
    """Wraps each method's handler, once, and knows how many calls are inside. Made within the
    running event loop that it serves."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._wrapped: dict[str, Handler] = {}
        self._house = _House()

    async def close(self, grace_seconds: float) -> int:
        """Takes no new message, lets what is inside finish, and returns how many calls had not
        when the grace was over. A stream between two messages is ended at once."""
        self._house.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._house.empty.wait(), grace_seconds)
        return self._house.inside

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method: str = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        service = method.split("/")[1]
        if not service.startswith("tillsync."):
            return handler
        visit = _Visit(method, service, self._authenticator, handler, self._house)
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                visit.stream_stream, None, handler.response_serializer
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                visit.unary_stream, None, handler.response_serializer
            )
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                visit.stream_unary, None, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            visit.unary_unary, None, handler.response_serializer
        )


class _House:
    """How many calls are inside, and whether it is closing."""

    def __init__(self) -> None:
        self.inside = 0
        self.empty = asyncio.Event()
        self.empty.set()
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def close(self) -> None:
        if not self.closing.done():
            self.closing.set_result(None)

    @contextmanager
    def visited(self) -> Iterator[None]:
        self.inside += 1
        self.empty.clear()
        try:
            yield
        finally:
            self.inside -= 1
            if not self.inside:
                self.empty.set()


class _Visit:
    """One method behind the door. The four shapes of an RPC differ in nothing else."""

    def __init__(
        self,
        method: str,
        service: str,
        authenticator: Authenticator,
        handler: Handler,
        house: _House,
    ) -> None:
        self._method = method
        self._audience = AUDIENCE.get(service)
        self._open_to_suspects = service in OPEN_TO_SUSPECTS
        self._authenticator = authenticator
        self._handler = handler
        self._parse = handler.request_deserializer
        self._house = house

    async def unary_unary(self, raw: bytes, context: Context) -> Any:
        async with self._visited(context):
            return await self._handler.unary_unary(self._admit(raw, context), context)

    async def unary_stream(self, raw: bytes, context: Context) -> AsyncIterator[Any]:
        async with self._visited(context):
            async for answer in self._handler.unary_stream(self._admit(raw, context), context):
                yield answer

    async def stream_unary(self, raws: AsyncIterator[bytes], context: Context) -> Any:
        async with self._visited(context):
            return await self._handler.stream_unary(self._admit_each(raws, context), context)

    async def stream_stream(
        self, raws: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[Any]:
        async with self._visited(context):
            requests = self._admit_each(raws, context)
            async for answer in self._handler.stream_stream(requests, context):
                yield answer

    @asynccontextmanager
    async def _visited(self, context: Context) -> AsyncIterator[None]:
        """Counts the call, and ends every error that leaves it in a status."""
        with self._house.visited():
            try:
                yield
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # the one place where every error ends
                if not isinstance(error, ServiceError):
                    log.exception("call_failed", method=self._method, exc_info=error)
                await context.abort_with_status(render(error))

    async def _admit_each(self, raws: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
        # Before the first message: a stream that says nothing costs memory all the same.
        self._let_in(context)
        messages = aiter(raws)
        while (raw := await _next_unless(self._house.closing, messages)) is not None:
            yield self._admit(raw, context)

    def _admit(self, raw: bytes, context: Context) -> Any:
        """The parsed message, once its sender is known to be let in."""
        self._let_in(context)
        try:
            return self._parse(raw)
        except DecodeError as error:
            raise InvalidRequest(
                "",
                "The request is not a message of this contract, or a text in it is not UTF-8.",
                reason=ErrorReason.ERROR_REASON_REQUEST_MALFORMED,
            ) from error

    def _let_in(self, context: Context) -> None:
        if self._audience is not None:
            caller = self._authenticator.authenticate(_bearer_token(context))
            if not isinstance(caller, self._audience):
                raise PermissionDenied(
                    "This token is for another service: store devices and operators have one each."
                )
            if isinstance(caller, identity.Device) and caller.suspect:
                self._must_be_open_to_suspects()
            identity.assume(caller)

    def _must_be_open_to_suspects(self) -> None:
        if not self._open_to_suspects:
            raise PermissionDenied(
                "This device's secret is in two hands; until an operator decides, only sales are "
                "taken from it.",
                reason=ErrorReason.ERROR_REASON_DEVICE_SUSPECT,
            )


async def _next_unless(
    closing: asyncio.Future[None], messages: AsyncIterator[bytes]
) -> bytes | None:
    """The stream's next message, None at its end. Raises Unavailable when the house closes."""
    reading = asyncio.ensure_future(_next(messages))
    try:
        await asyncio.wait((reading, closing), return_when=asyncio.FIRST_COMPLETED)
        if closing.done():
            raise Unavailable(
                "The service is stopping; send the same again.",
                reason=ErrorReason.ERROR_REASON_SHUTTING_DOWN,
            )
        return reading.result()
    finally:
        reading.cancel()


async def _next(messages: AsyncIterator[bytes]) -> bytes | None:
    return await anext(messages, None)


def _bearer_token(context: Context) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == "authorization" and isinstance(value, str):
            if value[: len(_BEARER)].lower() == _BEARER:
                return value[len(_BEARER) :].strip()
            break
    raise Unauthenticated(
        'The call needs metadata "authorization: Bearer <token>".',
        reason=ErrorReason.ERROR_REASON_TOKEN_MISSING,
    )
