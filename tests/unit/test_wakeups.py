"""Replicas that wake each other."""

import asyncio

import asyncpg

from support.polling import eventually
from tillsync_service.foundation import wakeups
from tillsync_service.foundation.wakeups import Wakeups


async def test_no_broken_connection_ends_the_wake_ups(monkeypatch):
    """The connection breaks in the middle of an answer, which asyncpg says in words of its own:
    another one is made, and tills on other replicas go on hearing of changes at once."""
    tries = []

    async def connect(*_: object, **__: object):
        tries.append(1)
        raise asyncpg.InternalClientError("got result for unknown protocol state")

    monkeypatch.setattr(asyncpg, "connect", connect)
    monkeypatch.setattr(wakeups, "RECONNECT_SECONDS", 0)
    running = asyncio.create_task(Wakeups("", lambda _tenant_id: None).run())

    await eventually(lambda: len(tries) > 1 or running.done())

    assert not running.done()
    running.cancel()
