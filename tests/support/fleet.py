"""Fleet and administration behind a real socket, an operator at it, and tills with a memory."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import grpc

from support.builders import an_event
from support.everything import fill
from support.polling import eventually
from support.service import Caller, kept_in_order
from tillsync.v1 import admin_service_pb2 as admin_pb
from tillsync.v1 import books_service_pb2 as books_pb
from tillsync.v1 import device_service_pb2 as pb
from tillsync.v1 import record_service_pb2 as record_pb
from tillsync.v1.admin_service_pb2_grpc import AdminServiceStub, add_AdminServiceServicer_to_server
from tillsync.v1.books_service_pb2_grpc import BooksServiceStub, add_BooksServiceServicer_to_server
from tillsync.v1.device_service_pb2_grpc import (
    DeviceServiceStub,
    add_DeviceServiceServicer_to_server,
)
from tillsync.v1.ingest_service_pb2_grpc import add_IngestServiceServicer_to_server
from tillsync.v1.reconcile_service_pb2_grpc import add_ReconcileServiceServicer_to_server
from tillsync.v1.record_service_pb2_grpc import (
    RecordServiceStub,
    add_RecordServiceServicer_to_server,
)
from tillsync_service.admin.servicer import AdminServicer
from tillsync_service.admin.store import AdminStore
from tillsync_service.app import App
from tillsync_service.books.books_servicer import BooksServicer
from tillsync_service.books.books_store import BooksStore
from tillsync_service.books.servicer import ReconcileServicer
from tillsync_service.books.store import ReconcileStore
from tillsync_service.config import Settings
from tillsync_service.databases import token_issuer, utc_now
from tillsync_service.fleet.keys import KeyFile, create_key_file
from tillsync_service.fleet.servicer import DeviceServicer
from tillsync_service.fleet.standing import Standing
from tillsync_service.fleet.store import FleetStore
from tillsync_service.fleet.tokens import TokenIssuer, TokenVerifier
from tillsync_service.foundation.db import Database
from tillsync_service.foundation.doorkeeper import Doorkeeper
from tillsync_service.foundation.identity import Caller as Identity
from tillsync_service.ingest.group_commit import GroupCommit
from tillsync_service.ingest.servicer import IngestServicer
from tillsync_service.ingest.store import IngestStore
from tillsync_service.sync.record_servicer import RecordServicer
from tillsync_service.sync.record_store import OperatorStore
from tillsync_service.sync.store import RecordStore


@dataclass
class Fleet:
    """The service, and the parts of it that a test looks into."""

    channel: grpc.aio.Channel
    address: str
    issuer: TokenIssuer
    verifier: TokenVerifier | None = None
    standing: Standing | None = None
    doorkeeper: Doorkeeper | None = None
    database: Database | None = None

    def operator(self, tenant_id: UUID | str | None = None) -> "OperatorAt":
        """An operator with a token for one tenant, or for all."""
        limit = None if tenant_id is None else UUID(str(tenant_id))
        return OperatorAt(self.channel, self.issuer.operator_token("test", limit, 3600))

    def caller_of(self, token: str) -> Identity:
        """Whom the door lets in with the token."""
        return self.verifier.authenticate(token)

    async def a_store(self) -> admin_pb.CreateEnrolmentCodeRequest:
        """A new tenant with a store, as what asks for a code to it."""
        operator = self.operator()
        tenant = (await operator.call("CreateTenant", name="Shops", disposable=True)).tenant
        store = await operator.call(
            "CreateStore", tenant_id=tenant.tenant_id, code="1", name="Main street"
        )
        return admin_pb.CreateEnrolmentCodeRequest(
            tenant_id=tenant.tenant_id, store_id=store.store.store_id
        )

    async def a_code(self) -> str:
        """A fresh code for a store of a new tenant."""
        request = await self.a_store()
        return (await self.operator().stub.CreateEnrolmentCode(request)).code

    def till(self) -> "Till":
        return Till(DeviceServiceStub(self.channel))

    async def an_enrolled_till(self) -> "Till":
        till = self.till()
        await till.enrol(await self.a_code())
        return till

    async def a_busy_tenant(self) -> tuple[str, str]:
        """A disposable tenant with something in every table, and its till's token."""
        till = await self.an_enrolled_till()
        token = (await till.issue(rotate=True)).access_token
        async with Caller(self.address, token) as sender:
            events = [an_event(number=n, key=f"{n}") for n in range(1, 6)]
            conflict = an_event(number=6, key="1", receipt="other")
            refused = an_event(number=7, key="")
            await sender.offer(*events, conflict, refused)
        await fill(self.database, UUID(till.identity.tenant_id), UUID(till.identity.device_id))
        return till.identity.tenant_id, token


