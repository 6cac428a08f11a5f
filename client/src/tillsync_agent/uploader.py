"""The sender: take → send → settle, for as long as the agent lives.

One batch is in flight at a time. A crash between any two of these steps repeats the batch, and the
service answers DUPLICATE to what it has: nothing needs to be undone, so nothing is done by half.

While the service works on a batch, the disk works too: the batch before it is settled and the one
after it is taken. Only in calm weather, that is with batches of full size; after any trouble each
step waits for the one before.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from logging import getLogger
from typing import TypeVar

from tillsync_agent import settle, tracing
from tillsync_agent.agentnote import NOTE_NAME, AgentNote
from tillsync_agent.answers import Answer, CallFailed, Failure
from tillsync_agent.backoff import Backoff
from tillsync_agent.config import Settings
from tillsync_agent.entries import Waiting
from tillsync_agent.envelope import epoch_of
from tillsync_agent.errors import NotEnrolled, OutboxUnavailable
from tillsync_agent.link import BatchStream, Link
from tillsync_agent.linkstate import LinkState
from tillsync_agent.outbox import Outbox
from tillsync_agent.settle import Decision, Then

_log = getLogger(__name__)
T = TypeVar("T")

# A row that makes a call fail by itself waits 2 s, then 4, up to an hour, without jitter: it is one
# device's row and no fleet's. One that is only suspected, because the service or the link may be at
# fault, waits at most twice as long as any try: when they heal, nothing is late for long.
HOLD_FIRST_SECONDS = 2.0
HOLD_CAP_SECONDS = 3_600.0
# So many culprits without one success between them, and it is not the rows: slow down.
CULPRITS_IN_A_ROW = 3
NOTE_EVERY_SECONDS = 1.0
# A pull hears something every few seconds: that alone is not worth a write on the disk each time.
CONTACT_EVERY_SECONDS = 60.0
OFFSET_CHANGE_MS = 500


@dataclass(slots=True)
class Clocks:
    """The device's clocks: `wall` may jump and is only recorded, `monotonic` decides (seconds)."""

    wall: Callable[[], datetime]
    monotonic: Callable[[], float]


