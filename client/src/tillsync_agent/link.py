"""The one connection to the service: channel, access token, streams. The sending side's only gRPC.

What it promises: every call ends, at the latest when its time is over, with an Answer or with
CallFailed and a Failure in plain words. Nothing in here decides what either of them means.
"""

import asyncio
import ipaddress
import re
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import grpc
from google.protobuf.message import DecodeError

from tillsync.v1 import (
    device_service_pb2,
    device_service_pb2_grpc,
    event_pb2,
    ingest_service_pb2,
    reconcile_service_pb2,
    reconcile_service_pb2_grpc,
)
from tillsync_agent.answers import Answer, CallFailed, Failure, Verdict
from tillsync_agent.config import Settings
from tillsync_agent.errors import AddressUnusable, EnrolmentRefused
from tillsync_agent.refresh_secret import RefreshSecret, hash_of

KEEPALIVE_TIME_SECONDS = 20
KEEPALIVE_TIMEOUT_SECONDS = 10
LARGEST_MESSAGE_BYTES = 4 * 1024 * 1024
UNARY_TIMEOUT_SECONDS = 20.0
# A token is renewed when a fifth of its life is left, so that no stream dies of old age.
_RENEW_AT = 0.8
PORTS = range(1, 65_536)
_PORT = re.compile("[0-9]{1,5}")
_INGEST_STREAM = "/tillsync.v1.IngestService/IngestStream"
_CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # A link that died without a word (a router restarted) is noticed within half a minute.
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    # Without this one the two above do nothing for a minute (measured with grpcio 1.85.1): the
    # answer to a ping that is under way, whatever sent it, is waited for as long as this says.
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
    # Retries are the uploader's: it knows what a repeat means, and it shares one backoff.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # No lower bound of the two above, whatever its name says: it is MIN_CONNECT_TIMEOUT of gRPC's
    # connection-backoff.md, how long one try to connect may take. A slow line needs these seconds;
    # a try that is refused at once ends at once, and only the two above pace the next.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),
)
# A service that has lost its mind may say anything here.
_LONGEST_LIFE_SECONDS = 86_400.0
_OUTCOMES = {
    event_pb2.OUTCOME_ACCEPTED: "accepted",
    event_pb2.OUTCOME_DUPLICATE: "duplicate",
    event_pb2.OUTCOME_CONFLICT: "conflict",
    event_pb2.OUTCOME_REJECTED: "rejected",
    event_pb2.OUTCOME_QUEUED: "queued",
}


Metadata: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    renew_at: float  # on the monotonic clock: a till whose date jumps keeps its token


@dataclass(frozen=True, slots=True)
class Identity:
    """What enrolment gave this device."""

    device_id: str
    store_id: str
    tenant_id: str
    store_name: str


