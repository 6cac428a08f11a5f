"""Tills for tests: a state folder with an identity, sales in its outbox, an agent on request."""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tillsync.v1 import retail_pb2
from tillsync_agent import config
from tillsync_agent.agent import Agent
from tillsync_agent.agentnote import NOTE_NAME, AgentNote
from tillsync_agent.config import Settings
from tillsync_agent.outbox import Outbox
from tillsync_agent.refresh_secret import hash_of

SECRET = b"s" * 32


def a_sale(number: int = 1, total_minor: int = 1250) -> retail_pb2.Sale:
    return retail_pb2.Sale(receipt_number=str(number), currency="USD", total_minor=total_minor)


class Till:
    """A device that is enrolled: its secret is known to `service`, it connects to `address`."""

    def __init__(self, folder: Path, service, address: str | None = None, **settings: object):
        self.folder = folder
        self.service = service
        quick = {"idle_poll_seconds": 0.01, "max_wait_seconds": 0.2, "batch_timeout_seconds": 5.0}
        self.settings: Settings = config.load(
            folder, {}, service=address or service.address, **(quick | settings)
        )
        folder.mkdir(parents=True, exist_ok=True)
        config.save(self.settings)
        secret = {"current": SECRET.hex(), "rotated_at": time.time()}
        self.settings.secret_path.write_text(json.dumps(secret))
        service.secrets.add(hash_of(SECRET))
        self.outbox = Outbox.open(self.settings.outbox_path, ballast_bytes=0)

    def record(self, count: int = 1, **more: object) -> list[str]:
        """Records sales; returns their keys."""
        return [
            self.outbox.record(a_sale(n), amounts={"USD": 1250}, **more).key for n in range(count)
        ]

    @asynccontextmanager
    async def agent(self, **arguments: object):
        """A running agent. Its jitter is the largest, so that waits are the same in every run."""
        arguments = {"outbox": self.outbox, "luck": lambda: 0.999} | arguments
        async with Agent(self.settings, **arguments) as agent:
            yield agent

    async def drained(self, timeout_seconds: float = 20.0, **arguments: object) -> None:
        """Runs an agent until nothing waits; fails with the reason if something still does."""
        async with self.agent(**arguments) as agent:
            left = await agent.drain(timeout_seconds)
        assert left.waiting == 0, left

    @property
    def waiting(self) -> int:
        return self.outbox.summary().waiting

    @property
    def note(self) -> AgentNote:
        return AgentNote.parse(self.outbox.notes().get(NOTE_NAME, ""))

    def close(self) -> None:
        self.outbox.close()


async def until(condition: Callable[[], object], timeout_seconds: float = 20.0) -> None:
    """Polls a condition; fails when it does not come true."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.01)
