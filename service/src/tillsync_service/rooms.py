"""What the service serves: each room's servicer on its stores, and what goes on beside them."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import UUID

import grpc
from opentelemetry.trace import Tracer

from tillsync.v1 import (
    admin_service_pb2,
    books_service_pb2,
    device_service_pb2,
    feed_service_pb2,
    ingest_service_pb2,
    projection_service_pb2,
    reconcile_service_pb2,
    record_service_pb2,
    sync_service_pb2,
)
from tillsync.v1.admin_service_pb2_grpc import add_AdminServiceServicer_to_server
from tillsync.v1.books_service_pb2_grpc import add_BooksServiceServicer_to_server
from tillsync.v1.device_service_pb2_grpc import add_DeviceServiceServicer_to_server
from tillsync.v1.feed_service_pb2_grpc import add_FeedServiceServicer_to_server
from tillsync.v1.ingest_service_pb2_grpc import add_IngestServiceServicer_to_server
from tillsync.v1.projection_service_pb2_grpc import add_ProjectionServiceServicer_to_server
from tillsync.v1.reconcile_service_pb2_grpc import add_ReconcileServiceServicer_to_server
from tillsync.v1.record_service_pb2_grpc import add_RecordServiceServicer_to_server
from tillsync.v1.sync_service_pb2_grpc import add_SyncServiceServicer_to_server
from tillsync_service.admin.servicer import AdminServicer
from tillsync_service.admin.store import AdminStore
from tillsync_service.books.books_servicer import BooksServicer
from tillsync_service.books.books_store import BooksStore
from tillsync_service.books.servicer import ReconcileServicer
from tillsync_service.books.store import ReconcileStore
from tillsync_service.config import Settings
from tillsync_service.databases import listen_url, open_pool, utc_now
from tillsync_service.feed.heads import Heads
from tillsync_service.feed.lag import LagWatch
from tillsync_service.feed.servicer import FeedServicer
from tillsync_service.feed.store import FeedStore
from tillsync_service.feed.streams import Feeds
from tillsync_service.fleet.servicer import DeviceServicer
from tillsync_service.fleet.store import FleetStore
from tillsync_service.fleet.tokens import TokenIssuer
from tillsync_service.foundation import limits
from tillsync_service.foundation.background import Background
from tillsync_service.foundation.db import Database
from tillsync_service.foundation.metrics import Metrics, Reading
from tillsync_service.foundation.wakeups import Wakeups
from tillsync_service.ingest.group_commit import GroupCommit
from tillsync_service.ingest.observing import Observer
from tillsync_service.ingest.servicer import IngestServicer
from tillsync_service.ingest.store import IngestStore
from tillsync_service.projections.dead_letters import DeadLetterStore
from tillsync_service.projections.rebuilding import RebuildStore
from tillsync_service.projections.servicer import ProjectionServicer
from tillsync_service.projections.store import ProjectionStore
from tillsync_service.projections.worker import Observe, Worker
from tillsync_service.sync.edit_store import EditStore
from tillsync_service.sync.forgetting import Forgetting
from tillsync_service.sync.read_store import ReadStore
from tillsync_service.sync.record_servicer import RecordServicer
from tillsync_service.sync.record_store import OperatorStore
from tillsync_service.sync.servicer import SyncServicer
from tillsync_service.sync.store import RecordStore
from tillsync_service.sync.streams import Pulls
from tillsync_service.sync.tail import Tails

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
        (feed_service_pb2, "FeedService"),
        (projection_service_pb2, "ProjectionService"),
    )
)


@dataclass(frozen=True, slots=True)
class Pools:
    """Connections by whom nobody else may hold up: a till's token and an operator's order must not
    queue behind sales, nor a till's prices."""

    sales: Database
    office: Database
    sync: Database
    feed: Database
    projections: Database