class Uploader:
    """Sends what waits in one outbox over one link. `on_step` hears "take", "send", "answer" and
    "settle" before the step after it begins; it is a seam for tests and tracing. `on_doubt` hears
    that head office may have lost what it acknowledged."""

    def __init__(
        self,
        outbox: Outbox,
        link: Link,
        state: LinkState,
        settings: Settings,
        *,
        clocks: Clocks,
        worker: ThreadPoolExecutor,
        on_step: Callable[[str], None] = lambda _step: None,
        on_doubt: Callable[[], None] = lambda: None,
    ) -> None:
        self._outbox = outbox
        self._link = link
        self._state = state
        self._settings = settings
        self._clocks = clocks
        self._worker = worker
        self._on_step = on_step
        self._on_doubt = on_doubt
        self._last_position = 0
        self._stream: BatchStream | None = None
        self._ahead: list[Waiting] = []
        self._settling: asyncio.Task[None] | None = None
        self._size = settings.batch_events
        self._token_proven = False
        self._culprits = 0
        self._held_times: dict[int, int] = {}
        self._offset_ms: int | None = None
        self._noted, self._noted_at = "", 0.0
        self._contact_at = float("-inf")
        self.note = AgentNote()

    async def run(self, stop: asyncio.Event) -> None:
        """Sends until `stop` is set; a batch in flight is finished first."""
        with suppress(OutboxUnavailable):
            await self._remember()
        while not stop.is_set():
            try:
                pause_seconds = await self.step()
            except OutboxUnavailable as error:
                # A full disk or a locked file: what was sent stays waiting and is sent again, and
                # before what was taken ahead of it: the oldest goes first.
                self._ahead = []
                pause_seconds = self._failed(str(error), 0.0)
                _log.warning("the outbox cannot be used now: %s", error)
            if pause_seconds > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause_seconds)

    async def step(self) -> float:
        """One round. Returns the seconds to wait before the next one; 0.0 means at once.

        Raises OutboxUnavailable; nothing is lost by it.
        """
        rows, self._ahead = self._ahead or await self._take(), []
        self._on_step("take")
        if not rows:
            await self._settled()
            await self._write_note()
            return self._settings.idle_poll_seconds
        wait_seconds = self._state.admit()
        if wait_seconds > 0:
            return wait_seconds
        decision = await self._exchange(rows)
        await self._settled()
        if self._ahead and len(decision.settlements) == len(rows) and not decision.forked:
            self._settling = asyncio.create_task(self._settle(decision))
        else:
            self._ahead = []
            await self._apply(rows, decision)
        pause_seconds = self._pace(decision)
        await self._write_note(urgent=pause_seconds > 0)
        return pause_seconds

    async def close(self) -> None:
        """Ends the stream and writes the last note."""
        self._drop_stream()
        with suppress(OutboxUnavailable):
            await self._settled()
            await self._write_note(urgent=True)

    async def _exchange(self, rows: Sequence[Waiting]) -> Decision:
        ids = [row.id for row in rows]
        try:
            stream = await self._open_stream()
        except CallFailed as failed:
            self._note_answer(failed.failure)
            return settle.of_no_stream(failed.failure)
        except (NotEnrolled, OSError) as error:
            return settle.of_no_stream(Failure("NOT_ENROLLED", str(error)))
        self._on_step("send")
        sent_at, sent_ns = self._clocks.wall(), time.time_ns()
        ahead = asyncio.create_task(self._take_ahead(rows[-1].id))
        try:
            answer = await stream.exchange([row.envelope for row in rows])
        except CallFailed as failed:
            self._drop_stream()
            return self._of_failure(ids, failed.failure)
        finally:
            self._ahead = await ahead
        self._on_step("answer")
        tracing.uploaded((row.envelope for row in rows), sent_ns, time.time_ns())
        await self._heard(answer, sent_at, self._clocks.wall())
        return settle.of_answer(ids, answer)

    async def _take(self, after: int = 0) -> list[Waiting]:
        limits = (self._size, self._settings.batch_bytes)
        return await self._off_loop(lambda: self._outbox.take(*limits, after=after))

    async def _take_ahead(self, after: int) -> list[Waiting]:
        calm = self._size == self._settings.batch_events
        return await self._take(after) if calm else []

    async def _open_stream(self) -> BatchStream:
        if self._link.token_is_stale:
            self._drop_stream()
        if self._stream is None:
            self._stream = await self._link.open_stream()
        return self._stream

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def _of_failure(self, ids: Sequence[int], failure: Failure) -> Decision:
        self._note_answer(failure)
        decision = settle.of_failure(ids, failure, token_is_new=not self._token_proven)
        if failure.code == "UNAUTHENTICATED":
            self._link.forget_token()
            self._token_proven = False
        return decision

    def _note_answer(self, failure: Failure) -> None:
        """A refusal in the service's own words is contact, too."""
        if failure.reason:
            self._state.heard()

    async def _heard(self, answer: Answer, sent_at: datetime, received_at: datetime) -> None:
        self._state.heard()
        self._token_proven = True
        if self._is_doubtful(answer):
            self._on_doubt()
        self.note.history_id = answer.history_id
        offset_ms = clock_offset_ms(answer.served_at, sent_at, received_at)
        known_ms = self._offset_ms
        if offset_ms is None:
            return
        if known_ms is None or abs(offset_ms - known_ms) > OFFSET_CHANGE_MS:
            await self._off_loop(self._outbox.set_clock_offset, offset_ms)
            self._offset_ms = offset_ms

    def _is_doubtful(self, answer: Answer) -> bool:
        """Whether the answer comes from a head office that was set back: restored from a backup,
        which its history says, or without saying so, which shows in positions given out twice."""
        places = [one.position for one in answer.verdicts if one.outcome == "accepted"]
        was_set_back = bool(places) and min(places) <= self._last_position
        self._last_position = max(places, default=self._last_position)
        return was_set_back or self.note.history_id not in {"", answer.history_id}

    async def _apply(self, rows: Sequence[Waiting], decision: Decision) -> None:
        """Writes down what was decided. The new epoch is first: a crash after it costs nothing."""
        if decision.forked and await self._is_our_epoch(rows, decision.forked):
            epoch = await self._off_loop(self._outbox.start_new_epoch)
            _log.warning("sequence numbers were used before (a cloned disk?): new epoch %d", epoch)
        await self._settle(decision)
        for row_id in decision.hold:
            await self._hold(row_id, decision)
        self._resize(len(rows), decision)

    async def _settle(self, decision: Decision) -> None:
        if decision.settlements:
            await self._off_loop(self._outbox.settle, decision.settlements)
            self.note.last_acknowledged_at = self._now_text()
            for settlement in decision.settlements:
                self._held_times.pop(settlement.id, None)
        self._on_step("settle")

    async def _settled(self) -> None:
        """Waits for the settling that goes on beside, and raises what it raised."""
        settling, self._settling = self._settling, None
        if settling is not None:
            await settling

    async def _hold(self, row_id: int, decision: Decision) -> None:
        suspected_only = decision.then is Then.WAIT
        cap = self._settings.max_wait_seconds * 2 if suspected_only else HOLD_CAP_SECONDS
        times = self._held_times.get(row_id, 0)
        self._held_times[row_id] = times + 1
        seconds = Backoff(HOLD_FIRST_SECONDS, cap).delay_seconds(times, luck=1.0)
        until = self._clocks.wall() + timedelta(seconds=seconds)
        await self._off_loop(self._outbox.hold, [row_id], until, decision.error)

    async def _is_our_epoch(self, rows: Sequence[Waiting], forked: Sequence[int]) -> bool:
        """Whether a forked row is of the present epoch; those of an older one tell nothing new."""
        present = await self._off_loop(lambda: self._outbox.epoch)
        return any(row.id in forked and epoch_of(row.envelope) == present for row in rows)

    def _resize(self, sent: int, decision: Decision) -> None:
        if decision.shrink:
            self._size = max(1, sent // 2)
        elif decision.settlements:
            self._size = min(self._settings.batch_events, self._size * 2)

    def _pace(self, decision: Decision) -> float:
        """Tells the link state, and says how long to wait."""
        if decision.settlements:
            self._culprits = 0
        elif decision.hold:
            self._culprits += 1
        if decision.then is Then.WAIT or self._culprits > CULPRITS_IN_A_ROW:
            return self._failed(decision.error, decision.floor_seconds)
        self._state.succeeded()
        if decision.error and decision.then is not Then.NEW_TOKEN:
            self._write_error(decision.error)
        return 0.0

    def _failed(self, error: str, floor_seconds: float) -> float:
        wait_seconds = self._state.failed(floor_seconds=floor_seconds)
        next_try = self._clocks.wall() + timedelta(seconds=wait_seconds)
        self.note.next_try_at = next_try.isoformat(timespec="seconds")
        self._write_error(error)
        return wait_seconds

    def _write_error(self, error: str) -> None:
        if error != self.note.last_error:
            _log.warning("not acknowledged: %s", error)
        self.note.last_error, self.note.last_error_at = error, self._now_text()

    async def _remember(self) -> None:
        """What the agent before this one knew stays true until there is something newer."""
        held = AgentNote.parse((await self._off_loop(self._outbox.notes)).get(NOTE_NAME, ""))
        self.note.last_contact_at = held.last_contact_at
        self.note.last_acknowledged_at = held.last_acknowledged_at
        self.note.history_id = held.history_id

    async def _write_note(self, *, urgent: bool = False) -> None:
        """At most once a second, and only if changed: each is a durable write on the disk."""
        self._note_link(exactly=urgent)
        text, now = self.note.dump(), self._clocks.monotonic()
        due = urgent or now - self._noted_at >= NOTE_EVERY_SECONDS
        if due and text != self._noted:
            await self._off_loop(self._outbox.note, NOTE_NAME, text)
            self._noted, self._noted_at = text, now

    def _note_link(self, *, exactly: bool) -> None:
        """What is known of the link, whoever learnt it."""
        self.note.suspect = self._link.suspect
        self.note.link, self.note.failures_in_a_row = self._state.state, self._state.failures
        if not self._state.failures:
            self.note.next_try_at = ""
        answered_at = self._state.answered_at
        worth_seconds = 0.0 if exactly or self._state.failures else CONTACT_EVERY_SECONDS
        if answered_at - self._contact_at > worth_seconds:
            ago = timedelta(seconds=self._clocks.monotonic() - answered_at)
            self.note.last_contact_at = (self._clocks.wall() - ago).isoformat(timespec="seconds")
            self._contact_at = answered_at

    def _now_text(self) -> str:
        return self._clocks.wall().isoformat(timespec="seconds")

    async def _off_loop(self, call: Callable[..., T], *arguments: object) -> T:
        """Runs an outbox call on the one worker thread: an fsync must not stop the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, call, *arguments)


def clock_offset_ms(
    served_at: datetime | None, sent_at: datetime, received_at: datetime
) -> int | None:
    """Service clock minus device clock in milliseconds, taken at the middle of the exchange."""
    if served_at is None or received_at < sent_at:
        return None  # the device's clock was set back meanwhile
    middle = sent_at + (received_at - sent_at) / 2
    return round((served_at - middle) / timedelta(milliseconds=1))
