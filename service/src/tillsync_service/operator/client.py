"""The operator's end of the wire: one channel to a running service, and every failure in one line.

OperatorError     the line says what is wrong and what to do
└── CallFailed    a call ended without an answer, or with a refusal
"""

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Self, TypeVar

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tillsync.v1.admin_service_pb2_grpc import AdminServiceStub
from tillsync.v1.books_service_pb2_grpc import BooksServiceStub
from tillsync.v1.device_service_pb2_grpc import DeviceServiceStub
from tillsync.v1.feed_service_pb2_grpc import FeedServiceStub
from tillsync.v1.ingest_service_pb2_grpc import IngestServiceStub
from tillsync.v1.projection_service_pb2_grpc import ProjectionServiceStub
from tillsync.v1.record_service_pb2_grpc import RecordServiceStub
from tillsync_service.foundation import limits

# Longer than the service takes to give up its database: it is always the service that answers.
CALL_SECONDS = limits.COMMAND_SECONDS + 10.0
CONNECT_SECONDS = 5.0

_GET_TOKEN = "export TILLSYNC_OPERATOR_TOKEN=$(tillsync-service operator-token)"  # noqa: S105 - how to get one
_HINTS = {
    grpc.StatusCode.UNAUTHENTICATED: f" On the service's machine: {_GET_TOKEN}",
    grpc.StatusCode.PERMISSION_DENIED: (
        " `tillsync-service operator-token` without --tenant makes one for every tenant."
    ),
}
_REASON_HINTS = {
    "COLLECTION_UNKNOWN": (
        " `tillsync-service collections list` names those there are, `collections define` makes "
        "one."
    ),
}
# After these nobody can tell whether the service did what it was asked.
_UNSURE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
    }
)
_CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", limits.MAX_REQUEST_BYTES),
    ("grpc.max_receive_message_length", limits.MAX_REQUEST_BYTES),
    # Whoever tries a service out wants to see the failure, not what a retry made of it.
    ("grpc.enable_retries", 0),
    # Also the time that one attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", round(CONNECT_SECONDS * 1000)),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
)
# A proxy that the environment names for the internet cannot reach this machine's loopback.
_LOOPBACK_OPTIONS = (("grpc.enable_http_proxy", 0),)

Request = TypeVar("Request")
Response = TypeVar("Response")


class OperatorError(Exception):
    """One line for the operator: what is wrong, and what to do."""


class CallFailed(OperatorError):
    """A call without an answer, or with a refusal."""

    def __init__(self, line: str, code: grpc.StatusCode) -> None:
        super().__init__(line)
        self.code = code

    @property
    def may_have_happened(self) -> bool:
        """Whether the service may have done what it was asked, for all that is known here."""
        return self.code in _UNSURE


@dataclass(frozen=True, slots=True)
class Target:
    """Which service, and how to reach it. `token` is the operator's; empty: none is set. Its
    certificate is for `server_name`; empty: for the address."""

    address: str
    ca_file: Path | None = None
    plaintext: bool = False
    token: str = field(default="", repr=False)
    server_name: str = ""

    @property
    def is_loopback(self) -> bool:
        host = self.address.rpartition(":")[0]
        try:
            return ipaddress.ip_address(host.strip("[]")).is_loopback
        except ValueError:
            return host == "localhost"

    def open_channel(self) -> grpc.aio.Channel:
        """A channel with TLS; without it only to this machine, or where `plaintext` says so.

        Raises OperatorError for an address without a port, or a certificate file that is none."""
        host, colon, port = self.address.rpartition(":")
        if not (colon and host and port.isdigit()):
            raise OperatorError(
                f"--service (TILLSYNC_SERVICE_ADDRESS) must be HOST:PORT, not {self.address!r}."
            )
        options: tuple[tuple[str, int | str], ...] = _CHANNEL_OPTIONS
        options += _LOOPBACK_OPTIONS if self.is_loopback else ()
        if self.plaintext or (self.is_loopback and not self.ca_file):
            return grpc.aio.insecure_channel(self.address, options=options)
        credentials = grpc.ssl_channel_credentials(self._authority())
        if self.server_name:
            options += (("grpc.ssl_target_name_override", self.server_name),)
        return grpc.aio.secure_channel(self.address, credentials, options=options)

    def _authority(self) -> bytes | None:
        try:
            return self.ca_file.read_bytes() if self.ca_file else None
        except OSError as error:
            raise OperatorError(
                f"--ca-file (TILLSYNC_CA_FILE): {self.ca_file} cannot be read: {error.strerror}."
            ) from None


