"""A small real gRPC server that speaks the contract's device side, and misbehaves on request.

It stores in memory by the contract's rules (dedup by key and body, gapless positions); `script`
holds what to do with the next batches, first to last; an empty script means behaving well.
"""

import asyncio
import hashlib
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from support.scripted_books import ScriptedBooks
from tillsync.v1 import (
    device_service_pb2,
    event_pb2,
    ingest_service_pb2,
    reconcile_service_pb2,
)

Context = grpc.aio.ServicerContext
# Gets the parsed batch, gives the serialized answer, or aborts.
Behaviour = Callable[
    ["ScriptedService", ingest_service_pb2.IngestStreamRequest, Context], Awaitable[bytes]
]
DEVICE_ID = "0191d0a0-0000-7000-8000-00000000d001"
STORE_ID = "0191d0a0-0000-7000-8000-000000005001"
TENANT_ID = "0191d0a0-0000-7000-8000-00000000a001"


def fails(
    code: grpc.StatusCode,
    details: str = "",
    *,
    reason: str = "",
    pushback_ms: int | None = None,
    stored: bool = False,
) -> Behaviour:
    """Answers the batch with a status; `stored`: after having stored it, as a lost commit does."""

    async def behave(service, request, context):
        if stored:
            service.store(request.events)
        metadata = []
        if reason:
            metadata.append(("tillsync-reason", reason))
        if pushback_ms is not None:
            metadata.append(("grpc-retry-pushback-ms", str(pushback_ms)))
        await context.abort(code, details, tuple(metadata))

    return behave


def says(raw: bytes) -> Behaviour:
    """Answers with these very bytes."""

    async def behave(service, request, context):
        return raw

    return behave


def changed(change: Callable[[ingest_service_pb2.IngestStreamResponse], None]) -> Behaviour:
    """Stores the batch and answers, after `change` has had its way with the answer."""

    async def behave(service, request, context):
        response = service.answer(request.events)
        change(response)
        return response.SerializeToString()

    return behave


async def hangs(service, request, context):
    """Never answers; ends when the caller hangs up."""
    await asyncio.Event().wait()


async def behaves(service, request, context):
    """Stores and answers by the contract."""
    return service.answer(request.events).SerializeToString()


