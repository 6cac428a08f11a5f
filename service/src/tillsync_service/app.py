"""The composition root: the one module that knows everyone. Builds a service and stops it."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Self

import grpc
import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from tillsync.v1 import (
    admin_service_pb2,
    books_service_pb2,
    device_service_pb2,
    ingest_service_pb2,
    reconcile_service_pb2,
    record_service_pb2,
    sync_service_pb2,
)
from tillsync.v1.admin_service_pb2_grpc import add_AdminServiceServicer_to_server
from tillsync.v1.books_service_pb2_grpc import add_BooksServiceServicer_to_server
from tillsync.v1.device_service_pb2_grpc import add_DeviceServiceServicer_to_server
from tillsync.v1.ingest_service_pb2_grpc import add_IngestServiceServicer_to_server
from tillsync.v1.reconcile_service_pb2_grpc import add_ReconcileServiceServicer_to_server
from tillsync.v1.record_service_pb2_grpc import add_RecordServiceServicer_to_server
from tillsync.v1.sync_service_pb2_grpc import add_SyncServiceServicer_to_server
from tillsync_service.admin.servicer import AdminServicer
from tillsync_service.admin.store import AdminStore
from tillsync_service.books.books_servicer import BooksServicer
from tillsync_service.books.books_store import BooksStore
from tillsync_service.books.servicer import ReconcileServicer
from tillsync_service.books.store import ReconcileStore
from tillsync_service.config import Settings, SettingsError
from tillsync_service.fleet.keys import KeyFile, create_key_file
from tillsync_service.fleet.servicer import DeviceServicer
from tillsync_service.fleet.standing import Standing
from tillsync_service.fleet.store import FleetStore
from tillsync_service.fleet.tokens import TokenIssuer, TokenVerifier
from tillsync_service.foundation import limits, migrations, tls
from tillsync_service.foundation.db import Database
from tillsync_service.foundation.doorkeeper import Doorkeeper
from tillsync_service.foundation.embedded import SERVICE_USER, EmbeddedPostgres
from tillsync_service.foundation.errors import ServiceError
from tillsync_service.foundation.wakeups import Wakeups
from tillsync_service.ingest.group_commit import GroupCommit
from tillsync_service.ingest.servicer import IngestServicer
from tillsync_service.ingest.store import IngestStore
from tillsync_service.sync.edit_store import EditStore
from tillsync_service.sync.forgetting import Forgetting
from tillsync_service.sync.read_store import ReadStore
from tillsync_service.sync.record_servicer import RecordServicer
from tillsync_service.sync.record_store import OperatorStore
from tillsync_service.sync.servicer import SyncServicer
from tillsync_service.sync.store import RecordStore
from tillsync_service.sync.streams import Pulls
from tillsync_service.sync.tail import Tails

log = structlog.get_logger(__name__)

SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (ingest_service_pb2, "IngestService"),
        (device_service_pb2, "DeviceService"),
        (admin_service_pb2, "AdminService"),
        (reconcile_service_pb2, "ReconcileService"),
        (books_service_pb2, "BooksService"),
        (sync_service_pb2, "SyncService"),
        (record_service_pb2, "RecordService"),
    )
)
READINESS_INTERVAL_SECONDS = 1.0

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def utc_now() -> datetime:
    """The service's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class StopReport:
    """How a stop went: `calls_cut` calls had not finished when the grace was over."""

    seconds: float
    calls_cut: int

    @property
    def outcome(self) -> str:
        return "deadline" if self.calls_cut else "drained"