class Service:
    """A running service: `async with Service(target) as service`. Nothing is ever sent again."""

    def __init__(self, target: Target) -> None:
        self.address = target.address
        self._token = target.token.strip()
        self._channel = target.open_channel()
        self.admin = AdminServiceStub(self._channel)
        self.books = BooksServiceStub(self._channel)
        self.device = DeviceServiceStub(self._channel)
        self.feed = FeedServiceStub(self._channel)
        self.ingest = IngestServiceStub(self._channel)
        self.projections = ProjectionServiceStub(self._channel)
        self.records = RecordServiceStub(self._channel)
        self._health = HealthStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close(grace=None)

    def must_have_token(self) -> str:
        """The operator's token. Raises OperatorError that says how to get one."""
        if not self._token:
            raise OperatorError(
                f"TILLSYNC_OPERATOR_TOKEN is missing. On the service's machine: {_GET_TOKEN}"
            )
        if not (self._token.isascii() and self._token.isprintable()):
            raise OperatorError(f"TILLSYNC_OPERATOR_TOKEN is not a token. Get one: {_GET_TOKEN}")
        return self._token

    async def must_serve(self, name: str = "", *, timeout_seconds: float = CALL_SECONDS) -> None:
        """Raises OperatorError unless the service says that it serves; `name` is one of health's
        services, empty: the whole."""
        request = health_pb2.HealthCheckRequest(service=name)
        answer = await self.call(self._health.Check, request, timeout_seconds=timeout_seconds)
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        if status != "SERVING":
            raise OperatorError(
                f"{self.address} is {status}: its database does not answer, or it is stopping; "
                "its log says which."
            )

    async def operate(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        *,
        timeout_seconds: float = CALL_SECONDS,
    ) -> Response:
        """A call as the operator. Raises OperatorError without a token, CallFailed."""
        token = self.must_have_token()
        try:
            return await self.call(method, request, token=token, timeout_seconds=timeout_seconds)
        except CallFailed as error:
            raise _with_hint(error) from None

    @asynccontextmanager
    async def exchange(
        self, method: "grpc.aio.StreamStreamMultiCallable[Request, Response]"
    ) -> AsyncIterator["Exchange[Request, Response]"]:
        """A stream both ways as the operator, cancelled where it is left before its end. Raises
        OperatorError without a token."""
        metadata = (("authorization", f"Bearer {self.must_have_token()}"),)
        call = method(metadata=metadata)
        try:
            yield Exchange(call, lambda error: self._failed(error, 0))
        finally:
            call.cancel()

    async def answers(
        self, method: "grpc.aio.UnaryStreamMultiCallable[Request, Response]", request: Request
    ) -> AsyncGenerator[Response, None]:
        """A stream of answers as the operator, cancelled where it is left before its end. Raises
        OperatorError without a token, CallFailed."""
        call = method(request, metadata=(("authorization", f"Bearer {self.must_have_token()}"),))
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise _with_hint(self._failed(error, 0)) from None
        finally:
            call.cancel()

    async def call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        *,
        token: str | None = None,
        timeout_seconds: float = CALL_SECONDS,
    ) -> Response:
        """A call with this token, or as nobody. Raises CallFailed."""
        metadata = (("authorization", f"Bearer {token}"),) if token else None
        try:
            return await method(request, metadata=metadata, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise self._failed(error, timeout_seconds) from None

    def _failed(self, error: grpc.aio.AioRpcError, timeout_seconds: float) -> CallFailed:
        return CallFailed(self._line(error, timeout_seconds), error.code())

    def _line(self, error: grpc.aio.AioRpcError, timeout_seconds: float) -> str:
        said = " ".join((error.details() or "").split())
        facts = _facts(error.trailing_metadata())
        if "tillsync-reason" in facts:
            reason = facts["tillsync-reason"]
            return f"{said} ({reason}){_REASON_HINTS.get(reason, '')}"
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"{self.address} did not answer within {timeout_seconds:g} s."
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return (
                f"No Tillsync service answers at {self.address}. Does it run there, is --service "
                "(TILLSYNC_SERVICE_ADDRESS) right, and for TLS with a CA of your own "
                f"TILLSYNC_CA_FILE? ({said.rpartition('last error: ')[2]})"
            )
        return f"{self.address} answered {error.code().name}: {said}"


class Exchange(Generic[Request, Response]):
    """An open stream both ways. Its methods raise CallFailed."""

    def __init__(
        self,
        call: "grpc.aio.StreamStreamCall[Request, Response]",
        failed: Callable[[grpc.aio.AioRpcError], CallFailed],
    ) -> None:
        self._call = call
        self._failed = failed

    async def send(self, request: Request) -> None:
        try:
            await self._call.write(request)
        except asyncio.InvalidStateError:  # it has ended: why, is read
            await self.answer()
        except grpc.aio.AioRpcError as error:
            raise _with_hint(self._failed(error)) from None

    async def answer(self) -> Response:
        """The next answer."""
        try:
            answer = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _with_hint(self._failed(error)) from None
        if answer is grpc.aio.EOF:
            raise CallFailed("The service ended the stream.", grpc.StatusCode.UNKNOWN)
        return answer  # type: ignore[return-value]  # what is not EOF is a Response

    async def end(self) -> None:
        """Says that nothing more will be sent."""
        try:
            await self._call.done_writing()
        except asyncio.InvalidStateError:
            await self.answer()


def _with_hint(error: CallFailed) -> CallFailed:
    return CallFailed(f"{error}{_HINTS.get(error.code, '')}", error.code)


def _facts(metadata: grpc.aio.Metadata | None) -> Mapping[str, str]:
    return {str(name): str(value) for name, value in metadata or ()}