class BatchStream:
    """An open IngestStream: one batch in, one answer out, in order."""

    def __init__(
        self, call: "grpc.aio.StreamStreamCall[bytes, bytes]", *, timeout_seconds: float
    ) -> None:
        self._call = call
        self._timeout_seconds = timeout_seconds

    async def exchange(self, envelopes: Sequence[bytes]) -> Answer:
        """Sends serialized Events as one batch; raises CallFailed, and the stream is over then."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._call.write(batch_of(envelopes))
                raw = await self._call.read()
        except TimeoutError:
            message = f"no answer within {self._timeout_seconds:g} s"
            raise CallFailed(Failure("DEADLINE_EXCEEDED", message)) from None
        except grpc.aio.AioRpcError as error:
            raise CallFailed(failure_of(error)) from None
        except asyncio.InvalidStateError:
            raise CallFailed(await self._how_it_ended()) from None
        if not isinstance(raw, bytes):
            raise CallFailed(await self._how_it_ended())
        return answer_of(raw)

    def close(self) -> None:
        """Lets go of the stream. What was answered on it stays answered."""
        self._call.cancel()

    async def _how_it_ended(self) -> Failure:
        code, details = await self._call.code(), await self._call.details()
        if code is grpc.StatusCode.OK:
            return Failure("UNAVAILABLE", "the service ended the stream")
        return _failure(code, details or "", await self._call.trailing_metadata())


class Link:
    """A channel to the service and the token to use on it. Belongs to one event loop."""

    def __init__(
        self,
        settings: Settings,
        secret: RefreshSecret,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises AddressUnusable. Connects to nothing yet."""
        self._settings = settings
        self._secret = secret
        self._monotonic = monotonic
        self._channel = open_channel(settings)
        self._token: _Token | None = None
        self._issuing = asyncio.Lock()
        self.suspect = False
        """Whether the service knows this device's secret to be in two hands."""

    async def token(self) -> str:
        """An access token that is good now. Raises CallFailed, NotEnrolled, OSError (disk)."""
        # One at a time: two that propose different next secrets look like a clone.
        async with self._issuing:
            if self._token is None or self._monotonic() >= self._token.renew_at:
                self._token = await self._issue()
            return self._token.value

    def forget_token(self) -> None:
        """The token was refused; the next `token` asks for another."""
        self._token = None

    @property
    def token_is_stale(self) -> bool:
        """Whether a stream opened with the present token should be opened anew."""
        return self._token is None or self._monotonic() >= self._token.renew_at

    @property
    def channel(self) -> grpc.aio.Channel:
        """The one connection, for whatever else is to be called on it."""
        return self._channel

    async def metadata(self) -> Metadata:
        """What a call carries: a good token. Raises as `token` does."""
        return (("authorization", f"Bearer {await self.token()}"),)

    async def open_stream(self) -> BatchStream:
        """A stream for batches, with a good token. Raises as `token` does."""
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(
            _INGEST_STREAM
        )
        call = method(metadata=await self.metadata(), wait_for_ready=False)
        return BatchStream(call, timeout_seconds=self._settings.batch_timeout_seconds)

    async def reconcile(
        self, request: reconcile_service_pb2.ReconcileRequest
    ) -> reconcile_service_pb2.ReconcileResponse:
        """One Reconcile call, with a good token. Raises as `token` does."""
        authorization = f"Bearer {await self.token()}"
        stub = reconcile_service_pb2_grpc.ReconcileServiceStub(self._channel)
        try:
            answer = await stub.Reconcile(
                request,
                metadata=(("authorization", authorization),),
                timeout=self._settings.batch_timeout_seconds,
            )
        except grpc.aio.AioRpcError as error:
            raise CallFailed(failure_of(error)) from None
        if answer is None:  # bytes that are no message
            raise CallFailed(Failure("GARBAGE", "the answer is not a message"))
        return answer

    async def close(self) -> None:
        """Ends every call and the connection."""
        await self._channel.close(grace=None)

    async def _issue(self) -> _Token:
        shown, proposed = await asyncio.to_thread(self._secret.to_show)
        asked_at = self._monotonic()
        request = device_service_pb2.IssueTokenRequest(
            refresh_secret=shown,
            next_refresh_secret_hash=hash_of(proposed) if proposed else b"",
        )
        stub = device_service_pb2_grpc.DeviceServiceStub(self._channel)
        try:
            answer = await stub.IssueToken(request, timeout=UNARY_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            failure = failure_of(error)
            if failure.reason == "SECRET_UNKNOWN":
                self._secret.unknown()
            raise CallFailed(failure) from None
        if not answer or not answer.access_token:  # bytes that are no message come as None
            # Nobody who knows us says this. Believing it would trade a secret that works for one
            # that the service has perhaps never heard of.
            raise CallFailed(Failure("GARBAGE", "the answer holds no token"))
        self.suspect = answer.suspect
        # From a suspect device no new secret is taken; the present one stays in use.
        if not answer.suspect:
            await asyncio.to_thread(self._secret.accepted, shown, proposed)
        life_seconds = min(max(1.0, float(answer.expires_in.seconds)), _LONGEST_LIFE_SECONDS)
        return _Token(answer.access_token, asked_at + _RENEW_AT * life_seconds)


async def enroll(settings: Settings, secret: RefreshSecret, code: str, name: str) -> Identity:
    """Trades an enrolment code for an identity; the secret is on disk before it is sent.

    A repeat with the same code after a lost answer gets the same identity. Raises AddressUnusable,
    EnrolmentRefused for every other failure (nothing is changed on this device then).
    """
    request = device_service_pb2.EnrollRequest(
        code=code,
        refresh_secret_hash=hash_of(await asyncio.to_thread(secret.for_code, code)),
        device_name=name,
    )
    async with open_channel(settings) as channel:
        stub = device_service_pb2_grpc.DeviceServiceStub(channel)
        try:
            answer = await stub.Enroll(request, timeout=UNARY_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            failure = failure_of(error)
            message = str(failure) if failure.reason else _no_service(settings.service, failure)
            raise EnrolmentRefused(failure.reason or failure.code, message) from None
    if not answer or not answer.device_id:
        raise EnrolmentRefused("GARBAGE", "the answer is not one of a Tillsync service")
    await asyncio.to_thread(secret.enrolled)
    return Identity(answer.device_id, answer.store_id, answer.tenant_id, answer.store_name)


def open_channel(settings: Settings) -> grpc.aio.Channel:
    """A channel with TLS; without it only to this machine, or where `plaintext` says so.

    Raises AddressUnusable for an address without a usable port, or a CA file that cannot be read.
    """
    host = _host_of(settings.service)
    if settings.plaintext or (_is_loopback(host) and not settings.ca_file):
        return grpc.aio.insecure_channel(settings.service, options=_CHANNEL_OPTIONS)
    authority = _authority(settings.ca_file) if settings.ca_file else None
    credentials = grpc.ssl_channel_credentials(authority)
    return grpc.aio.secure_channel(settings.service, credentials, options=_CHANNEL_OPTIONS)


def _authority(ca_file: str) -> bytes:
    """The file's bytes. gRPC would say of what is no certificate that no service answers."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_file)
        return Path(ca_file).read_bytes()
    except ssl.SSLError:
        raise AddressUnusable(f"ca_file {ca_file} is no certificate in PEM") from None
    except OSError as error:
        raise AddressUnusable(f"ca_file cannot be read: {error}") from None


def _host_of(service: str) -> str:
    if "://" in service:
        scheme, _, rest = service.partition("://")
        raise AddressUnusable(
            f"service must be HOST:PORT without {scheme}://, like sync.example.com:443; "
            f"write {rest.rstrip('/')!r}, not {service!r}"
        )
    host, _, port = service.rpartition(":")
    # gRPC takes a port that is too large modulo 65536, and asks a stranger.
    if not (host and _PORT.fullmatch(port) and int(port) in PORTS):
        raise AddressUnusable(
            f"service must be HOST:PORT with a port from 1 to 65535, like sync.example.com:443, "
            f"not {service!r}"
        )
    return host


def _no_service(address: str, failure: Failure) -> str:
    return (
        f"No Tillsync service answers at {address}. "
        f"Does it run there, is --service right, and for TLS --ca-file? ({failure})"
    )


def batch_of(envelopes: Sequence[bytes]) -> bytes:
    """An IngestStreamRequest out of serialized Events, which are its repeated field 1, unparsed."""
    parts: list[bytes] = []
    for envelope in envelopes:
        parts += (b"\x0a", _varint(len(envelope)), envelope)
    return b"".join(parts)


def answer_of(raw: bytes) -> Answer:
    """A serialized IngestStreamResponse in plain values. Raises CallFailed (GARBAGE)."""
    try:
        response = ingest_service_pb2.IngestStreamResponse.FromString(raw)
    except DecodeError:
        raise CallFailed(Failure("GARBAGE", "the answer is not a message")) from None
    served = response.served_at
    readable = 0 < served.seconds < 253_402_300_800 and 0 <= served.nanos < 1_000_000_000  # noqa: PLR2004 - the year 10000, a second
    return Answer(
        tuple(_verdict(verdict) for verdict in response.verdicts),
        response.history_id,
        served.ToDatetime(UTC) if readable else None,
    )


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    """A failed call in plain values."""
    return _failure(error.code(), error.details() or "", error.trailing_metadata())


def _verdict(verdict: event_pb2.Verdict) -> Verdict:
    refusal = verdict.refusal
    return Verdict(
        _OUTCOMES.get(verdict.outcome, "unknown"),
        verdict.position,
        event_pb2.EVENT_FLAG_FORKED in verdict.flags,
        refusal.reason,
        refusal.field,
        refusal.description,
    )


def _failure(code: grpc.StatusCode, details: str, metadata: grpc.aio.Metadata | None) -> Failure:
    pairs = {str(name): str(value) for name, value in metadata or ()}
    try:
        pushback_seconds = int(pairs.get("grpc-retry-pushback-ms", "0")) / 1000
    except ValueError:
        pushback_seconds = 0.0
    message = _with_clock_hint(details, datetime.now(UTC))
    return Failure(code.name, message, pairs.get("tillsync-reason", ""), pushback_seconds)


def _with_clock_hint(details: str, now: datetime) -> str:
    """A certificate that is not valid today, on a device that may be wrong about today."""
    dated = ("certificate has expired", "not yet valid")
    if not any(words in details for words in dated):
        return details
    return (
        f"the secure connection fails because of a date: is this device's clock right? "
        f"It says {now:%Y-%m-%d %H:%M} UTC. {details}"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits to a byte
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
