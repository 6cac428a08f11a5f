"""Three questions, and none is another: has it started, does it turn, may it be sent work?

Each is a gRPC health service of its own ("startup", "liveness", "readiness"), and a path over HTTP.
Every service of the contract, and "", answer as readiness does. A probe reads what was found last
and asks nobody: any number of them costs the database nothing, and none waits behind traffic.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from tillsync_service.foundation.errors import ServiceError

log = structlog.get_logger(__name__)

STARTUP, LIVENESS, READINESS = "startup", "liveness", "readiness"
EVERY_SECONDS = 1.0
# A look that has not come back by then is no answer.
_SLACK_SECONDS = 2.0

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """What the probes are told. `ping` raises a ServiceError unless the database answers and what
    must be known of it is known, within `timeout_seconds`; `ended` names what should go on and
    does not."""

    def __init__(
        self,
        services: Sequence[str],
        ping: Callable[[], Awaitable[None]],
        *,
        timeout_seconds: float,
        ended: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self.servicer = health_aio.HealthServicer()
        self._services = services
        self._ping = ping
        self._timeout_seconds = timeout_seconds
        self._ended = ended
        self._cause = "It has not asked the database yet."
        self._looked_at = monotonic()
        self._draining = False
        self._told: dict[str, bool] = {}

    def why_not_live(self) -> str:
        """Empty: the service turns. Whoever hears this at all has shown that its loop does."""
        ended = self._ended()
        return f"It goes on without {', '.join(ended)}: start it anew." if ended else ""

    def why_not_ready(self) -> str:
        """Empty: it may be sent work."""
        if self._draining:
            return "It is stopping."
        limit_seconds = EVERY_SECONDS + self._timeout_seconds + _SLACK_SECONDS
        if monotonic() - self._looked_at > limit_seconds:
            return "It has not heard of the database for seconds."
        return self._cause

    @property
    def database_is_away(self) -> bool:
        """Whether the last look found no database: what needs one fails at once, and does not
        wait for its turn to find out."""
        return bool(self._cause)

    async def run(self) -> None:
        """Looks every second, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_SECONDS)

    async def look(self) -> None:
        """Asks the database, within the time limit, and tells who watches."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._ping()
            cause = ""
        except ServiceError as error:
            cause = str(error)
        except TimeoutError:
            cause = f"The database does not answer within {self._timeout_seconds:g} s."
        except Exception as error:  # whatever it is, the looks must go on
            log.exception("readiness_unknown", exc_info=error)
            cause = f"Whether the database answers is not known ({type(error).__name__})."
        if bool(cause) != bool(self._cause):
            log.warning("database_away") if cause else log.info("database_there")
        self._cause, self._looked_at = cause, monotonic()
        await self._tell()

    async def drain(self) -> None:
        """No more work is asked for, from now on. What is under way goes on."""
        self._draining = True
        await self._tell()

    async def _tell(self) -> None:
        ready = not self.why_not_ready()
        states = dict.fromkeys(("", READINESS, *self._services), ready)
        states |= {STARTUP: True, LIVENESS: not self.why_not_live()}
        for name, state in states.items():
            if self._told.get(name) != state:
                self._told[name] = state
                await self.servicer.set(name, _SERVING if state else _NOT_SERVING)
