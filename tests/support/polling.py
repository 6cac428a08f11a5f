"""Waiting for a condition instead of for a time."""

import asyncio
import inspect
from collections.abc import Callable
from time import monotonic
from typing import Any


async def eventually(condition: Callable[[], Any], *, within_seconds: float = 10.0) -> Any:
    """The condition's first true value (plain or awaitable). Raises AssertionError without one."""
    deadline = monotonic() + within_seconds
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert monotonic() < deadline, f"not within {within_seconds} s"
        await asyncio.sleep(0.005)
