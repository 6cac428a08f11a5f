"""The handbook (docs/OPERATIONS.md) is walked as it stands: its commands are taken out of it and
run, by real processes, on a PostgreSQL that a test owns."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from urllib.parse import unquote, urlsplit

from support.operated import read
from support.polling import eventually
from support.till import a_sale
from tillsync_agent import Outbox
from tillsync_service.foundation.embedded import EmbeddedPostgres

INSTALL, RESTORE = "Install from nothing", "Backing up and restoring"
DAY = date(2026, 11, 22)
PROGRAMS = Path(sys.executable).parent
_BLOCK = re.compile(r"\n\n((?:    .*\n|\n(?=    ))+)")


def commands(chapter: str, step: str) -> list[str]:
    """The lines that a chapter says to type at the step that begins with these words."""
    _, found, rest = read("docs/OPERATIONS.md").partition(f"\n## {chapter}\n")
    assert found, chapter
    _, found, rest = rest.partition("\n## ")[0].partition(f"\n{step}")
    assert found, f"{chapter}: {step}"
    return [line.removeprefix("    ") for line in _BLOCK.search(rest)[1].rstrip().split("\n")]


class Handbook:
    """Runs what it says, with this machine's names for those that stand there for any machine's."""

    def __init__(self, folder: Path, postgres_programs: Path) -> None:
        self.folder = folder
        self.known: dict[str, str] = {}
        """What the reader has in variables of his shell."""
        self._names = {
            "/etc/tillsync": str(folder / "etc"),
            "/var/backups/tillsync": str(folder / "backups"),
        }
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TILLSYNC_", "PG"))
        } | {"PATH": f"{postgres_programs}:{PROGRAMS}:{os.environ['PATH']}"}
        for name in ("etc", "backups"):
            (folder / name).mkdir()

    def use(self, postgres: EmbeddedPostgres, port: int) -> None:
        """Whose superuser PostgreSQL's own commands are, and where the service is to listen."""
        self.port = port
        admin = urlsplit(postgres.admin_url)
        self._environment |= {
            "PGHOST": admin.hostname,
            "PGPORT": str(admin.port),
            "PGUSER": admin.username,
            "PGPASSWORD": unquote(admin.password),
            "TILLSYNC_CA_FILE": str(self.folder / "etc" / "tls.crt"),
        }
        self._names |= {
            "db.example.com": f"{admin.hostname}:{admin.port}",
            "sync.example.com:7070": f"localhost:{port}",
            "0.0.0.0:7070": f"127.0.0.1:{port}",
        }

    def here(self, text: str) -> str:
        """What it says, with this machine's names."""
        for there, name in self._names.items():
            text = text.replace(there, name)
        return text

    async def run(self, lines: list[str], environment: Mapping[str, str] | None = None) -> str:
        """Types the lines, and gives what they say. They must end well. What they set stays."""
        names = re.findall(r"^(?:export )?([A-Z_]+)=", "\n".join(lines), re.MULTILINE)
        telling = [f'printf "\\n%s" "${name}"' for name in names]
        status, out, err = await self.ended([*lines, *telling], environment)
        assert status == 0, "\n".join([*lines, out, err])
        self.known |= dict(zip(reversed(names), reversed(out.split("\n")), strict=False))
        return out

    async def ended(
        self, lines: list[str], environment: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = await self._shell(lines, environment or {}, **pipes)
        out, err = await asyncio.wait_for(process.communicate(), 90)
        return process.returncode, out.decode(), err.decode()

    async def start(
        self, line: str, log: Path, environment: Mapping[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        """A line that goes on. It is the process itself, so that a signal reaches it."""
        with log.open("ab") as written:
            streams = {"stdout": written, "stderr": written}
            return await self._shell([f"exec {line}"], environment or {}, **streams)

    async def _shell(
        self, lines: list[str], environment: Mapping[str, str], **streams: object
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            "bash",
            "-euc",
            self.here("\n".join(lines)),
            env=self._environment | self.known | dict(environment),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            **streams,
        )


class Shop:
    """A service and the tills of its one store, each of them processes that the handbook starts."""

    def __init__(self, handbook: Handbook) -> None:
        self.handbook = handbook
        self.sold: list[str] = []
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._outboxes: dict[str, Outbox] = {}

    async def serve(self) -> None:
        """Until it says that it does."""
        log = self.handbook.folder / "service.log"
        log.write_text("")
        (line,) = commands(INSTALL, "**4. Serve**")
        self._processes["service"] = service = await self.handbook.start(line, log)

        def serving() -> bool:
            assert service.returncode is None, log.read_text()
            return '"event": "serving"' in log.read_text()

        await eventually(serving, within_seconds=60)

    async def join(self, till: str, enrolling: str) -> None:
        """A till enrols, with a code of its own, and its agent runs."""
        *_, coding = commands(INSTALL, "**6. The first tenant")
        code = (await self.handbook.run([coding])).strip()
        line = f"{re.sub('--name .*', '', enrolling)} --name '{till}' --ca-file $TILLSYNC_CA_FILE"
        await self.handbook.run([line], self._at(till) | {"CODE": code})
        _, running = commands(INSTALL, "On the till")
        log = self.handbook.folder / f"{till}.log"
        self._processes[till] = await self.handbook.start(running, log, self._at(till))

    def sell(self, till: str, count: int) -> None:
        """As the till's program does, beside the agent."""
        if till not in self._outboxes:
            path = self.handbook.folder / till / "outbox.db"
            self._outboxes[till] = Outbox.open(path, ballast_bytes=0)
        for _ in range(count):
            key = f"{till}/{len(self.sold)}"
            self._outboxes[till].record(
                a_sale(len(self.sold)), key=key, business_day=DAY, amounts={"USD": 1250}
            )
            self.sold.append(key)

    async def delivered(self) -> None:
        """Until no till has anything left to send."""
        outboxes = self._outboxes.values()
        await eventually(
            lambda: not any(outbox.summary().waiting for outbox in outboxes), within_seconds=60
        )

    async def stop(self, name: str) -> int:
        """SIGTERM, and the exit status."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(process.wait(), 40)

    async def close(self) -> None:
        """Whatever has happened."""
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()
        for outbox in self._outboxes.values():
            outbox.close()

    def _at(self, till: str) -> dict[str, str]:
        return {
            "TILLSYNC_AGENT_STATE_DIR": str(self.handbook.folder / till),
            "TILLSYNC_AGENT_MAX_WAIT_SECONDS": "0.5",
            "TILLSYNC_AGENT_IDLE_POLL_SECONDS": "0.1",
        }