class App:
    """A running service: `async with App(settings) as app`. `lost` is set when the embedded
    PostgreSQL ended by itself: nothing brings it back but a new start."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._resources = AsyncExitStack()
        self.port = 0
        self.lost = asyncio.Event()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._resources.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _start(self) -> None:
        settings = self._settings
        _must_be_free(settings.listen)
        keys = signing_keys(settings)
        url = await _serving_url(settings, self._resources, self.lost.set)
        database = await _open(self._resources, url, settings.database_connections)
        # A till's token and an operator's order must not queue behind sales, and who was revoked
        # and whether the database answers must queue behind nothing.
        office = await _open(self._resources, url, limits.OFFICE_POOL_CONNECTIONS)
        control = await _open(self._resources, url, limits.CONTROL_POOL_CONNECTIONS)
        standing = Standing(FleetStore(control))
        await standing.refresh()
        _background(self._resources, standing.run())

        verifier = TokenVerifier(keys, standing, utc_now)
        issuer = TokenIssuer(keys, utc_now)
        self._doorkeeper = Doorkeeper(verifier)
        _background(self._resources, self._doorkeeper.keep_in_order())
        self._group_commit = _group_commit(database, settings)
        self._server = grpc.aio.server(interceptors=(self._doorkeeper,), options=_SERVER_OPTIONS)
        add_IngestServiceServicer_to_server(
            IngestServicer(self._group_commit, utc_now), self._server
        )
        add_DeviceServiceServicer_to_server(
            DeviceServicer(FleetStore(office), issuer), self._server
        )
        sync = await _open(self._resources, url, limits.SYNC_POOL_CONNECTIONS)
        tails = Tails(ReadStore(sync))
        wakeups = Wakeups(_listen_url(settings, url), tails.wake)
        _background(self._resources, wakeups.run())
        _background(self._resources, tails.poll())
        _background(self._resources, Forgetting(office, settings.keep_deletions_days).run())
        pulls = Pulls(ReadStore(sync), tails)
        add_SyncServiceServicer_to_server(
            SyncServicer(pulls, EditStore(sync, wakeups.tell), utc_now), self._server
        )
        add_AdminServiceServicer_to_server(
            AdminServicer(AdminStore(office, moved=wakeups.tell)), self._server
        )
        add_RecordServiceServicer_to_server(
            RecordServicer(OperatorStore(office, wakeups.tell), RecordStore(office, wakeups.tell)),
            self._server,
        )
        add_ReconcileServiceServicer_to_server(
            ReconcileServicer(ReconcileStore(office), utc_now), self._server
        )
        add_BooksServiceServicer_to_server(BooksServicer(BooksStore(office)), self._server)
        self._health = health_aio.HealthServicer()
        add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (
                *SERVICES,
                health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
                reflection.SERVICE_NAME,
            ),
            self._server,
        )
        _background(self._resources, self._watch_readiness(control))
        self.port = self._bind()
        await self._server.start()
        log.info("serving", address=self.address)

    @property
    def address(self) -> str:
        """Where it listens, with the real port."""
        return f"{self._settings.listen.rpartition(':')[0]}:{self.port}"

    async def stop(self) -> StopReport:
        """Refuses new work, lets what is under way finish within the grace, and says which of the
        two ended it. Nothing that was acknowledged depends on it: that is committed."""
        began = monotonic()
        grace_seconds = self._settings.stop_grace_seconds
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.create_task(self._server.stop(grace_seconds))
        calls_cut = await self._doorkeeper.close(grace_seconds)
        await self._server.stop(0)
        await stopping
        await self._group_commit.drain()
        await self._resources.aclose()
        report = StopReport(monotonic() - began, calls_cut)
        log.info(
            "stopped",
            outcome=report.outcome,
            seconds=round(report.seconds, 3),
            calls_cut=report.calls_cut,
        )
        return report

    def _bind(self) -> int:
        listen = self._settings.listen
        try:
            credentials = tls.server_credentials(
                self._settings.tls_certificate, self._settings.tls_key
            )
            if credentials is None:
                return self._server.add_insecure_port(listen)
            return self._server.add_secure_port(listen, credentials)
        except (RuntimeError, OSError) as error:
            raise SettingsError(f"TILLSYNC_LISTEN: cannot listen on {listen}: {error}") from error

    async def _watch_readiness(self, database: Database) -> None:
        """Health says SERVING while the database answers."""
        while True:
            try:
                await database.ping()
                status = _SERVING
            except Exception as error:  # whatever it is, this must go on watching
                status = _NOT_SERVING
                if not isinstance(error, ServiceError):
                    log.exception("readiness_unknown", exc_info=error)
            for service in ("", *SERVICES):
                await self._health.set(service, status)
            await asyncio.sleep(READINESS_INTERVAL_SECONDS)


_SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", limits.MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", limits.MAX_RECEIVE_BYTES),
    # gRPC would let a fast peer send megabytes ahead, into memory that nobody counts. Without it a
    # peer sends 64 KiB until its message is asked for; a large one takes a few round trips more.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.keepalive_time_ms", limits.KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", limits.KEEPALIVE_TIMEOUT_MS),
    # Without it gRPC gives a silent peer a minute more, whatever keepalive_timeout_ms says.
    ("grpc.http2.ping_timeout_ms", limits.KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", limits.MIN_PING_INTERVAL_MS),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", limits.MIN_PING_INTERVAL_MS),
    # Two services on one port would each get half the calls, and nobody would know.
    ("grpc.so_reuseport", 0),
)


@asynccontextmanager
async def database_beside(settings: Settings) -> AsyncIterator[Database]:
    """The database of a service that may be running, for a command beside it. Raises SettingsError
    where there is none: a new one would know no device, and nobody would look for it there."""
    async with AsyncExitStack() as resources:
        running = None
        if not settings.database_url:
            _must_have_a_cluster(settings)
            running = EmbeddedPostgres.running_urls(settings.folder / "postgres")
        url = running.service_url if running else await _serving_url(settings, resources)
        yield await _open(resources, url, limits.CONTROL_POOL_CONNECTIONS)


async def _open(resources: AsyncExitStack, url: str, connections: int) -> Database:
    database = await Database.connect(url, connections=connections)
    resources.push_async_callback(database.close)
    return database


async def _serving_url(
    settings: Settings, resources: AsyncExitStack, on_loss: Callable[[], None] = lambda: None
) -> str:
    """Where the database that `settings` name is, migrated: a configured one is refused while
    migrations are pending; the embedded one is started and migrated, and `on_loss` called if it
    ends by itself."""
    if settings.database_url:
        url = settings.database_url.get_secret_value()
        _must_be_migrated(await migrations.status(url))
        return url
    embedded = EmbeddedPostgres(settings.folder / "postgres")
    await resources.enter_async_context(embedded)
    _background(resources, _call_at_end(embedded, on_loss))
    await migrations.upgrade(embedded.admin_url)
    await migrations.grant_serving(embedded.admin_url, SERVICE_USER)
    return embedded.service_url


def _listen_url(settings: Settings, url: str) -> str:
    return settings.listen_url.get_secret_value() if settings.listen_url else url


async def _call_at_end(embedded: EmbeddedPostgres, on_loss: Callable[[], None]) -> None:
    await embedded.wait()
    log.error("embedded_postgres_ended")
    on_loss()


def _background(resources: AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` until `resources` are released."""
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    resources.push_async_callback(end)


