"""The commands of the service's own machine: the server, its migrations, its keys, its files.

They need the database or the keys; what an operator does from anywhere is in operator/commands.py.
"""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from uuid import UUID

import click

from tillsync_service import app, config, databases, logs
from tillsync_service.config import Settings, SettingsError
from tillsync_service.fleet import keys
from tillsync_service.foundation import migrations
from tillsync_service.foundation.embedded import EmbeddedPostgresError
from tillsync_service.foundation.errors import ServiceError
from tillsync_service.ingest.backlog_file import BacklogFile, BacklogFileError, take_in
from tillsync_service.ingest.store import IngestStore

Result = TypeVar("Result")

# Objects of the kinds that can form cycles, made and not yet freed.
COLLECTOR_THRESHOLD = 50_000

EXPECTED = (
    SettingsError,
    EmbeddedPostgresError,
    migrations.MigrationError,
    keys.KeyFileError,
    BacklogFileError,
    ServiceError,
)


def command(function: Callable[..., Coroutine[Any, Any, int | None]]) -> Callable[..., None]:
    """Runs an async command; an expected failure is one line on standard error and status 1."""

    @wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            status = asyncio.run(function(*arguments, **options))
        except EXPECTED as error:
            _fail(str(error))
        sys.exit(status or 0)

    return run


def _fail(line: str) -> NoReturn:
    click.echo(f"tillsync-service: {line}", err=True)
    sys.exit(1)


@click.command()
@click.option(
    "--print-enrolment-help", is_flag=True, help="Say how to enrol a till, once it serves."
)
@command
async def serve(*, print_enrolment_help: bool) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way.

    \b
    Exit status: 0 stopped as asked, 1 could not start, or lost its embedded PostgreSQL.
    Example: TILLSYNC_LISTEN=127.0.0.1:7070 tillsync-service serve
    """
    settings = _settings()
    stop = asyncio.Event()
    _on_stop_signal(stop.set)
    running = app.App(settings)
    if not await _unless(stop, running.start()):
        click.echo("stopped while it was starting", err=True)
        return
    _calm_collector()
    if print_enrolment_help:
        click.echo(_ENROLMENT_HELP.format(program=sys.argv[0], address=running.address))
    waits = [asyncio.create_task(event.wait()) for event in (stop, running.lost)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    click.echo(str(await running.stop()), err=True)
    if not stop.is_set():
        raise EmbeddedPostgresError(
            f"The embedded PostgreSQL ended by itself: see the log in {settings.folder}/postgres."
        )


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether `work` was done before `stop` was set; what is cut has cleaned up behind it."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        return False
    await working
    return True


def _calm_collector() -> None:
    """What is there now stays, so no collection needs to look at it; and a batch makes thousands
    of objects that are free of cycles and die young. With Python's own 700 the collector would run
    at every batch: a fifth of the service's time, measured."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTOR_THRESHOLD)


_ENROLMENT_HELP = """
Tillsync serves on {address}. Ctrl-C stops it; what is stored stays.

To enrol a till, in another terminal (with the same TILLSYNC_ settings, if you made any):

  export TILLSYNC_OPERATOR_TOKEN=$({program} operator-token)
  {program} enrolment-code --service {address} --new-store "Main street"

It prints the ids of the new tenant and store, the code, and the command that enrols the till with
it. Another till of the same store, and another store of the same tenant:

  {program} enrolment-code --service {address} --tenant TENANT_ID --store STORE_ID
  {program} enrolment-code --service {address} --tenant TENANT_ID --new-store Port --store-code 2

What there is already (--json for programs):

  {program} tenants list --service {address}
  {program} stores list --service {address} --tenant TENANT_ID

A second till on one machine needs a folder of its own: tillsync-agent --state-dir FOLDER enroll ...
"""


