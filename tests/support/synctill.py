"""A whole till at a real service: enrolled, with an agent, and with a replica that the test reads
and edits as a POS program does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from uuid import UUID

from support.fleet import Fleet
from support.till import until
from tillsync_agent import config, link
from tillsync_agent.agent import Agent
from tillsync_agent.outbox import Outbox
from tillsync_agent.refresh_secret import RefreshSecret
from tillsync_agent.replica import Replica

QUICK = {"idle_poll_seconds": 0.01, "max_wait_seconds": 0.2, "batch_timeout_seconds": 5.0}


class SyncTill:
    """Made by `enrolled`."""

    def __init__(self, settings: config.Settings) -> None:
        self.settings = settings
        self.outbox = Outbox.open(settings.outbox_path, ballast_bytes=0)
        self.replica = Replica.open(settings.replica_path)
        self.agent_steps: list[str] = []

    @classmethod
    async def enrolled(
        cls, fleet: Fleet, folder: Path, code: str, *, address: str | None = None, **more: object
    ) -> "SyncTill":
        """`address`: where the till finds the service, if a proxy stands before it."""
        settings = config.load(
            folder, {}, service=fleet.address, device_name="till", **QUICK, **more
        )
        secret = RefreshSecret(settings.secret_path)
        identity = await link.enroll(settings, secret, code, "till")
        settings = replace(settings, service=address or fleet.address, **asdict(identity))
        config.save(settings)
        return cls(settings)

    @property
    def store_id(self) -> UUID:
        return UUID(self.settings.store_id)

    @asynccontextmanager
    async def agent(self, **arguments: object) -> AsyncIterator[Agent]:
        quick = {"luck": lambda: 0.999, "on_step": self.agent_steps.append}
        arguments = {"outbox": self.outbox} | quick | arguments
        async with Agent(self.settings, **arguments) as agent:
            yield agent

    def copy(self) -> dict[tuple[str, str, str], str]:
        """(collection, store id, record id) to body, as the copy holds them, without edits."""
        rows = self.replica._read(
            "SELECT p.collection, p.store_id, r.record_id, r.body FROM part p"
            " JOIN record r USING (part_id) WHERE p.state = 'visible'"
        )
        return {tuple(row[:3]): row[3] for row in rows}

    async def has(self, records: dict[tuple[str, str, str], str]) -> None:
        """Waits until the copy is this."""
        await until(lambda: self.copy() == records)

    def close(self) -> None:
        self.replica.close()
        self.outbox.close()
