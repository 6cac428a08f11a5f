"""The composition root: the one module that knows everyone. Builds a service and stops it."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from time import monotonic
from typing import Self

import grpc
import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection
from starlette.applications import Starlette

from tillsync_service.config import Settings, SettingsError
from tillsync_service.databases import open_pool, serving_url, signing_keys, utc_now
from tillsync_service.fleet.standing import Standing
from tillsync_service.fleet.store import FleetStore
from tillsync_service.fleet.tokens import TokenIssuer, TokenVerifier
from tillsync_service.foundation import limits, migrations, tls
from tillsync_service.foundation.background import Background
from tillsync_service.foundation.doorkeeper import Doorkeeper
from tillsync_service.foundation.metrics import Metrics
from tillsync_service.health import Health
from tillsync_service.rooms import SERVICES, Surroundings, open_pools, open_rooms
from tillsync_service.telemetry import Telemetry
from tillsync_service.web import Probes, application, served

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StopReport:
    """How a stop went: `calls_cut` calls had not finished when the grace was over."""

    seconds: float
    calls_cut: int

    @property
    def outcome(self) -> str:
        return "deadline" if self.calls_cut else "drained"

    def __str__(self) -> str:
        if self.calls_cut:
            return f"deadline: {self.calls_cut} calls cut after {self.seconds:.1f} s"
        return f"drained in {self.seconds:.1f} s"


class App:
    """A running service: `async with App(settings) as app`. `lost` is set when the embedded
    PostgreSQL ended by itself: nothing brings it back but a new start."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._resources = AsyncExitStack()
        self.port = 0
        self.http_port = 0
        """Where probes and metrics are; 0: nowhere."""
        self.lost = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Serves when this returns. Where it cannot, or is cancelled, nothing is left behind."""
        try:
            await self._start()
        except BaseException:
            await self._resources.aclose()
            raise

    async def _start(self) -> None:
        settings, resources = self._settings, self._resources
        _must_be_free(settings.listen)
        self._telemetry = telemetry = Telemetry(settings)
        resources.push_async_callback(telemetry.close)
        probes = Probes()
        if address := settings.http_address:
            pages = application(probes, telemetry.registry)
            self.http_port = await resources.enter_async_context(_web(pages, address))

        keys = signing_keys(settings)
        url = await serving_url(settings, resources, self.lost.set)
        background = Background(resources)
        # Who was revoked and whether the database answers must queue behind nothing.
        control = await open_pool(
            resources, url, limits.CONTROL_POOL_CONNECTIONS, metrics=telemetry.metrics
        )
        standing = Standing(FleetStore(control))
        await standing.refresh()
        background.run("the watch on revocations", standing.run())

        async def must_be_able_to_serve() -> None:
            await control.ping()
            standing.must_be_known()

        self._health = Health(
            SERVICES,
            must_be_able_to_serve,
            timeout_seconds=settings.ready_timeout_seconds,
            ended=lambda: background.ended,
        )
        await self._health.look()
        pools = await open_pools(
            resources, url, settings, telemetry.metrics, lambda: self._health.database_is_away
        )
        self._doorkeeper = Doorkeeper(
            TokenVerifier(keys, standing, utc_now),
            metrics=telemetry.metrics,
            tracer=telemetry.tracer,
        )
        background.run("the doorkeeper's rounds", self._doorkeeper.keep_in_order())
        self._server = grpc.aio.server(interceptors=(self._doorkeeper,), options=_SERVER_OPTIONS)
        surroundings = Surroundings(
            settings, url, TokenIssuer(keys, utc_now), telemetry.metrics, telemetry.tracer
        )
        self._group_commit = open_rooms(self._server, background, pools, surroundings)
        add_HealthServicer_to_server(self._health.servicer, self._server)
        reflection.enable_server_reflection(
            (
                *SERVICES,
                health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
                reflection.SERVICE_NAME,
            ),
            self._server,
        )
        background.run("the look at the database", self._health.run())
        self.port = self._bind()
        await self._server.start()
        probes.started = str
        probes.live, probes.ready = self._health.why_not_live, self._health.why_not_ready
        _describe(telemetry.metrics, self._health)
        log.info("serving", address=self.address)

    @property
    def address(self) -> str:
        """Where it listens, with the real port."""
        return f"{self._settings.listen.rpartition(':')[0]}:{self.port}"

    async def stop(self) -> StopReport:
        """Says that it is not ready, and, when load balancers had time to notice, refuses new work,
        lets what is under way finish within the grace, and says which of the
        two ended it. Nothing that was acknowledged depends on it: that is committed."""
        began = monotonic()
        grace_seconds = self._settings.stop_grace_seconds
        await self._health.drain()
        await asyncio.sleep(self._settings.drain_notice_seconds)
        await self._health.servicer.enter_graceful_shutdown()
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
async def _web(pages: Starlette, address: str) -> AsyncIterator[int]:
    try:
        async with served(pages, address) as port:
            yield port
    except OSError as error:
        raise SettingsError(
            f"TILLSYNC_HTTP_LISTEN: cannot listen on {address}: {error.strerror}. Choose another "
            'port, or "off".'
        ) from error


def _describe(metrics: Metrics, health: Health) -> None:
    """What the service says of itself."""
    release = {"version": version("tillsync-service"), "migration": migrations.newest()}
    metrics.gauge("build_info", "What runs here.", lambda: [(1, release)])
    metrics.gauge(
        "ready", "Whether it may be sent work.", lambda: [(int(not health.why_not_ready()), {})]
    )


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
