"""Keeps the replica equal to the service: open → receive → apply, for as long as the agent lives.

A till's own words go first: a pull is opened when the sales and edits that wait are sent, and a
load pauses for them; not for those that are recorded meanwhile, or a busy till would never have
today's prices. Where they do not get through although the link is up, prices do not wait for ever.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from logging import getLogger
from typing import Any, TypeVar

from tillsync.v1 import sync_service_pb2 as pb
from tillsync_agent import sync_decisions
from tillsync_agent.agentnote import AgentNote
from tillsync_agent.answers import CallFailed, Failure
from tillsync_agent.errors import NotEnrolled, OutboxUnavailable, ReplicaReplaced
from tillsync_agent.link import Link
from tillsync_agent.linkstate import LinkState
from tillsync_agent.replica import Replica
from tillsync_agent.sync_decisions import Decision, Next
from tillsync_agent.sync_link import SILENCE_SECONDS, PullStream, open_pull

_log = getLogger(__name__)
T = TypeVar("T")

# A full disk or a locked file is no fault of the link: sales go on meanwhile. Each time that it is
# met costs the link what cannot be kept, so the wait doubles, up to a minute.
DISK_AGAIN_SECONDS = 1.0
DISK_AGAIN_DOUBLINGS = 6

# How long a download lets itself be held up by uploads that wait.
UPLOADS_PATIENCE_SECONDS = 60.0
ASK_AGAIN_SECONDS = 0.1
# A copy that is wrong again right after it was loaded is not loaded again and again.
HEAL_EVERY_SECONDS = 60.0


class Puller:
    """Receives into one replica over one link; `note` is told what went wrong. `last_sale` gives
    the id of the newest sale, and `uploads_wait` says whether one up to it, or an edit, is to be
    sent first. `on_step` hears "open", "message" and "applied"."""

    def __init__(
        self,
        replica: Replica,
        link: Link,
        state: LinkState,
        *,
        note: AgentNote,
        monotonic: Callable[[], float],
        worker: ThreadPoolExecutor,
        last_sale: Callable[[], Awaitable[int]],
        uploads_wait: Callable[[int], Awaitable[bool]],
        silence_seconds: float = SILENCE_SECONDS,
        on_step: Callable[[str], None] = lambda _step: None,
    ) -> None:
        self._replica = replica
        self._link = link
        self._state = state
        self._note = note
        self._monotonic = monotonic
        self._worker = worker
        self._last_sale = last_sale
        self._uploads_wait = uploads_wait
        self._silence_seconds = silence_seconds
        self._on_step = on_step
        self._stream: PullStream | None = None
        self._distrusted: list[str] = []
        self._healed_at: dict[str, float] = {}
        self._token_proven = False
        self._disk_failures = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Pulls until `stop` is set."""
        verified = False
        while not stop.is_set():
            try:
                if not verified:
                    await self._distrust(await self._off_loop(self._replica.verify))
                    verified = True
                pause_seconds = await self._round(stop)
            except OutboxUnavailable as error:
                self._drop_stream()
                self._say(str(error))
                pause_seconds = DISK_AGAIN_SECONDS * 2**self._disk_failures
                self._disk_failures = min(self._disk_failures + 1, DISK_AGAIN_DOUBLINGS)
            if pause_seconds > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause_seconds)
        self._drop_stream()

    async def _round(self, stop: asyncio.Event) -> float:
        """One stream, from its opening to its end. Returns the seconds to wait before the next."""
        await self._let_uploads_go_first(stop)
        if stop.is_set():
            return 0.0
        if (wait_seconds := self._state.admit()) > 0:
            return wait_seconds
        try:
            await self._open()
            await self._receive_all(stop)
        except ReplicaReplaced as error:
            self._say(str(error))
        except CallFailed as failed:
            return await self._failed(failed.failure)
        except (NotEnrolled, OSError) as error:
            return await self._failed(Failure("NOT_ENROLLED", str(error)))
        finally:
            self._drop_stream()
        return 0.0

    async def _open(self) -> None:
        # What is distrusted is loaded from a checkpoint on; what was staged since comes again.
        cursor = (
            self._replica.checkpoint_cursor if self._distrusted else self._replica.resume_cursor
        )
        self._stream = await open_pull(
            self._link,
            await self._off_loop(cursor),
            self._distrusted,
            silence_seconds=self._silence_seconds,
        )
        self._on_step("open")

    async def _receive_all(self, stop: asyncio.Event) -> None:
        assert self._stream is not None  # noqa: S101 -- opened a line ago
        stopped = asyncio.create_task(stop.wait())
        try:
            heard = False
            while not self._link.token_is_stale:
                messages = await _unless(stopped, self._stream.read())
                if not messages:
                    if not (heard or stop.is_set()):
                        raise CallFailed(Failure("UNAVAILABLE", "the service ended the stream"))
                    return
                heard = self._token_proven = True
                self._state.succeeded()
                self._note.records_error = ""
                if await self._receive(messages):
                    return
                if messages[-1].blocks and not messages[-1].HasField("checkpoint"):
                    await self._let_uploads_go_first(stop)
        finally:
            stopped.cancel()

    async def _receive(self, messages: list[pb.PullResponse]) -> bool:
        """Whether the stream is to be opened anew, because a collection is to be loaded again."""
        self._on_step("message")
        received = await self._off_loop(self._replica.receive, *messages)
        self._disk_failures = 0
        if received.applied is None:
            return False
        self._distrusted = []
        self._on_step("applied")
        return await self._distrust(received.applied.mismatched)

    async def _distrust(self, collections: list[str]) -> bool:
        now = self._monotonic()
        for name in collections:
            if now - self._healed_at.get(name, float("-inf")) >= HEAL_EVERY_SECONDS:
                self._healed_at[name] = now
                self._distrusted.append(name)
                _log.warning("the copy of %s is not what the service has: it is loaded anew", name)
        return bool(self._distrusted)

    async def _let_uploads_go_first(self, stop: asyncio.Event) -> None:
        patience_ends_at = self._monotonic() + UPLOADS_PATIENCE_SECONDS
        last_sale = await self._last_sale()
        while self._monotonic() < patience_ends_at and await self._uploads_wait(last_sale):
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), ASK_AGAIN_SECONDS)
                return

    async def _failed(self, failure: Failure) -> float:
        decision: Decision = sync_decisions.of_failure(failure, token_is_new=not self._token_proven)
        self._say(str(failure))
        if failure.reason:
            self._state.heard()
        if decision.next is Next.NEW_TOKEN:
            self._link.forget_token()
            self._token_proven = False
        elif decision.next is Next.FORGET_CURSOR:
            await self._off_loop(self._replica.forget_cursor)
        elif decision.next is Next.DROP_RELOAD:
            self._distrusted = []
        if decision.link_failed:
            return self._state.failed(floor_seconds=failure.pushback_seconds)
        self._state.succeeded()  # a service has answered
        return decision.wait_seconds

    def _say(self, error: str) -> None:
        if error != self._note.records_error:
            _log.warning("not pulled: %s", error)
        self._note.records_error = error

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    async def _off_loop(self, call: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, call, *arguments)


async def _unless(stopped: "asyncio.Task[Any]", reading: Coroutine[Any, Any, T]) -> T | None:
    """What `reading` gives, or None when the agent is stopped first."""
    task = asyncio.create_task(reading)
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return None
