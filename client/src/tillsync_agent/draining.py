"""Looks on while an agent, in this process or in another, sends what waits: sales and edits."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tillsync_agent.agentnote import NOTE_NAME, AgentNote
from tillsync_agent.outbox import Outbox
from tillsync_agent.replica import Replica

LOOK_EVERY_SECONDS = 0.2
# When only held rows wait, and none of them gets through for so long, a drain has done its part.
HELD_PATIENCE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain left: nothing, or how many events and edits, and why."""

    waiting: int
    why: str
    edits: int = 0


class Edits:
    """The edits that wait in a replica, where there is one: a question must not create it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._replica: Replica | None = None

    def waiting(self) -> int:
        """How many. Raises OutboxUnavailable."""
        # An empty file is one that a full disk had no room to begin: it holds no edit.
        if self._replica is None and self._path.exists() and self._path.stat().st_size:
            self._replica = Replica.open(self._path)
        return self._replica.edits_waiting() if self._replica else 0

    def close(self) -> None:
        if self._replica is not None:
            self._replica.close()


async def watch(
    outbox: Outbox,
    replica_path: Path,
    timeout_seconds: float,
    progress: Callable[[int], None],
    *,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    note: Callable[[], AgentNote] | None = None,
) -> Drained:
    """Looks on until nothing waits, only held rows do and stay, or the time is over, or `pause`
    says so. `note`: what the agent says of its link; None: what it left in the outbox."""
    deadline = time.monotonic() + timeout_seconds
    moved_at = time.monotonic()
    with closing(Edits(replica_path)) as of_replica:
        while True:
            waiting, held = await asyncio.to_thread(outbox.backlog)
            edits = await asyncio.to_thread(of_replica.waiting)
            progress(waiting + edits)
            left_seconds = deadline - time.monotonic()
            if held < waiting or edits:
                moved_at = time.monotonic()
            elif waiting and time.monotonic() - moved_at > HELD_PATIENCE_SECONDS:
                why = (await asyncio.to_thread(outbox.summary)).held_error
                return Drained(waiting, f"held back by themselves: {why}")
            if not waiting and not edits:
                return Drained(0, "")
            if left_seconds <= 0:
                return Drained(waiting, await asyncio.to_thread(_why, outbox, note), edits)
            if await pause(min(LOOK_EVERY_SECONDS, left_seconds)):
                return Drained(waiting, "the agent was stopped", edits)


def _why(outbox: Outbox, note: Callable[[], AgentNote] | None) -> str:
    said = note() if note else AgentNote.parse(outbox.notes().get(NOTE_NAME, ""))
    return said.trouble or outbox.summary().held_error or "the time was over"
