"""One till: its program, its agent, its link, and what can be seen of it from outside."""

import asyncio
import json
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from demo import ledger
from demo.pos import write_sales
from demo.processes import Process, Processes, program
from demo.relay import Relay
from tillsync.v1.event_pb2 import Event

# Every so manieth sale is recorded twice, as by a program that lost count.
REPEAT_EVERY = 20
LINK_POLL_SECONDS = 0.1
_AGENT = program("tillsync-agent")
# A day of the demo lasts less than a minute: an agent that waited a minute would miss it.
_AGENT_SETTINGS = {"TILLSYNC_AGENT_MAX_WAIT_SECONDS": "2"}
_COPY = (
    "SELECT p.collection, r.record_id, r.body FROM part p JOIN record r USING (part_id)"
    " WHERE p.state = 'visible'"
)
_RECORD = (
    "SELECT r.body FROM part p CROSS JOIN record r USING (part_id)"
    " WHERE p.state = 'visible' AND p.collection = ? AND r.record_id = ?"
)
_STATES = "SELECT state, count(*) FROM tillsync_event GROUP BY state"


@dataclass(frozen=True, slots=True)
class Look:
    """A till at one moment: its ledger's count, its outbox's counts."""

    recorded: int = 0
    waiting: int = 0
    duplicates: int = 0
    refused: int = 0


class Till:
    """Number `number` of the chain, in a folder of its own."""

    def __init__(
        self, number: int, store: str, sales: Sequence[Event], folder: Path, processes: Processes
    ) -> None:
        self.number = number
        self.device_id = ""
        self.store_id = ""
        self.store = store
        self.sales = sales
        self._folder = folder
        self._processes = processes
        self._state = folder / "state"
        self._running: dict[str, Process] = {}
        self.ledger_path = folder / "ledger.tsv"
        folder.mkdir(parents=True)
        write_sales(folder / "sales", list(sales))

    async def install(self, office_port: int, code: str, resources: AsyncExitStack) -> None:
        """Lays the line, trades the code for an identity, starts the agent."""
        self._relay = await resources.enter_async_context(Relay(office_port))
        answer = await self.agent_command(
            "enroll", "--service", self._relay.address, "--code", code, "--name", self._name
        )
        identity = json.loads(answer)
        self.device_id, self.store_id = identity["device_id"], identity["store_id"]
        await self.start_agent()

    async def start_agent(self) -> None:
        self._running["agent"] = await self._processes.start(
            f"{self._name} agent",
            _AGENT, "--state-dir", str(self._state), "run",
            settings=_AGENT_SETTINGS,
        )  # fmt: skip

    async def kill_agent(self) -> None:
        await self._running["agent"].kill()

    async def stop_agent(self) -> None:
        await self._running["agent"].stop()

    async def start_selling(self, day_seconds: float) -> None:
        """From where it left off, spread so that all of its sales take a day."""
        self._running["program"] = await self._processes.start(
            f"{self._name} pos",
            sys.executable, "-m", "demo.pos", str(self._folder / "sales"),
            "--outbox", str(self._state / "outbox.db"),
            "--ledger", str(self.ledger_path),
            "--pause-seconds", str(day_seconds / max(1, len(self.sales))),
            "--repeat-every", str(REPEAT_EVERY),
            may_end=True,
        )  # fmt: skip

    async def kill_pos(self) -> None:
        await self._running["program"].kill()

    async def sold_all(self) -> None:
        """Waits until its program has nothing left to sell."""
        await self._running["program"].finished()

    async def cut_link(self) -> None:
        """As soon as there is something to cut: an agent connects when it has something to send."""
        while not self._relay.cut():
            self._relay.mend()
            await asyncio.sleep(LINK_POLL_SECONDS)

    def mend_link(self) -> None:
        self._relay.mend()

    async def export(self) -> Path:
        """What waits, in a file for a USB stick."""
        file = self._folder / "stick.tillsync"
        await self.agent_command("export", str(file))
        return file

    def look(self) -> Look:
        """Reads ledger and outbox past the programs that write them."""
        outbox = self._state / "outbox.db"
        if "agent" not in self._running:
            return Look()
        with closing(sqlite3.connect(f"{outbox.as_uri()}?mode=ro", uri=True)) as connection:
            states: dict[str, int] = dict(connection.execute(_STATES).fetchall())
        return Look(
            ledger.count(self.ledger_path),
            states.get("waiting", 0),
            states.get("duplicate", 0),
            states.get("conflict", 0) + states.get("rejected", 0),
        )

    def check(self) -> None:
        """Raises DemoFailed when its agent ended by itself, or its program failed."""
        for process in self._running.values():
            process.check()

    @property
    def _name(self) -> str:
        return f"till {self.number}"

    async def edit(self, kind: str, collection: str, record_id: str, fields: str) -> None:
        """What its program does with a record, by the agent's command."""
        await self.agent_command("edit", kind, collection, record_id, fields)

    def record(self, collection: str, record_id: str) -> str | None:
        """A record of its copy, past the programs that write it."""
        for body in self._copied(_RECORD, collection, record_id):
            return str(body[0])
        return None

    def copy(self) -> dict[tuple[str, str], str]:
        """Its whole copy: (collection, record) to body."""
        return {(collection, id_): body for collection, id_, body in self._copied(_COPY)}

    def _copied(self, query: str, *values: str) -> list[tuple[str, ...]]:
        replica = self._state / "replica.db"
        if not replica.exists():
            return []
        with closing(sqlite3.connect(f"{replica.as_uri()}?mode=ro", uri=True)) as connection:
            rows: list[tuple[str, ...]] = connection.execute(query, values).fetchall()
        return rows

    async def agent_command(self, command: str, *arguments: str) -> str:
        """What the agent's command answered. Raises DemoFailed unless it ended with 0."""
        return await self._processes.run(
            f"{self._name} {command}",
            _AGENT, "--state-dir", str(self._state), command, *arguments,
            settings=_AGENT_SETTINGS,
        )  # fmt: skip