@dataclass
class ScriptedService:
    """Use as an async context manager; `address` is good inside."""

    script: deque[Behaviour] = field(default_factory=deque)
    always: Behaviour = behaves
    """What to do when the script is empty."""
    token_failures: deque[tuple[grpc.StatusCode, str, str]] = field(default_factory=deque)
    """(code, details, reason) for the next IssueToken calls."""
    token_seconds: float = 600.0
    suspect: bool = False
    history_id: str = "history-1"
    clock_ahead_seconds: float = 0.0
    port: int = 0
    credentials: grpc.ServerCredentials | None = None
    stored: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Key to (position, digest)."""
    sequences: dict[tuple[int, int], str] = field(default_factory=dict)
    """(epoch, sequence) to the key that used it first."""
    quarantine: list[str] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)
    """The keys of every batch that arrived, whatever became of it."""
    secrets: set[bytes] = field(default_factory=set)
    """Hashes of the refresh secrets that open the door."""
    proposals: list[bytes] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    tokens_refused: int = 0
    _token_ends: dict[str, float] = field(default_factory=dict)
    check_secrets: bool = True
    token_text: str | None = None
    """What IssueToken gives instead of a token."""
    token_answers: deque[bytes] = field(default_factory=deque)
    """The very bytes that the next IssueToken calls are answered with."""
    token_hangs: int = 0
    """How many of the next IssueToken calls are never answered."""
    enroll_answers: deque[bytes] = field(default_factory=deque)
    books: ScriptedBooks = field(default_factory=ScriptedBooks)
    reconcile_failures: deque[tuple[grpc.StatusCode, str]] = field(default_factory=deque)
    """(code, details) for the next Reconcile calls."""
    reconcile_answers: deque[bytes] = field(default_factory=deque)
    """The very bytes that the next Reconcile calls are answered with."""
    before_reconcile: Callable[[], object] = lambda: None
    """Called when a Reconcile call arrives."""
    reconciled: list[tuple[int, int]] = field(default_factory=list)
    """The bytes of every Reconcile request and of its response."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
            )
        )
        self._server.add_generic_rpc_handlers(
            (self._ingest_handlers(), self._device_handlers(), self._reconcile_handlers())
        )
        at = f"127.0.0.1:{self.port}"
        self.port = (
            self._server.add_secure_port(at, self.credentials)
            if self.credentials
            else self._server.add_insecure_port(at)
        )
        await self._server.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._server.stop(grace=None)

    def store(self, events) -> list[event_pb2.Verdict]:
        return [self._verdict(event) for event in events]

    def answer(self, events) -> ingest_service_pb2.IngestStreamResponse:
        served_at = Timestamp()
        served_at.FromNanoseconds(int((time.time() + self.clock_ahead_seconds) * 1e9))
        return ingest_service_pb2.IngestStreamResponse(
            verdicts=self.store(events), history_id=self.history_id, served_at=served_at
        )

    def _verdict(self, event) -> event_pb2.Verdict:
        self.books.present(event)
        body = event.body.type_url.encode() + b"\0" + event.body.value
        digest = hashlib.sha256(body).digest()[:16]
        position, known = self.stored.get(event.key, (0, b""))
        if position and known == digest:
            return event_pb2.Verdict(outcome=event_pb2.OUTCOME_DUPLICATE, position=position)
        if position:
            self.quarantine.append(event.key)
            refusal = event_pb2.Refusal(reason="KEY_CONFLICT", field="key", description="taken")
            self.books.refuse(event, event_pb2.OUTCOME_CONFLICT, refusal)
            return event_pb2.Verdict(
                outcome=event_pb2.OUTCOME_CONFLICT, position=position, refusal=refusal
            )
        verdict = event_pb2.Verdict(
            outcome=event_pb2.OUTCOME_ACCEPTED,
            position=1 + next((place for place, _ in reversed(self.stored.values())), 0),
        )
        self.stored[event.key] = (verdict.position, digest)
        self.books.count(event)
        number = (event.outbox_epoch, event.device_sequence)
        if self.sequences.setdefault(number, event.key) != event.key:
            verdict.flags.append(event_pb2.EVENT_FLAG_FORKED)
        return verdict

    def lose(self, *keys: str, numbers_too: bool = True) -> None:
        """Forgets events as a backup does that lacks them; or all of them but their numbers."""
        for key in keys:
            del self.stored[key]
            self.books.lose(key, numbers_too=numbers_too)
            if numbers_too:
                self.sequences = {n: k for n, k in self.sequences.items() if k != key}

    async def _reconcile(self, request, context: Context):
        await self._check_token(context)
        self.before_reconcile()
        if self.reconcile_failures:
            await context.abort(*self.reconcile_failures.popleft())
        if self.reconcile_answers:
            return self.reconcile_answers.popleft()
        response = self.books.answer(request)
        response.history_id = self.history_id
        self.reconciled.append((request.ByteSize(), response.ByteSize()))
        return response

    async def _ingest_stream(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        await self._check_token(context)
        async for raw in requests:
            await self._check_token(context)
            request = ingest_service_pb2.IngestStreamRequest.FromString(raw)
            self.batches.append([event.key for event in request.events])
            behave = self.script.popleft() if self.script else self.always
            yield await behave(self, request, context)

    async def _check_token(self, context: Context) -> None:
        shown = dict(context.invocation_metadata()).get("authorization", "")
        token = shown.removeprefix("Bearer ")
        known = token in self.tokens and time.monotonic() < self._token_ends.get(token, math.inf)
        if not known:
            self.tokens_refused += 1
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED, "no", (("tillsync-reason", "TOKEN_INVALID"),)
            )

    async def _issue_token(self, request, context: Context):
        if self.token_hangs:
            self.token_hangs -= 1
            await hangs(self, request, context)
        if self.token_answers:
            return self.token_answers.popleft()
        if self.token_failures:
            code, details, reason = self.token_failures.popleft()
            await context.abort(code, details, (("tillsync-reason", reason),) if reason else ())
        if self.check_secrets and _hash(request.refresh_secret) not in self.secrets:
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED, "?", (("tillsync-reason", "SECRET_UNKNOWN"),)
            )
        if request.next_refresh_secret_hash:
            self.proposals.append(request.next_refresh_secret_hash)
            self.secrets = {_hash(request.refresh_secret), request.next_refresh_secret_hash}
        self.tokens.append(f"token-{len(self.tokens) + 1}")
        self._token_ends[self.tokens[-1]] = time.monotonic() + self.token_seconds
        response = device_service_pb2.IssueTokenResponse(
            access_token=self.tokens[-1] if self.token_text is None else self.token_text,
            suspect=self.suspect,
        )
        response.expires_in.FromMilliseconds(int(self.token_seconds * 1000))
        return response

    async def _enroll(self, request, context: Context):
        if request.code == "USED":
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                "the code was used by another device",
                (("tillsync-reason", "CODE_USED"),),
            )
        self.secrets.add(request.refresh_secret_hash)
        if self.enroll_answers:
            return self.enroll_answers.popleft()
        return device_service_pb2.EnrollResponse(
            device_id=DEVICE_ID, store_id=STORE_ID, tenant_id=TENANT_ID, store_name="Harbour"
        )

    def _ingest_handlers(self):
        return grpc.method_handlers_generic_handler(
            "tillsync.v1.IngestService",
            {"IngestStream": grpc.stream_stream_rpc_method_handler(self._ingest_stream)},
        )

    def _reconcile_handlers(self):
        handler = grpc.unary_unary_rpc_method_handler(
            self._reconcile,
            request_deserializer=reconcile_service_pb2.ReconcileRequest.FromString,
            response_serializer=_bytes_of,
        )
        return grpc.method_handlers_generic_handler(
            "tillsync.v1.ReconcileService", {"Reconcile": handler}
        )

    def _device_handlers(self):
        pb = device_service_pb2
        return grpc.method_handlers_generic_handler(
            "tillsync.v1.DeviceService",
            {
                "IssueToken": grpc.unary_unary_rpc_method_handler(
                    self._issue_token,
                    request_deserializer=pb.IssueTokenRequest.FromString,
                    response_serializer=_bytes_of,
                ),
                "Enroll": grpc.unary_unary_rpc_method_handler(
                    self._enroll,
                    request_deserializer=pb.EnrollRequest.FromString,
                    response_serializer=_bytes_of,
                ),
            },
        )


def _bytes_of(answer: Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
