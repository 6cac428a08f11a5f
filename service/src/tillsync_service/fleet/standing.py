"""Which devices must not be believed as their tokens have them: revoked ones and suspect ones.

A token is good for minutes, an operator's decision must work in two seconds. So every replica
keeps the few devices out of good standing in memory, reads them anew every second, and believes no
device when it could not read them: the database is away then anyway.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from uuid import UUID

import structlog

from tillsync_service.fleet.store import FleetStore
from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import Unavailable

log = structlog.get_logger(__name__)


class Verdict(Enum):
    """What is held against a device."""

    GOOD = "good"
    SUSPECT = "suspect"
    REVOKED = "revoked"


class Standing:
    """Refreshed by `run`, a task of the application's. Until its first refresh nobody is known.

    `store` should have a connection of its own: one that waits behind a busy pool would make every
    device unknown."""

    def __init__(
        self,
        store: FleetStore,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._monotonic = monotonic
        self._sleep = sleep
        self._revoked: Mapping[UUID, bool] = {}
        self._known_at: float | None = None
        self._is_failing = False

    def of(self, device_id: UUID) -> Verdict:
        """What is held against the device, as of two seconds ago at most. Raises Unavailable when
        that is not known."""
        self.must_be_known()
        revoked = self._revoked.get(device_id)
        if revoked is None:
            return Verdict.GOOD
        return Verdict.REVOKED if revoked else Verdict.SUSPECT

    def must_be_known(self) -> None:
        """Raises Unavailable while no device can be believed."""
        if self._is_stale():
            raise Unavailable("Who was revoked is not known now; send the same again.")

    async def refresh(self) -> None:
        """Reads who is out of good standing. Raises Unavailable, or TimeoutError."""
        # The age counts from the question: the answer is that old when it comes.
        asked_at = self._monotonic()
        async with asyncio.timeout(limits.STANDING_STALE_SECONDS):
            self._revoked = await self._store.out_of_standing()
        self._known_at = asked_at

    async def run(self) -> None:
        """Refreshes every second until cancelled."""
        while True:
            try:
                await self.refresh()
            except Exception as error:  # noqa: BLE001  # the loop outlives whatever befalls a round
                self._note(error)
            else:
                self._note(None)
            await self._sleep(limits.STANDING_REFRESH_SECONDS)

    def _is_stale(self) -> bool:
        if self._known_at is None:
            return True
        return self._monotonic() - self._known_at > limits.STANDING_STALE_SECONDS

    def _note(self, error: Exception | None) -> None:
        """Logs a change, not every second of it."""
        if (error is not None) == self._is_failing:
            return
        self._is_failing = error is not None
        if error is not None:
            log.warning("standing_unknown", cause=type(error).__name__)
        else:
            log.info("standing_known")