class OperatorAt:
    """AdminService, RecordService and BooksService with a token."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        metadata = (("authorization", f"Bearer {token}"),)
        self.stub = AdminServiceStub(_WithMetadata(channel, metadata))
        self.records = RecordServiceStub(_WithMetadata(channel, metadata))
        self.books = BooksServiceStub(_WithMetadata(channel, metadata))

    async def call(self, method: str, **fields: object):
        services = ((admin_pb, self.stub), (record_pb, self.records), (books_pb, self.books))
        for messages, stub in services:
            if hasattr(messages, f"{method}Request"):
                return await getattr(stub, method)(getattr(messages, f"{method}Request")(**fields))
        raise AssertionError(method)

    async def import_records(
        self, settings: Mapping[str, object], *messages: Mapping[str, str]
    ) -> list[record_pb.ImportRecordsResponse]:
        """The answers to an import of messages of bodies by id."""

        async def requests() -> AsyncIterator[record_pb.ImportRecordsRequest]:
            yield record_pb.ImportRecordsRequest(settings=settings)
            for message in messages:
                yield record_pb.ImportRecordsRequest(
                    record_ids=list(message), bodies=list(message.values())
                )

        return [answer async for answer in self.records.ImportRecords(requests())]


class _WithMetadata:
    """A channel whose calls all carry the same metadata."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self._channel = channel
        self._metadata = metadata

    def unary_unary(self, *arguments: object, **named: object) -> Callable[..., object]:
        call = self._channel.unary_unary(*arguments, **named)
        return lambda request: call(request, metadata=self._metadata, timeout=20)

    def stream_stream(self, *arguments: object, **named: object) -> Callable[..., object]:
        call = self._channel.stream_stream(*arguments, **named)
        return lambda requests=None: call(requests, metadata=self._metadata, timeout=60)


def a_secret() -> bytes:
    return uuid4().bytes + uuid4().bytes


def hash_of(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


class Till:
    """A device that keeps its secrets as the contract says."""

    def __init__(
        self, stub: DeviceServiceStub, current: bytes = b"", proposal: bytes = b""
    ) -> None:
        self._stub = stub
        self.current = current or a_secret()
        self.next = proposal
        self.identity: pb.EnrollResponse | None = None

    async def enrol(self, code: str, name: str = "till 1") -> pb.EnrollResponse:
        request = pb.EnrollRequest(
            code=code, refresh_secret_hash=hash_of(self.current), device_name=name
        )
        self.identity = await self._stub.Enroll(request, timeout=20)
        return self.identity

    async def issue(
        self, *, rotate: bool = False, answer_lost: bool = False
    ) -> pb.IssueTokenResponse:
        """One IssueToken, and what its answer does to the stored secrets."""
        if rotate and not self.next:
            self.next = a_secret()
        proposal = hash_of(self.next) if self.next else b""
        answer = await self._stub.IssueToken(
            pb.IssueTokenRequest(refresh_secret=self.current, next_refresh_secret_hash=proposal),
            timeout=20,
        )
        if self.next and not answer_lost:
            self.current, self.next = self.next, b""
        return answer

    def image(self) -> "Till":
        """A copy of the disk, in another till."""
        copy = Till(self._stub, self.current, self.next)
        copy.identity = self.identity
        return copy


async def together(admin_database_url: str, table: str, *calls: Awaitable[object]) -> list[object]:
    """The answers of calls that all stood before the table's rows before the first went on."""
    holder = await asyncpg.connect(admin_database_url)
    watcher = await asyncpg.connect(admin_database_url)
    tasks: list[asyncio.Future[object]] = []

    async def all_wait() -> bool:
        return await watcher.fetchval(
            "SELECT count(*) = $1 FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'",
            len(tasks),
        )

    try:
        async with holder.transaction():
            await holder.execute(f"SELECT FROM tillsync.{table} FOR UPDATE")
            tasks += [asyncio.ensure_future(call) for call in calls]
            await eventually(all_wait)
        return await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        await holder.close()
        await watcher.close()


@asynccontextmanager
async def fleet_served(database: Database, folder: Path) -> AsyncIterator[Fleet]:
    """The services behind the doorkeeper, on a port of its own. Standing is refreshed when
    the test says so."""
    key_path = folder / "signing-keys.json"
    create_key_file(key_path)
    keys = KeyFile(key_path)
    store = FleetStore(database)
    standing = Standing(store, monotonic=lambda: 0.0)  # does not age by itself
    await standing.refresh()
    issuer = TokenIssuer(keys, utc_now)
    verifier = TokenVerifier(keys, standing, utc_now)
    doorkeeper = Doorkeeper(verifier)
    server = grpc.aio.server(interceptors=(doorkeeper,), options=(("grpc.so_reuseport", 0),))
    add_DeviceServiceServicer_to_server(DeviceServicer(store, issuer), server)
    add_AdminServiceServicer_to_server(AdminServicer(AdminStore(database)), server)
    add_RecordServiceServicer_to_server(
        RecordServicer(OperatorStore(database), RecordStore(database)), server
    )
    add_ReconcileServiceServicer_to_server(
        ReconcileServicer(ReconcileStore(database), utc_now), server
    )
    add_BooksServiceServicer_to_server(BooksServicer(BooksStore(database)), server)
    add_IngestServiceServicer_to_server(
        IngestServicer(GroupCommit(IngestStore(database)), utc_now), server
    )
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with kept_in_order(doorkeeper), grpc.aio.insecure_channel(address) as channel:
            yield Fleet(channel, address, issuer, verifier, standing, doorkeeper, database)
    finally:
        await server.stop(None)


def settings_on(database_url: str, folder: Path, **others: object) -> Settings:
    """A service's on a database that is there, with keys of its own in the folder."""
    keys = folder / "signing-keys.json"
    create_key_file(keys)
    return Settings(
        database_url=database_url,
        signing_keys=keys,
        listen="127.0.0.1:0",
        log_level="error",
        **others,
    )


@asynccontextmanager
async def app_served(database_url: str, folder: Path) -> AsyncIterator[Fleet]:
    """The service as it is composed, in this process, where a test may change its limits."""
    settings = settings_on(database_url, folder)
    async with (
        App(settings) as app,
        grpc.aio.insecure_channel(app.address) as channel,
    ):
        yield Fleet(channel, app.address, token_issuer(settings))
