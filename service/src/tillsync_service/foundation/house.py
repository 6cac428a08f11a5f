"""Who is inside: every call that came through the door, and how it is asked to leave.

A call is ended where it waits for its peer or for room, and nowhere else: what is being stored is
stored and answered.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import structlog

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.foundation import limits
from tillsync_service.foundation.budget import Budget, Share
from tillsync_service.foundation.errors import (
    Overloaded,
    PermissionDenied,
    ServiceError,
    Unauthenticated,
    Unavailable,
)
from tillsync_service.foundation.identity import Caller

log = structlog.get_logger(__name__)

Result = TypeVar("Result")


class Guest:
    """One call. `must_be_welcome` raises what would be raised if the call came now."""

    def __init__(self) -> None:
        self.must_be_welcome: Callable[[], Caller | None] = lambda: None
        self.waits_for_peer_since: float | None = None
        """Since when it has waited for its peer to send a message or to take an answer, with room
        that others may want."""
        self._shares: deque[Share] = deque()
        self._has_left = False
        self._error: ServiceError | None = None
        self._waiting: asyncio.Timeout | None = None

    async def wait_for(self, act: Callable[[], Awaitable[Result]]) -> Result:
        """What `act` gives. Raises the error of `end` as soon as that is called."""
        if self._error is None:
            try:
                async with asyncio.timeout(None) as self._waiting:
                    return await act()
            except TimeoutError:
                if self._error is None:
                    raise
            finally:
                self._waiting = None
        raise self._error from None

    def end(self, error: ServiceError) -> None:
        """Ends the call with `error` where it waits now, or will wait next. The first counts."""
        if self._error is not None:
            return  # a wait that is ending already cannot be ended again
        self._error = error
        if self._waiting is not None:
            self._waiting.reschedule(0)

    @contextmanager
    def waiting_for_peer(self) -> Iterator[None]:
        """While it holds room, and only its peer can bring it forward."""
        self.waits_for_peer_since = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self.waits_for_peer_since = None

    def hold(self, share: Share) -> None:
        """Of a message, until it is answered."""
        if self._has_left:  # while somebody else waited on its behalf
            share.give_back()
        else:
            self._shares.append(share)

    def give_back(self) -> None:
        """What it held for the oldest message that it still holds something for."""
        if self._shares:
            self._shares.popleft().give_back()

    def give_all_back(self) -> None:
        while self._shares:
            self._shares.popleft().give_back()

    def leave(self) -> None:
        """Nothing is held from now on."""
        self._has_left = True
        self.give_all_back()

    def keeps_waiting(self, budget: Budget) -> bool:
        """Whether somebody has waited too long for what it holds while its peer does nothing."""
        patience = limits.PEER_PATIENCE_SECONDS
        since = self.waits_for_peer_since
        return (
            since is not None
            and asyncio.get_running_loop().time() - since > patience
            and any(budget.is_wanted_from(share.payer, patience) for share in self._shares)
        )


class House:
    """The calls inside, and whether it is closing. Made within the running event loop."""

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget or Budget()
        self.empty = asyncio.Event()
        self.empty.set()
        self._guests: set[Guest] = set()
        self._by_method: Counter[str] = Counter()
        self._is_closing = False

    @property
    def inside(self) -> int:
        return len(self._guests)

    @property
    def by_method(self) -> dict[str, int]:
        """How many calls of each method are inside."""
        return dict(self._by_method)

    def close(self) -> None:
        """Asks everybody to leave who waits, or comes."""
        self._is_closing = True
        for guest in self._guests:
            guest.end(_closing())

    @contextmanager
    def visited(self, method: str) -> Iterator[Guest]:
        guest = Guest()
        if self._is_closing:
            guest.end(_closing())
        self._guests.add(guest)
        self._by_method[method] += 1
        self.empty.clear()
        try:
            yield guest
        finally:
            self._by_method[method] -= 1
            self._guests.discard(guest)
            if not self._guests:
                self.empty.set()

    def must_have_room(self, method: str) -> None:
        """Raises Overloaded when there are too many calls of this method, the caller included."""
        if self._by_method[method] > limits.MAX_CALLS_INSIDE:
            raise Overloaded("More calls are open than the service takes on.")

    async def keep_in_order(self) -> None:
        """Until cancelled: ends, also where nothing is said, the calls of those who are not
        welcome any more, and of those who keep others waiting with a message that does not come.
        """
        while True:
            await asyncio.sleep(limits.ROUND_SECONDS)
            for number, guest in enumerate(list(self._guests), start=1):
                self._look_at(guest)
                if number % limits.ROUND_CHUNK_CALLS == 0:
                    await asyncio.sleep(0)

    def _look_at(self, guest: Guest) -> None:
        try:
            guest.must_be_welcome()
        except (Unauthenticated, PermissionDenied) as error:
            guest.end(error)
        except ServiceError:
            pass  # not known now: whatever it says next is asked for then
        except Exception as error:  # whatever it is, the rounds must go on
            log.exception("round_failed", exc_info=error)
        if guest.keeps_waiting(self.budget):
            # A receiver is asked to leave. A sender stands in gRPC, where nobody can reach it; all
            # it may still have is the batch that was made ready behind its answer.
            guest.end(Overloaded("The message did not come in time, and others wait."))
            guest.give_all_back()


def _closing() -> Unavailable:
    return Unavailable(
        "The service is stopping; send the same again.",
        reason=ErrorReason.ERROR_REASON_SHUTTING_DOWN,
    )
