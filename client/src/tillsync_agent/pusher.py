"""Brings a till's own edits home, in their order: take → push → note the answers.

An answer does not take an edit off the till's display: the checkpoint that holds it does. So a lost
answer, a crash and a restored service all end in the same way: what is not known to be in is pushed
again, and the service knows what it has.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from logging import getLogger
from typing import TypeVar

from tillsync_agent import sync_decisions
from tillsync_agent.agentnote import AgentNote
from tillsync_agent.answers import CallFailed, Failure
from tillsync_agent.errors import NotEnrolled, OutboxUnavailable
from tillsync_agent.link import Link
from tillsync_agent.linkstate import LinkState
from tillsync_agent.replica import Replica
from tillsync_agent.sync_decisions import Next
from tillsync_agent.sync_link import push

_log = getLogger(__name__)
T = TypeVar("T")

# A full disk or a locked file is no fault of the link: sales go on meanwhile.
DISK_AGAIN_SECONDS = 1.0

PUSH_EDITS = 200


class Pusher:
    """Sends the edits of one replica over one link; `note` is told what went wrong. `on_step` hears
    "take", "push" and "note"."""

    def __init__(
        self,
        replica: Replica,
        link: Link,
        state: LinkState,
        *,
        note: AgentNote,
        idle_poll_seconds: float,
        worker: ThreadPoolExecutor,
        on_step: Callable[[str], None] = lambda _step: None,
    ) -> None:
        self._replica = replica
        self._link = link
        self._state = state
        self._note = note
        self._idle_poll_seconds = idle_poll_seconds
        self._worker = worker
        self._on_step = on_step
        self._token_proven = False

    async def run(self, stop: asyncio.Event) -> None:
        """Pushes until `stop` is set; a push that is under way is finished first."""
        while not stop.is_set():
            try:
                pause_seconds = await self.step()
            except OutboxUnavailable as error:
                self._say(str(error))
                pause_seconds = DISK_AGAIN_SECONDS
            if pause_seconds > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause_seconds)

    async def step(self) -> float:
        """One round. Returns the seconds to wait before the next one. Raises OutboxUnavailable."""
        if not await self._off_loop(self._replica.edits_waiting):
            self._note.edits_error = ""
            return self._idle_poll_seconds
        if (wait_seconds := self._state.admit()) > 0:
            return wait_seconds
        epoch, mutations = await self._off_loop(self._replica.edits_to_push, PUSH_EDITS)
        self._on_step("take")
        try:
            answer = await push(self._link, epoch, mutations)
        except CallFailed as failed:
            return await self._failed(failed.failure)
        except (NotEnrolled, OSError) as error:
            return await self._failed(Failure("NOT_ENROLLED", str(error)))
        self._on_step("push")
        self._token_proven = True
        self._state.succeeded()
        self._note.edits_error = ""
        await self._off_loop(self._replica.answered, list(answer.results), answer.next_sequence)
        self._on_step("note")
        return 0.0

    async def _failed(self, failure: Failure) -> float:
        decision = sync_decisions.of_failure(failure, token_is_new=not self._token_proven)
        self._say(str(failure))
        if failure.reason:
            self._state.heard()
        if decision.next is Next.NEW_TOKEN:
            self._link.forget_token()
            self._token_proven = False
        elif decision.next is Next.RENUMBER:
            await self._off_loop(self._replica.renumber)
        if decision.link_failed:
            return self._state.failed(floor_seconds=failure.pushback_seconds)
        self._state.succeeded()  # a service has answered
        return decision.wait_seconds

    def _say(self, error: str) -> None:
        if error != self._note.edits_error:
            _log.warning("not pushed: %s", error)
        self._note.edits_error = error

    async def _off_loop(self, call: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, call, *arguments)
