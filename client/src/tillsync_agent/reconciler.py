"""The comparison with head office: is anything missing there that this device recorded?

It compares at the start, when head office may have lost something (see Uploader), when a command
asks, and every hour; never while sales wait to be sent. What head office lacks and this device
still keeps waits again, the uploader sends it, and head office is asked again. What stays unequal
after that is named, with its reason.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from logging import getLogger
from typing import TypeVar

from tillsync.v1 import reconcile_service_pb2 as pb
from tillsync_agent.agentnote import NOTE_NAME as AGENT_NOTE
from tillsync_agent.agentnote import AgentNote
from tillsync_agent.answers import CallFailed, Failure
from tillsync_agent.backoff import Backoff
from tillsync_agent.config import Settings
from tillsync_agent.errors import NotEnrolled, OutboxUnavailable
from tillsync_agent.link import Link
from tillsync_agent.linkstate import LinkState
from tillsync_agent.outbox import Outbox
from tillsync_agent.reconciliation import (
    ANSWER_NOTE,
    NOTE_NAME,
    REQUEST_NOTE,
    Answer,
    Reconciliation,
    Request,
)
from tillsync_agent.reconciling import Reconciling
from tillsync_agent.uploader import Clocks

_log = getLogger(__name__)
T = TypeVar("T")

EVERY_SECONDS = 3_600.0
UNFINISHED_AGAIN_SECONDS = 60.0
ASK_EVERY_SECONDS = 0.1
# Everything else is an answer, though not to this: no fault of the link, which others use.
_THE_LINK = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "UNAUTHENTICATED"}
    | {"NOT_ENROLLED"}
)


class Reconciler:
    """Compares one outbox with head office over the agent's link."""

    def __init__(
        self,
        outbox: Outbox,
        link: Link,
        state: LinkState,
        settings: Settings,
        *,
        clocks: Clocks,
        worker: ThreadPoolExecutor,
        luck: Callable[[], float],
    ) -> None:
        self._outbox = outbox
        self._link = link
        self._state = state
        self._settings = settings
        self._clocks = clocks
        self._worker = worker
        self._luck = luck
        self._failures = 0
        self._not_before = float("-inf")
        self._due_at = float("-inf")
        self._noted = Reconciliation()
        self._elsewhere: dict[str, frozenset[tuple[int, int]]] = {}

    def wake(self) -> None:
        """Head office may have lost something: compare as soon as nothing waits."""
        self._due_at = float("-inf")

    async def run(self, stop: asyncio.Event) -> None:
        """Compares until `stop` is set; what is under way then is given up, and nothing lost."""
        rounds = asyncio.create_task(self._rounds())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({rounds, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            rounds.cancel()
        with suppress(asyncio.CancelledError):
            await rounds

    async def _rounds(self) -> None:
        with suppress(OutboxUnavailable):
            notes = await self._off_loop(self._outbox.notes)
            self._noted = Reconciliation.parse(notes.get(NOTE_NAME, ""))
            if notes.get(REQUEST_NOTE):
                # Whoever asked an agent before this one has gone, or will ask again.
                await self._off_loop(self._outbox.note, REQUEST_NOTE, "")
        while True:
            if self._clocks.monotonic() >= self._not_before:
                await self._round()
            await asyncio.sleep(self._settings.idle_poll_seconds)

    async def _round(self) -> None:
        """Compares, if it is time and nothing waits. Whatever goes wrong, sales go on."""
        due_at = self._due_at
        try:
            notes = await self._off_loop(self._outbox.notes)
            request = Request.parse(notes.get(REQUEST_NOTE, ""))
            is_time = request or self._clocks.monotonic() >= due_at
            if not is_time or not await self._is_quiet():
                return
            self._due_at = float("inf")  # a `wake` from here on asks for another
            if request:
                await self._answer(request, due_at)
            else:
                await self._finish(await self.reconcile())
        except CallFailed as failed:
            self._due_at = min(self._due_at, due_at)
            await self._failed(failed.failure)
        except OutboxUnavailable as error:
            self._due_at = min(self._due_at, due_at)
            await self._later(str(error), self._settings.max_wait_seconds)
        except Exception as error:  # noqa: BLE001 - a fault in here must stop no sale
            self._due_at = min(self._due_at, due_at)
            _log.exception("the comparison with head office ended")
            await self._later(repr(error), EVERY_SECONDS)
        else:
            self._failures = 0

    async def _answer(self, request: Request, due_at: float) -> None:
        result = await self.reconcile(request.business_day, close=request.close)
        # Noted first: whoever has the answer may end this agent.
        if request.business_day is None:
            await self._finish(result)
        else:
            self._due_at = min(self._due_at, due_at)
            if self._noted.error:
                await self._note(replace(self._noted, error=""))
        await self._off_loop(self._outbox.note, ANSWER_NOTE, Answer(request.id, result).dump())
        notes = await self._off_loop(self._outbox.notes)
        if notes.get(REQUEST_NOTE) == request.dump():
            await self._off_loop(self._outbox.note, REQUEST_NOTE, "")

    async def _finish(self, result: Reconciliation) -> None:
        """All days were compared: says what differs, and when to compare again."""
        for day in result.differing:
            name = day.business_day or "none"
            _log.warning("business day %s differs: %s", name, "; ".join(day.why))
        await self._note(result)
        again = EVERY_SECONDS * (0.9 + 0.2 * self._luck())
        seconds = UNFINISHED_AGAIN_SECONDS if result.unfinished else again
        self._due_at = min(self._due_at, self._clocks.monotonic() + seconds)

    async def _failed(self, failure: Failure) -> None:
        refused_once = failure.code == "UNAUTHENTICATED" and not self._failures
        if failure.code == "UNAUTHENTICATED":
            self._link.forget_token()
        if refused_once or failure.code not in _THE_LINK:
            self._state.succeeded()
            await self._later(str(failure), EVERY_SECONDS)
        else:
            floor_seconds = self._state.failed(floor_seconds=failure.pushback_seconds)
            await self._later(str(failure), self._settings.max_wait_seconds, floor_seconds)

    async def _later(self, error: str, cap_seconds: float, floor_seconds: float = 0.0) -> None:
        """Tries again after a while, which grows, and notes why."""
        own_seconds = Backoff(cap_seconds=cap_seconds).delay_seconds(
            self._failures, luck=self._luck()
        )
        self._failures += 1
        self._not_before = self._clocks.monotonic() + max(own_seconds, floor_seconds)
        if error != self._noted.error:
            _log.warning("not compared with head office: %s", error)
            with suppress(OutboxUnavailable):
                await self._note(replace(self._noted, error=error))

    async def _note(self, result: Reconciliation) -> None:
        self._noted = result
        await self._off_loop(self._outbox.note, NOTE_NAME, result.dump())

    async def reconcile(self, day: str | None = None, *, close: bool = False) -> Reconciliation:
        """Compares all days, or the one, as `Reconciling` says."""
        under_way = Reconciling(
            self._outbox.books,
            ask=self._ask,
            quiet=self._until_quiet,
            off_loop=self._off_loop,
            elsewhere=self._elsewhere,
        )
        result = await under_way.run(day, close=close)
        return replace(result, at=self._clocks.wall().isoformat(timespec="seconds"))

    async def _ask(self, request: pb.ReconcileRequest) -> pb.ReconcileResponse:
        """One call, when the link is worth trying. Raises CallFailed."""
        while wait_seconds := self._state.admit():  # noqa: ASYNC110 - time opens a link, no event
            await asyncio.sleep(wait_seconds)
        try:
            response = await self._link.reconcile(request)
        except (NotEnrolled, OSError) as error:
            raise CallFailed(Failure("NOT_ENROLLED", str(error))) from None
        self._state.succeeded()
        return response

    async def _until_quiet(self) -> None:
        while not await self._is_quiet():  # noqa: ASYNC110 - the outbox is a file
            await asyncio.sleep(self._settings.idle_poll_seconds)

    async def _is_quiet(self) -> bool:
        """Whether nothing waits but what is held back: sales go first."""
        waiting, held = await self._off_loop(self._outbox.backlog)
        return waiting == held

    async def _off_loop(self, call: Callable[..., T], *arguments: object) -> T:
        """Runs an outbox call on the one worker thread: an fsync must not stop the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, call, *arguments)


async def ask(
    outbox: Outbox,
    timeout_seconds: float,
    business_day: str | None = None,
    *,
    close: bool = False,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> Reconciliation:
    """Has the agent that sends from this outbox, in whatever process, compare it with head office.

    Its `error` says why there was no answer before the time was over, or `pause` said so.
    """
    request = Request(secrets.token_hex(8), business_day, close)
    deadline = time.monotonic() + timeout_seconds
    while True:
        notes = await asyncio.to_thread(outbox.notes)
        answer = Answer.parse(notes.get(ANSWER_NOTE, ""))
        if answer and answer.id == request.id:
            return answer.result
        if not notes.get(REQUEST_NOTE):
            await asyncio.to_thread(outbox.note, REQUEST_NOTE, request.dump())
        left_seconds = deadline - time.monotonic()
        if left_seconds <= 0 or await pause(min(ASK_EVERY_SECONDS, left_seconds)):
            break
    if notes.get(REQUEST_NOTE) == request.dump():
        await asyncio.to_thread(outbox.note, REQUEST_NOTE, "")
    return Reconciliation(error=await asyncio.to_thread(_why_unanswered, outbox))


def _why_unanswered(outbox: Outbox) -> str:
    notes, summary = outbox.notes(), outbox.summary()
    link = AgentNote.parse(notes.get(AGENT_NOTE, ""))
    compared = Reconciliation.parse(notes.get(NOTE_NAME, ""))
    if summary.waiting:
        troubled = link.failures_in_a_row and link.last_error
        return f"{summary.waiting} events wait: {troubled or summary.held_error or 'no time left'}"
    return compared.error or "the agent did not answer in time"
