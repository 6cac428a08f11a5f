"""An operator at a shell: the real commands, against a service in a process of its own."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from support.service import ServiceProcess
from tillsync_service.databases import utc_now
from tillsync_service.fleet.keys import KeyFile
from tillsync_service.fleet.tokens import TokenIssuer
from tillsync_service.foundation import migrations
from tillsync_service.foundation.embedded import SERVICE_USER, EmbeddedPostgres

PROGRAM = Path(sys.executable).with_name("tillsync-service")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[list[str]]:
        """Standard output as tab-separated values."""
        return [line.split("\t") for line in self.out.splitlines()]

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def last_json(self) -> dict:
        return json.loads(self.out.splitlines()[-1])


class RunningCommand:
    """A command that was started, and may be sent a signal."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> Ended:
        out, err = await asyncio.wait_for(self._process.communicate(), 90)
        return Ended(self._process.returncode, out.decode(), err.decode())


@dataclass
class Shell:
    """Runs `tillsync-service …` with an operator's settings."""

    address: str
    token: str
    settings: dict[str, str] = field(default_factory=dict)

    async def start(self, *arguments: str) -> RunningCommand:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TILLSYNC_")}
        environment |= {"TILLSYNC_SERVICE_ADDRESS": self.address}
        environment |= {"TILLSYNC_OPERATOR_TOKEN": self.token, **self.settings}
        return RunningCommand(
            await asyncio.create_subprocess_exec(
                PROGRAM,
                *arguments,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )

    async def run(self, *arguments: str) -> Ended:
        return await (await self.start(*arguments)).ended()

    async def trials_left(self) -> list[str]:
        """The names of the disposable tenants that there still are."""
        tenants = (await self.run("tenants", "list", "--json")).json
        return [tenant["name"] for tenant in tenants if tenant["disposable"]]


def shell_at(service: ServiceProcess, tenant: str | None = None) -> Shell:
    """An operator of every tenant, or of one."""
    issuer = TokenIssuer(KeyFile(service.keys), utc_now)
    limit = UUID(tenant) if tenant else None
    return Shell(service.address, issuer.operator_token("test", limit, 3600))


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """A folder that Postgres reaches also where it runs as another account."""
    folder = Path(tempfile.mkdtemp(prefix="tillsync-operator-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def service_with_postgres() -> AsyncIterator[tuple[ServiceProcess, EmbeddedPostgres]]:
    """A service, and the Postgres of its own that a test may stop and start again."""
    with reachable_folder() as folder:
        async with EmbeddedPostgres(folder / "postgres") as postgres:
            await migrations.upgrade(postgres.admin_url)
            await migrations.grant_serving(postgres.admin_url, SERVICE_USER)
            async with ServiceProcess(postgres.service_url, folder) as service:
                yield service, postgres
