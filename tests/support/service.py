"""Ingest behind a real socket, in this process or in one of its own, and a caller for it."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import UUID

import grpc
from google.rpc import error_details_pb2, status_pb2

from support.polling import eventually
from tillsync.v1 import ingest_service_pb2 as pb
from tillsync.v1.event_pb2 import Event, Outcome, Verdict
from tillsync.v1.ingest_service_pb2_grpc import (
    IngestServiceStub,
    add_IngestServiceServicer_to_server,
)
from tillsync_service.databases import utc_now
from tillsync_service.fleet.keys import KeyFile, create_key_file
from tillsync_service.fleet.tokens import TokenIssuer
from tillsync_service.foundation import limits
from tillsync_service.foundation.budget import Budget
from tillsync_service.foundation.db import Database
from tillsync_service.foundation.doorkeeper import Doorkeeper
from tillsync_service.foundation.errors import Unauthenticated
from tillsync_service.foundation.identity import Device
from tillsync_service.ingest.group_commit import GroupCommit
from tillsync_service.ingest.servicer import IngestServicer
from tillsync_service.ingest.store import IngestStore
from tillsync_service.ingest.verdicts import Verdicts

OPTIONS = (
    ("grpc.max_receive_message_length", limits.MAX_RECEIVE_BYTES),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.so_reuseport", 0),
)
DETAILS = {
    "google.rpc.ErrorInfo": error_details_pb2.ErrorInfo,
    "google.rpc.BadRequest": error_details_pb2.BadRequest,
    "google.rpc.RetryInfo": error_details_pb2.RetryInfo,
}


def names(verdicts: Iterable[Verdict] | Verdicts) -> list[str]:
    """The outcomes of verdicts, of the contract's or of the judge's."""
    if isinstance(verdicts, Verdicts):
        outcomes = verdicts.outcomes
    else:
        outcomes = [verdict.outcome for verdict in verdicts]
    return [Outcome.Name(outcome).removeprefix("OUTCOME_") for outcome in outcomes]


def ids_as_token(device: Device) -> str:
    return f"{device.tenant_id} {device.store_id} {device.device_id} {device.suspect}"


class IdsAsToken:
    """An authenticator that believes every token of `ids_as_token`."""

    def authenticate(self, token: str) -> Device:
        try:
            tenant, store, device, suspect = token.split()
            return Device(UUID(tenant), UUID(store), UUID(device), suspect == "True")
        except ValueError:
            raise Unauthenticated("Not a token.") from None


@dataclass
class Served:
    """A server in this process."""

    address: str
    doorkeeper: Doorkeeper
    server: grpc.aio.Server


@asynccontextmanager
async def ingest_served(
    database: Database | None = None,
    *,
    group_commit: object = None,
    budget: Budget | None = None,
    options: Iterable[tuple[str, int]] = (),
) -> AsyncIterator[Served]:
    """IngestService behind the doorkeeper, on a port of its own."""
    doorkeeper = Doorkeeper(IdsAsToken(), budget)
    server = grpc.aio.server(interceptors=(doorkeeper,), options=(*OPTIONS, *options))
    group_commit = group_commit or GroupCommit(IngestStore(database))
    add_IngestServiceServicer_to_server(IngestServicer(group_commit, utc_now), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with kept_in_order(doorkeeper):
            yield Served(f"127.0.0.1:{port}", doorkeeper, server)
    finally:
        await server.stop(None)


@asynccontextmanager
async def kept_in_order(doorkeeper: Doorkeeper) -> AsyncIterator[None]:
    """The doorkeeper's rounds go on, as the application sees to it."""
    rounds = asyncio.create_task(doorkeeper.keep_in_order())
    try:
        yield
    finally:
        rounds.cancel()
        await asyncio.gather(rounds, return_exceptions=True)


class Caller:
    """A device's side of the wire, without any of the agent's patience."""

    def __init__(self, address: str, token: str) -> None:
        self.channel = grpc.aio.insecure_channel(
            address,
            options=(
                ("grpc.max_send_message_length", -1),
                ("grpc.enable_retries", 0),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 100),
            ),
        )
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.stub = IngestServiceStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def ingest(self, *events: Event) -> pb.IngestResponse:
        return await self.stub.Ingest(
            pb.IngestRequest(events=events), metadata=self.metadata, timeout=20
        )

    async def offer(self, *events: Event) -> Sequence[Verdict]:
        return (await self.ingest(*events)).verdicts

    async def offer_raw(self, raw: bytes) -> bytes:
        call = self.channel.unary_unary("/tillsync.v1.IngestService/Ingest")
        return await call(raw, metadata=self.metadata, timeout=20)

    def stream(self, requests: AsyncIterator[pb.IngestStreamRequest] | None = None):
        return self.stub.IngestStream(requests, metadata=self.metadata)


@dataclass
class Failure:
    """A failed call as a caller sees it."""

    code: grpc.StatusCode
    text: str
    metadata: dict[str, str | bytes]

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> "Failure":
        return cls(error.code(), error.details() or "", dict(error.trailing_metadata() or ()))

    @property
    def reason(self) -> str | None:
        return self.metadata.get("tillsync-reason")

    @property
    def pushback_ms(self) -> str | None:
        return self.metadata.get("grpc-retry-pushback-ms")

    @property
    def status(self) -> status_pb2.Status:
        return status_pb2.Status.FromString(self.metadata["grpc-status-details-bin"])

    @property
    def details(self) -> dict[str, object]:
        """The rich details by their message's short name."""
        found = {}
        for packed in self.status.details:
            kind = DETAILS[packed.type_url.rpartition("/")[2]]
            found[kind.__name__] = kind.FromString(packed.value)
        return found


async def failure_of(call) -> Failure:
    """How the awaited call failed. Raises AssertionError when it did not."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return Failure.of(error)
    raise AssertionError("the call succeeded")


class ServiceProcess:
    """`tillsync-service serve` as an operator runs it, on a configured database."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "service.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.keys = folder / "signing-keys.json"
        if not self.keys.exists():
            create_key_file(self.keys)
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("TILLSYNC_")},
            "TILLSYNC_DATABASE_URL": database_url,
            "TILLSYNC_SIGNING_KEYS": str(self.keys),
            "TILLSYNC_LISTEN": "127.0.0.1:0",
        }

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self) -> None:
        program = Path(sys.executable).with_name("tillsync-service")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [program, "serve"], env=self._environment, cwd=self._folder, stderr=log, stdout=log
            )
        serving = await eventually(lambda: self._logged("serving"), within_seconds=30)
        self.address = serving["address"]

    def _logged(self, event: str) -> dict[str, object] | None:
        assert self._process.poll() is None or event != "serving", self._log.read_text()
        for line in self._log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                if (fields := json.loads(line)).get("event") == event:
                    return fields
        return None

    def last_words(self) -> dict[str, object] | None:
        return self._logged("stopped")

    def log(self) -> str:
        return self._log.read_text()

    async def kill(self) -> None:
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    async def stopped(self, *, within_seconds: float = 30) -> int:
        """Asks it to stop, and gives its exit status."""
        self._process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self._process.wait, within_seconds)

    def caller(self, device: Device, address: str | None = None) -> Caller:
        token, _ = TokenIssuer(KeyFile(self.keys), utc_now).device_token(device)
        return Caller(address or self.address, token)
