"""The agent as a whole: the lock, the sender, the gateway, the housekeeping, and how it stops."""

import asyncio
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from logging import getLogger
from types import TracebackType
from typing import Self

from tillsync_agent.backoff import Backoff
from tillsync_agent.config import Settings
from tillsync_agent.draining import Drained, watch
from tillsync_agent.errors import NotEnrolled, OutboxInUse, OutboxUnavailable
from tillsync_agent.gateway import Gateway
from tillsync_agent.link import Link
from tillsync_agent.linkstate import LinkState
from tillsync_agent.outbox import Outbox
from tillsync_agent.reconciler import Reconciler, ask
from tillsync_agent.reconciliation import Reconciliation
from tillsync_agent.refresh_secret import RefreshSecret
from tillsync_agent.syncer import Syncer
from tillsync_agent.uploader import Clocks, Uploader

_log = getLogger(__name__)

CHECKPOINT_EVERY_SECONDS = 60.0
PRUNE_EVERY_SECONDS = 3_600.0
# `status` holds the lock for an instant to see whether an agent runs; that must stop no agent.
LOCK_PATIENCE_SECONDS = 2.0
# How long a stopping agent waits for the answer to the batch that is under way.
STOP_PATIENCE_SECONDS = 10.0


class Agent:
    """Sends what an outbox holds, from `async with` entry to exit.

        async with Agent(config.load()) as agent:
            agent.outbox.record(sale)   # durable; on its way in the background

    A program without an event loop calls `Agent(...).run()`, which returns after SIGINT or SIGTERM.
    Raises OutboxInUse if another agent sends from this outbox, NotEnrolled, AddressUnusable.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        outbox: Outbox | None = None,
        on_step: Callable[[str], None] = lambda _step: None,
        luck: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`outbox`: one that the caller has open and closes; None: the state folder's own."""
        self._settings = settings
        self._given = outbox
        self._on_step = on_step
        self._luck = luck
        self._clocks = Clocks(lambda: datetime.now(UTC), monotonic)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def outbox(self) -> Outbox:
        """Where to record. Open between entry and exit."""
        return self._outbox

    @property
    def link_state(self) -> LinkState:
        """The link's state, to be shared by everything that talks to the service."""
        return self._link_state

    def stop(self) -> None:
        """Asks the agent to stop; what it does is finished first. Call it on the agent's loop."""
        self._stop.set()

    async def __aenter__(self) -> Self:
        if not self._settings.service:
            raise NotEnrolled(
                f"this device is not enrolled: {self._settings.state_dir} holds no identity; run "
                "`tillsync-agent enroll` first, or name another state folder with --state-dir or "
                "TILLSYNC_AGENT_STATE_DIR"
            )
        with ExitStack() as resources:
            self._outbox = self._given or resources.enter_context(
                Outbox.open(self._settings.outbox_path)
            )
            await asyncio.to_thread(resources.enter_context, _patient_lock(self._outbox))
            self._worker = ThreadPoolExecutor(1, "tillsync-outbox")
            resources.callback(self._worker.shutdown)
            self._assemble()
            self._gateway = await self._start_gateway()
            self._resources = resources.pop_all()
        self._tasks = [
            asyncio.create_task(self._uploader.run(self._stop), name="tillsync-uploader"),
            asyncio.create_task(self._reconciler.run(self._stop), name="tillsync-reconciler"),
            asyncio.create_task(self._syncer.run(self._stop), name="tillsync-syncer"),
            asyncio.create_task(self._keep_house(), name="tillsync-housekeeping"),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._gateway is not None:
            await self._gateway.stop()
        _, late = await asyncio.wait(self._tasks, timeout=STOP_PATIENCE_SECONDS)
        for task in late:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._uploader.close()
        await self._link.close()
        await asyncio.to_thread(self._resources.close)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    def run(self) -> None:
        """Runs until SIGINT or SIGTERM (on Windows: Ctrl-C or Ctrl-Break), then stops in order."""
        asyncio.run(self.run_async())

    async def run_async(self) -> None:
        """`run` for a program that has a loop."""
        async with self:
            _log.info("sending to %s from %s", self._settings.service, self._outbox.path)
            with _stop_signals(asyncio.get_running_loop(), self.stop):
                await self._until_stopped()

    async def drain(
        self, timeout_seconds: float, progress: Callable[[int], None] = lambda _waiting: None
    ) -> Drained:
        """Waits until no sale and no edit waits any more; `progress` hears how many still do."""
        return await watch(
            self._outbox,
            self._settings.replica_path,
            timeout_seconds,
            progress,
            pause=self._until_stopped,
            note=lambda: self._uploader.note,
        )

    async def reconcile(
        self, timeout_seconds: float, business_day: str | None = None, *, close: bool = False
    ) -> Reconciliation:
        """Compares what was recorded with head office, all days or the one, when nothing waits any
        more; `close`: and closes the day if all of it is there and equal."""
        return await ask(
            self._outbox, timeout_seconds, business_day, close=close, pause=self._until_stopped
        )

    def _assemble(self) -> None:
        settings = self._settings
        secret = RefreshSecret(settings.secret_path)
        secret.to_show()  # not enrolled is said at the start, and not by a loop that never sends
        self._link = Link(settings, secret, monotonic=self._clocks.monotonic)
        self._link_state = LinkState(
            monotonic=self._clocks.monotonic,
            luck=self._luck,
            backoff=Backoff(cap_seconds=settings.max_wait_seconds),
            probe_seconds=settings.batch_timeout_seconds * 2,
        )
        parts = (self._outbox, self._link, self._link_state, settings)
        self._reconciler = Reconciler(
            *parts, clocks=self._clocks, worker=self._worker, luck=self._luck
        )
        self._uploader = Uploader(
            *parts,
            clocks=self._clocks,
            worker=self._worker,
            on_step=self._on_step,
            on_doubt=self._reconciler.wake,
        )

        self._syncer = Syncer(
            *parts,
            note=self._uploader.note,
            monotonic=self._clocks.monotonic,
            outbox_worker=self._worker,
            on_step=self._on_step,
        )

    async def _start_gateway(self) -> Gateway | None:
        if not self._settings.gateway_port:
            return None
        gateway = Gateway(self._outbox, self._settings.gateway_token_path)
        self._uploader.note.gateway_port = await gateway.start(self._settings.gateway_port)
        return gateway

    async def _until_stopped(self, timeout_seconds: float | None = None) -> bool:
        """Whether there was a stop before the time was over; raises what ended a task too early."""
        stopped = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait(
            [stopped, *self._tasks],
            timeout=timeout_seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        stopped.cancel()
        for task in done - {stopped}:
            task.result()
        return self._stop.is_set()

    async def _keep_house(self) -> None:
        """Mends, then checkpoints and prunes now and then; no failure here stops the sending."""
        settings = self._settings
        with suppress(OutboxUnavailable, OSError):
            await self._off_loop(self._outbox.mend)
        pruned_at = float("-inf")
        while not self._stop.is_set():
            now = self._clocks.monotonic()
            try:
                is_full = self._outbox.disk_is_full
                if is_full or now - pruned_at >= PRUNE_EVERY_SECONDS:
                    pruned_at = now
                    # Room for the next sale is worth more than the copy of an acknowledged one.
                    keep_seconds = 0.0 if is_full else settings.keep_settled_days * 86_400
                    await self._off_loop(
                        self._outbox.prune, keep_seconds, settings.max_settled_bytes
                    )
                await self._off_loop(self._outbox.checkpoint)
            except (OutboxUnavailable, OSError) as error:
                _log.warning("housekeeping of the outbox waits: %s", error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), CHECKPOINT_EVERY_SECONDS)

    async def _off_loop(self, call: Callable[..., object], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._worker, call, *arguments)


@contextmanager
def _patient_lock(outbox: Outbox) -> Iterator[None]:
    deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(outbox.agent_lock())
                break
            except OutboxInUse:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)
        yield


@contextmanager
def _stop_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` on the loop at the signals that mean it; elsewhere than in the main thread the
    program's own handlers stay as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Windows has no SIGTERM that anybody sends: a console's Ctrl-Break is SIGBREAK there, and its
    # loops know no add_signal_handler, so signal.signal serves all of them.
    polite = getattr(signal, "SIGBREAK", signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, polite)}
    for number in before:
        signal.signal(number, lambda _number, _frame: loop.call_soon_threadsafe(stop))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
