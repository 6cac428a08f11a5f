"""Which database is served, and by which keys: the configured ones, or those of our own."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import structlog

from tillsync_service.config import Settings, SettingsError
from tillsync_service.fleet.keys import KeyFile, create_key_file
from tillsync_service.fleet.tokens import TokenIssuer
from tillsync_service.foundation import limits, migrations
from tillsync_service.foundation.background import Background
from tillsync_service.foundation.db import Database
from tillsync_service.foundation.embedded import SERVICE_USER, EmbeddedPostgres
from tillsync_service.foundation.metrics import Metrics

log = structlog.get_logger(__name__)


def utc_now() -> datetime:
    """The service's clock."""
    return datetime.now(UTC)


@asynccontextmanager
async def database_beside(settings: Settings) -> AsyncIterator[Database]:
    """The database of a service that may be running, for a command beside it. Raises SettingsError
    where there is none: a new one would know no device, and nobody would look for it there."""
    async with AsyncExitStack() as resources:
        running = None
        if not settings.database_url:
            _must_have_a_cluster(settings)
            running = EmbeddedPostgres.running_urls(settings.folder / "postgres")
        url = running.service_url if running else await serving_url(settings, resources)
        yield await open_pool(resources, url, limits.CONTROL_POOL_CONNECTIONS)


async def open_pool(
    resources: AsyncExitStack,
    url: str,
    connections: int,
    *,
    metrics: Metrics | None = None,
    is_away: Callable[[], bool] = lambda: False,
) -> Database:
    """A pool until `resources` are released; see Database.connect."""
    database = await Database.connect(
        url, connections=connections, metrics=metrics, is_away=is_away
    )
    resources.push_async_callback(database.close)
    return database


async def serving_url(
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
    Background(resources).run("embedded PostgreSQL", _call_at_end(embedded, on_loss))
    await migrations.upgrade(embedded.admin_url)
    await migrations.grant_serving(embedded.admin_url, SERVICE_USER)
    return embedded.service_url


def listen_url(settings: Settings, url: str) -> str:
    return settings.listen_url.get_secret_value() if settings.listen_url else url


async def _call_at_end(embedded: EmbeddedPostgres, on_loss: Callable[[], None]) -> None:
    await embedded.wait()
    log.error("embedded_postgres_ended")
    on_loss()


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
