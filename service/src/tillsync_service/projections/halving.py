"""What to do when Postgres refuses one event of many: fewer at a time, until it is alone. Pure."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tillsync_service.foundation.db import DataRefused

Result = TypeVar("Result")
Attempt = Callable[[int, DataRefused | None], Awaitable[Result]]


class Stride:
    """How many events a transaction takes: half as many after each refusal, and twice as many
    after each success."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._now = most

    async def step(self, attempt: Attempt[Result]) -> Result:
        """The result of `attempt(how many, None)`, or, of an event that was refused alone, of
        `attempt(1, the refusal)`."""
        while True:
            try:
                result = await attempt(self._now, None)
            except DataRefused as refused:
                if self._now == 1:
                    return await attempt(1, refused)
                self._now //= 2
            else:
                self._now = min(self._most, self._now * 2)
                return result
