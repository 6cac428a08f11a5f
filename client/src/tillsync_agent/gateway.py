"""The same IngestService on 127.0.0.1, for point-of-sale programs in any language.

It is store-and-forward behind the very contract that head office speaks: an event is in the
outbox, durably, when its verdict QUEUED is sent. What the service would refuse for ever is REJECTED
here, by the same rules and for that event alone. Callers show the token in the file
`gateway.token`, which only the user who runs the agent can read: any program of the machine can
open a local port.
"""

import asyncio
import hmac
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from tillsync.v1 import event_pb2, ingest_service_pb2
from tillsync_agent.errors import (
    AddressUnusable,
    EventNotRecordable,
    OutboxFull,
    OutboxUnavailable,
)
from tillsync_agent.files import write_private
from tillsync_agent.outbox import Outbox

LARGEST_BATCH_EVENTS = 1_000
LARGEST_MESSAGE_BYTES = 4 * 1024 * 1024
LARGEST_PORT = 65_535
RETRY_PUSHBACK_MS = 1_000
_SERVICE = "tillsync.v1.IngestService"
_OPTIONS: tuple[tuple[str, int], ...] = (
    # Two agents must not share a port, which Linux would allow: a caller would reach either one.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)

_Context = grpc.aio.ServicerContext[bytes, bytes]


class Gateway:
    """A server on this machine only, in front of one outbox."""

    def __init__(self, outbox: Outbox, token_path: Path) -> None:
        self._outbox = outbox
        self._token_path = token_path
        self._server: grpc.aio.Server | None = None

    async def start(self, port: int) -> int:
        """Listens on 127.0.0.1; returns the port, which the system chooses for 0.

        Raises OSError if the port is taken or the token cannot be kept, AddressUnusable if no port
        has that number.
        """
        if not 0 <= port <= LARGEST_PORT:
            raise AddressUnusable(
                f"the gateway cannot listen on 127.0.0.1:{port}: write a port from 1 to "
                f"{LARGEST_PORT}, like 7411"
            )
        token = await asyncio.to_thread(_local_token, self._token_path)
        self._expected = f"Bearer {token}".encode()
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((self._handlers(),))
        try:
            bound = server.add_insecure_port(f"127.0.0.1:{port}")
        except RuntimeError as error:
            raise OSError(f"the gateway cannot listen on 127.0.0.1:{port}: {error}") from None
        await server.start()
        self._server = server
        return bound

    async def stop(self) -> None:
        """Takes no new calls and finishes those that run; half a second is long on one machine."""
        if self._server is not None:
            await self._server.stop(grace=0.5)

    def _handlers(self) -> grpc.GenericRpcHandler:
        # Requests stay bytes up to the handler, so that one that does not parse gets a status of
        # the contract and not the library's own.
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Ingest": grpc.unary_unary_rpc_method_handler(self._ingest),
            "IngestStream": grpc.stream_stream_rpc_method_handler(self._ingest_stream),
        }
        return grpc.method_handlers_generic_handler(_SERVICE, methods)

    async def _ingest(self, raw: bytes, context: _Context) -> bytes:
        await self._admit(context)
        return await self._answer(raw, context)

    async def _ingest_stream(
        self, batches: AsyncIterator[bytes], context: _Context
    ) -> AsyncIterator[bytes]:
        await self._admit(context)
        async for raw in batches:
            yield await self._answer(raw, context)

    async def _admit(self, context: _Context) -> None:
        """Lets in only callers that can read the token file."""
        metadata = dict(context.invocation_metadata() or ())
        shown = str(metadata.get("authorization", "")).encode()
        if not hmac.compare_digest(shown, self._expected):
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED,
                "send the content of the agent's gateway.token as `authorization: Bearer <token>`",
                (("tillsync-reason", "TOKEN_INVALID"),),
            )

    async def _answer(self, raw: bytes, context: _Context) -> bytes:
        """One batch, either method: their messages have the same fields by contract."""
        try:
            events = ingest_service_pb2.IngestRequest.FromString(raw).events
        except DecodeError:
            await _refuse(context, "REQUEST_MALFORMED", "the request is not a message")
        if not 1 <= len(events) <= LARGEST_BATCH_EVENTS:
            message = f"a batch holds 1 to {LARGEST_BATCH_EVENTS} events, this one {len(events)}"
            await _refuse(context, "FIELD_INVALID", message)
        try:
            verdicts = await asyncio.to_thread(self._record_all, list(events))
        except OutboxUnavailable as error:
            await _not_now(context, error)
        served_at = Timestamp()
        served_at.FromDatetime(datetime.now(UTC))
        response = ingest_service_pb2.IngestResponse(verdicts=verdicts, served_at=served_at)
        return response.SerializeToString()

    def _record_all(self, events: list[event_pb2.Event]) -> list[event_pb2.Verdict]:
        return [self._record(event) for event in events]

    def _record(self, event: event_pb2.Event) -> event_pb2.Verdict:
        try:
            self._outbox.record_event(event)
        except EventNotRecordable as error:
            refusal = event_pb2.Refusal(
                reason="EVENT_NOT_STORABLE", field=error.field, description=str(error)
            )
            return event_pb2.Verdict(outcome=event_pb2.OUTCOME_REJECTED, refusal=refusal)
        return event_pb2.Verdict(outcome=event_pb2.OUTCOME_QUEUED)


async def _refuse(context: _Context, reason: str, message: str) -> NoReturn:
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message, (("tillsync-reason", reason),))


async def _not_now(context: _Context, error: OutboxUnavailable) -> NoReturn:
    full = isinstance(error, OutboxFull)
    await context.abort(
        grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.UNAVAILABLE,
        str(error),
        (
            ("tillsync-reason", "OVERLOADED" if full else "DATABASE_UNAVAILABLE"),
            ("grpc-retry-pushback-ms", str(RETRY_PUSHBACK_MS)),
        ),
    )


def _local_token(path: Path) -> str:
    """The token in the file, which is made at the first start and then stays."""
    try:
        token = path.read_text("ascii").strip()
    except FileNotFoundError:
        token = ""
    if not token:
        token = secrets.token_urlsafe(32)
        write_private(path, token.encode())
    return token