def _on_stop_signal(act: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(signal_, act)
        except NotImplementedError:  # Windows' loop has none
            signal.signal(signal_, lambda *_: loop.call_soon_threadsafe(act))


@click.group()
def migrate() -> None:
    """The database's schema.

    \b
    Example: TILLSYNC_MIGRATION_URL=postgresql://owner:…@db/tillsync tillsync-service migrate up
    """


@migrate.command()
@command
async def up() -> None:
    """Apply what is pending, and let the serving login use it.

    \b
    Example: tillsync-service migrate up
    """
    settings = _settings()
    after = await migrations.upgrade(_migration_url(settings))
    login = _login(settings)
    await migrations.grant_serving(_migration_url(settings), login)
    click.echo(f"The database is at migration {after.current}; {login} may serve.")


@migrate.command()
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask.")
@command
async def down(revision: str, *, yes: bool) -> None:
    """Go back to REVISION ("base": to nothing). Drops what later migrations made, data included.

    \b
    Example: tillsync-service migrate down 0001
    """
    if not yes:
        click.confirm(f"Going back to {revision} drops data. Continue?", abort=True)
    after = await migrations.downgrade(_migration_url(_settings()), revision)
    click.echo(f"The database is at migration {after.current or 'base'}.")


@migrate.command()
@command
async def status() -> int:
    """Say which migrations are pending.

    \b
    Exit status: 0 none pending, 1 not reachable, 3 some pending.
    Example: tillsync-service migrate status
    """
    found = await migrations.status(_migration_url(_settings()))
    click.echo(f"current: {found.current or 'none'}")
    click.echo(f"pending: {', '.join(found.pending) or 'none'}")
    return 3 if found.pending else 0


@migrate.command()
def sql() -> None:
    """Print the SQL of all migrations.

    \b
    Example: tillsync-service migrate sql | less
    """
    migrations.upgrade_sql()


@click.group(name="keys")
def keys_group() -> None:
    """The keys that sign tokens.

    \b
    Example: tillsync-service keys new /etc/tillsync/signing-keys.json
    """


@keys_group.command()
@click.argument("file", type=click.Path(path_type=Path))
@command
async def new(file: Path) -> None:
    """Make FILE with a first key; its name goes into TILLSYNC_SIGNING_KEYS.

    \b
    Example: tillsync-service keys new /etc/tillsync/signing-keys.json
    """
    keys.create_key_file(file)
    click.echo(f"Made {file}. Set TILLSYNC_SIGNING_KEYS={file} on every replica.")


@keys_group.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@command
async def rotate(file: Path) -> None:
    """Put a new key in front of those in FILE; running services notice by themselves.

    \b
    Example: tillsync-service keys rotate /etc/tillsync/signing-keys.json
    """
    keys.add_key(file)
    click.echo(f"{file} signs with a new key; tokens of the older ones stay good.")


@click.command()
def settings() -> None:
    """List every setting of the service and of the operator's commands: its variable, its default,
    what it is for.

    \b
    Example: tillsync-service settings
    """
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else field.default
        click.echo(f"{config.PREFIX}{name.upper()} (default: {default})")
        click.echo(f"    {field.description}")
    click.echo("\nOf the commands that speak to a running service, from anywhere:\n")
    for name, description in config.CLIENT_SETTINGS.items():
        click.echo(f"{config.PREFIX}{name.upper()}")
        click.echo(f"    {description}")


@click.command()
@click.option("--tenant", type=click.UUID, help="Limit the token to one tenant.")
@click.option("--label", default="operator", show_default=True, help="Who it is for, for the log.")
@click.option("--hours", type=click.FloatRange(0.01, 24 * 365), default=12, show_default=True)
@command
async def operator_token(tenant: UUID | None, label: str, hours: float) -> None:
    """Print a token for AdminService, signed with this machine's key.

    \b
    Example: export TILLSYNC_OPERATOR_TOKEN=$(tillsync-service operator-token)
    """
    issuer = databases.token_issuer(_settings())
    click.echo(issuer.operator_token(label, tenant, round(hours * 3600)))


@click.command()
@click.option("--tenant", type=click.UUID, required=True, help="Whose feed it reads.")
@click.option("--name", required=True, help="Which program it is for, for the log.")
@click.option("--days", type=click.FloatRange(0.01, 365), default=30, show_default=True)
@command
async def integrator_token(tenant: UUID, name: str, days: float) -> None:
    """Print a token for FeedService, signed with this machine's key.

    It opens the tenant's feed and nothing else. Nothing ends it before its time but taking the key
    that signed it out of the keys' file, with which every other token of that key ends too: keep
    the days few, and let a timer make the next one.

    \b
    Example: tillsync-service integrator-token --tenant $TENANT --name erp --days 30 > erp.token
    """
    issuer = databases.token_issuer(_settings())
    click.echo(issuer.integrator_token(name, tenant, round(days * 86_400)))


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@command
async def ingest_file(file: Path) -> int:
    """Take in FILE, which `tillsync-agent export` wrote on a device without a link.

    Its events are stored as if the device had sent them, each once: when it comes back, it hears
    DUPLICATE. The same file again is harmless.

    \b
    Exit status: 0 all taken in, 1 it could not go on (what was taken in stays; say it again), 3 the
    file was cut off (what is whole was taken in) or some events were refused.
    Example: tillsync-service ingest-file /media/usb/till-3.tillsync
    """
    try:
        BacklogFile(file).close()  # another kind of file is told before a database is looked for
        async with databases.database_beside(_settings()) as database:
            report = await take_in(IngestStore(database), file, databases.utc_now())
    except OSError as error:
        raise BacklogFileError(f"{file} cannot be read on: {error.strerror}. Try again.") from error
    click.echo(str(report))
    return 0 if report.is_complete else 3


def _settings() -> Settings:
    settings = config.load()
    logs.configure(settings.log_level, settings.log_format)
    return settings


def _migration_url(settings: Settings) -> str:
    url = settings.migration_url or settings.database_url
    if url is None:
        raise SettingsError(
            "TILLSYNC_MIGRATION_URL is missing: without TILLSYNC_DATABASE_URL the embedded "
            "PostgreSQL is used, which `tillsync-service serve` migrates itself."
        )
    return url.get_secret_value()


def _login(settings: Settings) -> str:
    url = settings.database_url or settings.migration_url
    login = config.login_of(url.get_secret_value()) if url else None
    if not login:
        raise SettingsError("TILLSYNC_DATABASE_URL names no login: postgresql://login:…@host/name.")
    return login
