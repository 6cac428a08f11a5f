"""The one door every call comes through: it parses, identifies the caller, and renders errors.

Servicers behind it get a parsed message, find the caller in `identity`, and raise ServiceErrors.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, Protocol, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError
from opentelemetry.trace import NoOpTracer, Tracer

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.foundation import identity, limits
from tillsync_service.foundation.budget import Budget
from tillsync_service.foundation.errors import (
    InvalidRequest,
    PermissionDenied,
    ServiceError,
    Unauthenticated,
)
from tillsync_service.foundation.house import Guest, House
from tillsync_service.foundation.identity import Caller
from tillsync_service.foundation.metrics import Metrics
from tillsync_service.foundation.visitors_book import VisitorsBook

log = structlog.get_logger(__name__)

Handler = Any  # grpc.RpcMethodHandler; grpc's types leave its fields open
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_BEARER = "bearer "
_END = object()


class Authenticator(Protocol):
    """Knows tokens and who was revoked."""

    def authenticate(self, token: str) -> identity.Caller:
        """The caller behind `token`, as of now. Called again for every message of a stream.

        Raises Unauthenticated (invalid, expired), PermissionDenied (revoked), Unavailable (cannot
        know now).
        """


# Which kinds of caller a service of ours is for. A service that is not listed (health, reflection)
# is open to everybody, and so is DeviceService, whose requests carry their own proof.
AUDIENCE: dict[str, tuple[type[Caller], ...]] = {
    "tillsync.v1.IngestService": (identity.Device,),
    "tillsync.v1.AdminService": (identity.Operator,),
    "tillsync.v1.SyncService": (identity.Device,),
    "tillsync.v1.RecordService": (identity.Operator,),
    "tillsync.v1.ReconcileService": (identity.Device,),
    "tillsync.v1.BooksService": (identity.Operator,),
    "tillsync.v1.FeedService": (identity.Integrator, identity.Operator),
    "tillsync.v1.ProjectionService": (identity.Operator,),
}
# What is still taken from a device whose secret is in two hands: a shop must not stop selling.
OPEN_TO_SUSPECTS = frozenset({"tillsync.v1.IngestService"})


class Doorkeeper(grpc.aio.ServerInterceptor):
    """Wraps each method's handler, once, and knows how many calls are inside. Made within the
    running event loop that it serves."""

    def __init__(
        self,
        authenticator: Authenticator,
        budget: Budget | None = None,
        *,
        metrics: Metrics | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._wrapped: dict[str, Handler] = {}
        self._house = House(budget)
        self._book = VisitorsBook(metrics or Metrics(), tracer or NoOpTracer())
        self._book.gauge(lambda: self._house.by_method)

    async def close(self, grace_seconds: float) -> int:
        """Takes no new message, lets what is inside finish, and returns how many calls had not
        when the grace was over. What waits for a message is ended at once."""
        self._house.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._house.empty.wait(), grace_seconds)
        return self._house.inside

    async def keep_in_order(self) -> None:
        """Until cancelled: ends the calls of who is not welcome any more; see House."""
        await self._house.keep_in_order()

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
        visit = _Visit(method, self._authenticator, handler, house=self._house, book=self._book)
        # Every method is a stream of requests to gRPC, which is the same on the wire: it receives
        # the message of any other kind before it asks whether there is room for it.
        if handler.response_streaming:
            answers = visit.stream_stream if handler.request_streaming else visit.unary_stream
            return grpc.stream_stream_rpc_method_handler(answers, None, handler.response_serializer)
        answer = visit.stream_unary if handler.request_streaming else visit.unary_unary
        return grpc.stream_unary_rpc_method_handler(answer, None, handler.response_serializer)


class _Visit:
    """One method behind the door. The four shapes of an RPC differ in nothing else."""

    def __init__(
        self,
        method: str,
        authenticator: Authenticator,
        handler: Handler,
        *,
        house: House,
        book: VisitorsBook,
    ) -> None:
        self._method = method
        self._service = service = method.split("/")[1]
        self._book = book
        self._audience = AUDIENCE.get(service)
        self._open_to_suspects = service in OPEN_TO_SUSPECTS
        self._authenticator = authenticator
        self._handler = handler
        self._parse = handler.request_deserializer
        self._house = house

    async def unary_unary(self, _messages: object, context: Context) -> Any:
        async with self._visited(context) as guest:
            return await self._handler.unary_unary(
                await self._only_request(guest, context), context
            )

    async def unary_stream(self, _messages: object, context: Context) -> AsyncIterator[Any]:
        async with self._visited(context) as guest:
            request = await self._only_request(guest, context)
            # Such a stream only reads, so it may be ended while it waits for its next answer.
            async with aclosing(self._handler.unary_stream(request, context)) as answers:
                del request  # the stream may go on for minutes
                while (answer := await guest.wait_for(partial(anext, answers, _END))) is not _END:
                    with _answering(guest):
                        yield answer

    async def stream_unary(self, _messages: object, context: Context) -> Any:
        async with self._visited(context) as guest:
            return await self._handler.stream_unary(self._requests(guest, context), context)

    async def stream_stream(self, _messages: object, context: Context) -> AsyncIterator[Any]:
        async with self._visited(context) as guest:
            requests = self._requests(guest, context)
            async for answer in self._handler.stream_stream(requests, context):
                with _answering(guest):
                    yield answer

    @asynccontextmanager
    async def _visited(self, context: Context) -> AsyncIterator[Guest]:
        """Counts the call, and ends every error that leaves it in a status."""
        with (
            self._book.signed(self._method, context) as visitor,
            self._house.visited(self._method) as guest,
        ):
            try:
                try:
                    self._house.must_have_room(self._method)
                    guest.must_be_welcome = self._welcome(context)
                    yield guest
                finally:
                    guest.leave()
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # the one place where every error ends
                if not isinstance(error, ServiceError):
                    log.exception("call_failed", method=self._method, exc_info=error)
                await context.abort_with_status(visitor.status(error))

    async def _only_request(self, guest: Guest, context: Context) -> Any:
        """The message of a call that has one. Room is made before it is received, so that what
        there is no room for stays with its sender."""
        take = partial(self._house.budget.take, self._admitted(guest), limits.MAX_RECEIVE_BYTES)
        share = await guest.wait_for(take)
        guest.hold(share)
        with guest.waiting_for_peer():
            raw = await guest.wait_for(context.read)
        if raw is grpc.aio.EOF:
            raise _malformed()
        share.shrink(len(raw))
        return self._parsed(raw)

    async def _requests(self, guest: Guest, context: Context) -> AsyncIterator[Any]:
        # Before the first message: a stream that says nothing costs memory all the same.
        self._admitted(guest)
        while (request := await self._next_request(guest, context)) is not grpc.aio.EOF:
            yield request
            del request  # a stream may say nothing more for hours

    async def _next_request(self, guest: Guest, context: Context) -> Any:
        """A stream's next message, EOF at its end. It is received whenever it comes, because nobody
        knows when that is; then it waits for room, and the next one with it."""
        raw = await guest.wait_for(context.read)
        if raw is grpc.aio.EOF:
            return raw
        take = partial(self._house.budget.take, self._admitted(guest), len(raw))
        guest.hold(await guest.wait_for(partial(take, in_memory=len(raw))))
        return self._parsed(raw)

    def _parsed(self, raw: bytes) -> Any:
        try:
            return self._parse(raw)
        except DecodeError as error:
            raise _malformed() from error

    def _welcome(self, context: Context) -> Callable[[], Caller | None]:
        """Asks, whenever it is called, who the caller is and whether it may come in."""
        if self._audience is None:
            return lambda: None
        return partial(self._identify, _bearer_token(context))

    def _admitted(self, guest: Guest) -> Hashable:
        """Lets the caller in, as of now, and says on whose account."""
        caller = guest.must_be_welcome()
        if caller is None:
            return self._service
        identity.assume(caller)
        if isinstance(caller, identity.Integrator):
            return (self._service, caller.tenant_id)  # on none that its tenant's sales need
        if isinstance(caller, identity.Device):
            self._book.heard(caller)
            return caller.tenant_id
        return self._service

    def _identify(self, token: str) -> Caller:
        caller = self._authenticator.authenticate(token)
        if self._audience is None or not isinstance(caller, self._audience):
            raise PermissionDenied(
                "This token is for another service: store devices, operators and integrators have "
                "one each."
            )
        if isinstance(caller, identity.Device) and caller.suspect:
            self._must_be_open_to_suspects()
        return caller

    def _must_be_open_to_suspects(self) -> None:
        if not self._open_to_suspects:
            raise PermissionDenied(
                "This device's secret is in two hands; until an operator decides, only sales are "
                "taken from it.",
                reason=ErrorReason.ERROR_REASON_DEVICE_SUSPECT,
            )


@contextmanager
def _answering(guest: Guest) -> Iterator[None]:
    """Before its answer is sent, a message gives its room back; the stream may have another one
    inside."""
    guest.give_back()
    with guest.waiting_for_peer():
        yield


def _malformed() -> InvalidRequest:
    return InvalidRequest(
        "",
        "The request is not a message of this contract, or a text in it is not UTF-8.",
        reason=ErrorReason.ERROR_REASON_REQUEST_MALFORMED,
    )


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
