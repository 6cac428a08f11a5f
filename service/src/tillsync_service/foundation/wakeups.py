"""Wake-ups between replicas: LISTEN and NOTIFY, after the commit and never within it.

A wake-up says that something of a tenant may have changed; what did is read. A lost one costs the
second until somebody looks anyway.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import asyncpg
import structlog

from tillsync_service.foundation import limits

log = structlog.get_logger(__name__)

_CHANNEL = "tillsync_records"
_EVERYBODY = "*"
# A payload holds 8,000 bytes, and a tenant's id takes 33 of them.
_MOST_NAMED = 200
RECONNECT_SECONDS = 1.0


class Wakeups:
    """One connection of this replica's own, to hear the others and to tell them, at most 20 times
    a second. `wake` is called with the tenant, None for all of them, within this event loop."""

    def __init__(self, url: str, wake: Callable[[UUID | None], None]) -> None:
        self._url = url
        self._wake = wake
        self._changed: set[UUID] = set()
        self._told = asyncio.Event()

    def tell(self, tenant_id: UUID) -> None:
        """After a commit: wakes this replica at once and the others soon."""
        self._wake(tenant_id)
        self._changed.add(tenant_id)
        self._told.set()

    async def run(self) -> None:
        """Listens and tells until cancelled; a lost connection is made anew."""
        while True:
            try:
                await self._serve()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                log.warning("wakeups_lost", cause=type(error).__name__)
            except Exception as error:  # whatever it is, this must go on
                log.exception("wakeups_failed", exc_info=error)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _serve(self) -> None:
        connection = await asyncpg.connect(
            self._url, timeout=limits.CONNECT_SECONDS, command_timeout=limits.COMMAND_SECONDS
        )
        lost = asyncio.Event()

        def end(_connection: object) -> None:
            lost.set()
            self._told.set()

        connection.add_termination_listener(end)
        try:
            await connection.add_listener(_CHANNEL, self._heard)
            self._wake(None)  # what was told while nobody listened
            self._told.set()  # and what was not told yet
            while not lost.is_set():
                await self._told.wait()
                self._told.clear()
                if self._changed and not lost.is_set():
                    await self._tell(connection)
                    await asyncio.sleep(limits.WAKE_EVERY_SECONDS)
        finally:
            with suppress(asyncpg.InterfaceError, OSError, TimeoutError):
                await connection.close(timeout=limits.CONNECT_SECONDS)

    async def _tell(self, connection: asyncpg.Connection) -> None:
        changed, self._changed = self._changed, set()
        few = len(changed) <= _MOST_NAMED
        payload = ",".join(tenant_id.hex for tenant_id in changed) if few else _EVERYBODY
        await connection.execute("SELECT pg_notify($1, $2)", _CHANNEL, payload)

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        if payload == _EVERYBODY:
            self._wake(None)
            return
        for name in payload.split(","):
            with suppress(ValueError):
                self._wake(UUID(name))