def signing_keys(settings: Settings) -> KeyFile:
    """The keys that sign tokens; those beside the embedded database are made at first use."""
    path = settings.signing_keys_file
    if settings.signing_keys is None and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        create_key_file(path)
    return KeyFile(path)


def token_issuer(settings: Settings) -> TokenIssuer:
    """What signs tokens with the keys of this machine's service. Raises SettingsError where none
    has run: with keys of its own, a token would be for no service."""
    path = settings.signing_keys_file
    if settings.signing_keys is None and not path.exists():
        raise SettingsError(
            f"There are no signing keys at {path} yet: start the service first, or set "
            "TILLSYNC_DATA_DIR to its folder, or TILLSYNC_SIGNING_KEYS to its keys."
        )
    return TokenIssuer(KeyFile(path), utc_now)


def _must_be_free(listen: str) -> None:
    """Said before a database is started for nothing; gRPC's own words would not name the cause."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        if os.name == "posix":  # elsewhere the option means the opposite
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            raise SettingsError(
                f"TILLSYNC_LISTEN: cannot listen on {listen}: {error.strerror}. Is another "
                "tillsync-service running? Choose another port."
            ) from error


def _group_commit(database: Database, settings: Settings) -> GroupCommit:
    store = IngestStore(database)
    if settings.group_commit:
        return GroupCommit(store)
    return GroupCommit(
        store, max_group_events=1, max_groups_per_tenant=settings.database_connections
    )


def _must_have_a_cluster(settings: Settings) -> None:
    if not EmbeddedPostgres.exists(settings.folder / "postgres"):
        raise SettingsError(
            f"No service has run in {settings.folder}, so there is no database: set "
            "TILLSYNC_DATA_DIR to the service's folder, or TILLSYNC_DATABASE_URL to its database."
        )


def _must_be_migrated(status: migrations.Status) -> None:
    if status.is_newer:
        raise SettingsError(
            f"The database is at migration {status.current}, which this program does not know: "
            "start the newer tillsync-service."
        )
    if status.pending:
        raise SettingsError(
            f"The database lacks migrations {', '.join(status.pending)}: run "
            "`tillsync-service migrate up` with TILLSYNC_MIGRATION_URL set to the owner's login."
        )
