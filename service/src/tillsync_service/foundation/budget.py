"""Bytes that are shared out: in all no more than a machine holds, to nobody more than his share.

Whoever asks for more than there is waits in his payer's line. Payers take turns, so that a long
line of one delays the others by one turn; and who is first in turn is not overtaken by somebody who
asks for less.
"""

import asyncio
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import Overloaded


@dataclass(slots=True, eq=False)
class _Waiter:
    size: int
    since: float
    admitted: asyncio.Future[None]


@dataclass(slots=True)
class _Payer:
    taken: int = 0
    line: deque[_Waiter] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Share:
    """What somebody holds of a budget, until `give_back`."""

    budget: "Budget"
    payer: Hashable
    size: int

    def shrink(self, size: int) -> None:
        """Keeps `size` bytes and gives the rest back."""
        rest, self.size = self.size - size, size
        self.budget.give_back(self.payer, rest)

    def give_back(self) -> None:
        self.shrink(0)


class Budget:
    """One per event loop. `each` is what one payer may hold; who asks for more than that at once
    would wait for ever."""

    def __init__(
        self,
        total: int = limits.MAX_BYTES_INSIDE,
        each: int = limits.MAX_BYTES_INSIDE_PER_TENANT,
        *,
        max_waiting: int = limits.MAX_CALLS_WAITING,
        max_waiting_bytes: int = limits.MAX_BYTES_WAITING,
    ) -> None:
        self._left = total
        self._each = each
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting = 0
        self._waiting_bytes = 0
        self._payers: dict[Hashable, _Payer] = {}
        self._turns: deque[Hashable] = deque()
        """The payers with a line, the next one first."""

    async def take(self, payer: Hashable, size: int, *, in_memory: int = 0) -> Share:
        """The bytes, once there are enough. `in_memory` says how many the caller holds while it
        waits. Raises Overloaded when too much waits already."""
        if not self._turns and self._has_room(payer, size):
            self._hand_out(payer, size)
            return Share(self, payer, size)
        waiter = _Waiter(size, self._now(), asyncio.get_running_loop().create_future())
        self._queue(payer, waiter)
        self._admit()
        if not waiter.admitted.done():
            await self._wait(payer, waiter, in_memory)
        return Share(self, payer, size)

    def give_back(self, payer: Hashable, size: int) -> None:
        """For Share."""
        if not size:
            return
        self._left += size
        account = self._payers[payer]
        account.taken -= size
        self._forget_if_idle(payer)
        self._admit()

    def is_wanted_from(self, payer: Hashable, patience_seconds: float) -> bool:
        """Whether somebody has waited that long for what `payer` holds: another of the same payer,
        or, when the whole is short, whoever is next."""
        too_long_ago = self._now() - patience_seconds
        account = self._payers.get(payer)
        if account and account.line and account.line[0].since <= too_long_ago:
            return True
        if not self._turns:
            return False
        first = self._payers[self._turns[0]].line[0]
        return (
            self._left < first.size <= self._left_of_share(self._turns[0])
            and first.since <= too_long_ago
        )

    async def _wait(self, payer: Hashable, waiter: _Waiter, in_memory: int) -> None:
        if (
            self._waiting >= self._max_waiting
            or self._waiting_bytes + in_memory > self._max_waiting_bytes
        ):
            self._leave(payer, waiter)
            raise Overloaded("More calls wait than the service takes on.")
        self._waiting += 1
        self._waiting_bytes += in_memory
        try:
            await waiter.admitted
        except BaseException:
            self._leave(payer, waiter)
            raise
        finally:
            self._waiting -= 1
            self._waiting_bytes -= in_memory

    def _queue(self, payer: Hashable, waiter: _Waiter) -> None:
        account = self._payers.setdefault(payer, _Payer())
        if not account.line:
            self._turns.append(payer)
        account.line.append(waiter)

    def _leave(self, payer: Hashable, waiter: _Waiter) -> None:
        """Of somebody who does not want any more, and was perhaps let in a moment ago."""
        if waiter.admitted.done() and not waiter.admitted.cancelled():
            self.give_back(payer, waiter.size)
            return
        account = self._payers.get(payer)
        if account is not None:
            if waiter in account.line:  # it may have been passed over already
                account.line.remove(waiter)
                if not account.line:
                    self._turns.remove(payer)
            self._forget_if_idle(payer)
        self._admit()

    def _admit(self) -> None:
        """Lets in who is next, as long as there is room. A payer who holds his share is passed."""
        passed = 0
        while passed < len(self._turns):
            payer = self._turns[0]
            line = self._payers[payer].line
            if line[0].size > self._left_of_share(payer):
                self._turns.rotate(-1)
                passed += 1
                continue
            if line[0].size > self._left:
                return
            self._turns.rotate(-1)
            passed = 0
            waiter = line.popleft()
            if not line:
                self._turns.pop()
            if not waiter.admitted.cancelled():  # it has hung up, and is about to leave by itself
                self._hand_out(payer, waiter.size)
                waiter.admitted.set_result(None)

    def _has_room(self, payer: Hashable, size: int) -> bool:
        return size <= self._left and size <= self._left_of_share(payer)

    def _left_of_share(self, payer: Hashable) -> int:
        account = self._payers.get(payer)
        return self._each - (account.taken if account else 0)

    def _hand_out(self, payer: Hashable, size: int) -> None:
        self._left -= size
        self._payers.setdefault(payer, _Payer()).taken += size
        self._forget_if_idle(payer)  # an empty message takes nothing

    def _forget_if_idle(self, payer: Hashable) -> None:
        account = self._payers[payer]
        if not account.taken and not account.line:
            del self._payers[payer]

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