async def open_pools(
    resources: AsyncExitStack,
    url: str,
    settings: Settings,
    metrics: Metrics,
    is_away: Callable[[], bool],
) -> Pools:
    """Pools on one database, until `resources` are released."""
    pools = {
        name: await open_pool(resources, url, connections, metrics=metrics, is_away=is_away)
        for name, connections in (
            ("sales", settings.database_connections),
            ("office", limits.OFFICE_POOL_CONNECTIONS),
            ("sync", limits.SYNC_POOL_CONNECTIONS),
            ("feed", limits.FEED_POOL_CONNECTIONS),
            ("projections", settings.projection_workers + limits.PROJECTION_MORE_CONNECTIONS),
        )
    }

    def connections() -> Reading:
        for name, pool in pools.items():
            for state, count in pool.connections.items():
                yield count, {"pool": name, "state": state}

    metrics.gauge("db_pool_connections", "Connections to the database.", connections)
    return Pools(**pools)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the rooms stand in, beside the database."""

    settings: Settings
    url: str
    issuer: TokenIssuer
    metrics: Metrics
    tracer: Tracer


def open_rooms(
    server: grpc.aio.Server, background: Background, pools: Pools, given: Surroundings
) -> GroupCommit:
    """Adds every service to the server, and starts what goes on beside. Gives the group commit,
    whose work a stop waits for."""
    settings, metrics = given.settings, given.metrics
    observer = Observer(metrics, given.tracer)
    feed = FeedStore(pools.feed)
    heads = Heads(feed)
    worker = Worker(
        ProjectionStore(pools.projections),
        settings.projection_workers,
        observe=_projection_figures(metrics),
    )

    def stored(tenant_id: UUID) -> None:
        heads.wake(tenant_id)
        if settings.projection_workers:
            worker.wake(tenant_id)

    group_commit = _group_commit(IngestStore(pools.sales, stored), settings, observer)
    metrics.gauge(
        "group_commit_waiting_events",
        "Events that wait for a transaction.",
        lambda: [(group_commit.waiting_events, {})],
    )
    office = pools.office
    add_IngestServiceServicer_to_server(IngestServicer(group_commit, utc_now, observer), server)
    add_DeviceServiceServicer_to_server(DeviceServicer(FleetStore(office), given.issuer), server)

    reads = ReadStore(pools.sync)
    tails = Tails(reads)
    wakeups = Wakeups(listen_url(settings, given.url), tails.wake)
    background.run("wake-ups", wakeups.run())
    background.run("the look for changes", tails.poll())
    background.run("forgetting", Forgetting(office, settings.keep_deletions_days).run())
    pulls = Pulls(reads, tails)
    metrics.gauge("live_pulls", "Tills that hear of changes.", lambda: [(pulls.live, {})])
    edits = EditStore(pools.sync, wakeups.tell)
    add_SyncServiceServicer_to_server(SyncServicer(pulls, edits, utc_now), server)
    add_AdminServiceServicer_to_server(
        AdminServicer(AdminStore(office, moved=wakeups.tell)), server
    )
    add_RecordServiceServicer_to_server(
        RecordServicer(OperatorStore(office, wakeups.tell), RecordStore(office, wakeups.tell)),
        server,
    )
    add_ReconcileServiceServicer_to_server(
        ReconcileServicer(ReconcileStore(office), utc_now), server
    )
    add_BooksServiceServicer_to_server(BooksServicer(BooksStore(office)), server)
    background.run("the look for events", heads.poll())
    feeds = Feeds(feed, heads, observe=metrics.latest("feed_streams", "Feeds that are open."))
    add_FeedServiceServicer_to_server(FeedServicer(feed, feeds), server)
    lags = metrics.latest(
        "feed_consumer_lag_events", "Events after a consumer's cursor.", "tenant", "consumer"
    )
    background.run("the watch on consumers", LagWatch(feed, lags).run())

    if settings.projection_workers:
        background.run("projections", worker.run())
    add_ProjectionServiceServicer_to_server(
        ProjectionServicer(DeadLetterStore(office), RebuildStore(office, worker.wake)), server
    )
    return group_commit


def _projection_figures(metrics: Metrics) -> Observe:
    """What the worker says, by its name."""
    events = metrics.count("projection_events", "Events that were projected, or why not.")
    tellers = {
        name: metrics.latest(name, description, "tenant")
        for name, description in (
            ("projection_lag_events", "Events after a tenant's projection."),
            ("dead_letters_waiting", "Events that nobody understood, and nobody dealt with."),
        )
    }
    known: dict[str, dict[tuple[str], float]] = {name: {} for name in tellers}

    def observe(name: str, value: float, **labels: str) -> None:
        if name not in tellers:
            events(int(value), labels)
            return
        known[name][labels["tenant"],] = value
        tellers[name](known[name])

    return observe


def _group_commit(store: IngestStore, settings: Settings, observer: Observer) -> GroupCommit:
    if settings.group_commit:
        return GroupCommit(store, observer)
    return GroupCommit(
        store, observer, max_group_events=1, max_groups_per_tenant=settings.database_connections
    )
