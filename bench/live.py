"""What a change takes to many live tills, and what an idle one costs the service; each beside bare
streams of grpc.aio."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import grpc
import psutil

from bench import agents
from bench.catalogue import COLLECTION, head_office, staged
from bench.rig import Target
from tillsync.v1.sync_service_pb2 import PullResponse
from tillsync_service.foundation.wakeups import Wakeups

CHANGES = 60
EVERY_SECONDS = 0.2
CONNECTIONS = 10
# What the last change may take to the last till.
_AFTERWARDS_SECONDS = 2.0


async def latencies_ms(target: Target, streams: int) -> list[float]:
    """From the commit of a change, in another replica, to its receipt, of each stream."""
    tills = await target.tills(tenants=1, count=streams)
    tenant_id = tills[0].device.tenant_id
    committed: list[float] = []
    async with head_office(target, tenant_id) as office, wakeups(target) as others:

        def changed(tenant_id: UUID) -> None:
            committed.append(time.monotonic())
            others.tell(tenant_id)

        async def change(number: int) -> None:
            await office.publish([staged(f"{number}", {"number": number})])

        office.changed = changed
        return await _latencies_ms(
            target.address, [target.token(till) for till in tills], change, committed
        )


async def bare_latencies_ms(streams: int) -> list[float]:
    """The same from a bare server, which is told what it sends."""
    said: list[float] = []
    async with (
        _bare() as (address, _process),
        grpc.aio.insecure_channel(address) as channel,
    ):
        say: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/bare/Say")

        async def change(number: int) -> None:
            response = PullResponse(cursor=bytes(130))
            block = response.blocks.add(collection=COLLECTION)
            block.record_ids.append(f"{number}")
            block.versions.append(number)
            block.bodies.append(staged("", {"number": number}).body or "")
            response.checkpoint.history_id = response.checkpoint.store_id = "-" * 36
            raw = response.SerializeToString()
            said.append(time.monotonic())
            await say(raw)

        return await _latencies_ms(address, [""] * streams, change, said)


async def idle_stream_kb(target: Target, streams: int) -> float:
    """Resident memory of the service for each idle till, a connection of its own included."""
    tills = await target.tills(tenants=1, count=streams)
    async with head_office(target, tills[0].device.tenant_id) as office:
        await office.publish([staged("1", {"number": 1})])
    tokens = [target.token(till) for till in tills]
    return await _stream_kb(target.address, target.process, tokens)


async def bare_idle_stream_kb(streams: int) -> float:
    async with _bare() as (address, process):
        return await _stream_kb(address, process, [""] * streams)


async def _latencies_ms(
    address: str,
    tokens: Sequence[str],
    change: Callable[[int], Awaitable[None]],
    began: list[float],
) -> list[float]:
    async with _listening(address, tokens, min(CONNECTIONS, len(tokens))) as listeners:
        for number in range(CHANGES):
            await change(number)
            await asyncio.sleep(EVERY_SECONDS)
        await asyncio.sleep(_AFTERWARDS_SECONDS)
        received = (await listeners.finish())["received"]
    if len(received) != CHANGES * len(tokens):
        raise RuntimeError(f"{len(received)} of {CHANGES * len(tokens)} changes were received")
    return [(at - began[number]) * 1000 for number, at in received]


async def _stream_kb(address: str, process: psutil.Process, tokens: Sequence[str]) -> float:
    async with _listening(address, tokens[:1], 1):  # what the first one costs is not for each
        pass
    before = process.memory_info().rss
    async with _listening(address, tokens, len(tokens)):
        await asyncio.sleep(_AFTERWARDS_SECONDS)
        held: int = process.memory_info().rss - before
    return held / 1024 / len(tokens)


@asynccontextmanager
async def _listening(
    address: str, tokens: Sequence[str], connections: int
) -> AsyncIterator[agents.Child]:
    async with agents.child("bench.live_child") as listeners:
        order = {"address": address, "tokens": list(tokens), "connections": connections}
        await listeners.say(json.dumps(order))
        await listeners.line()
        yield listeners


@asynccontextmanager
async def _bare() -> AsyncIterator[tuple[str, psutil.Process]]:
    async with agents.child("bench.bare_child") as server:
        yield f"127.0.0.1:{(await server.line())['port']}", psutil.Process(server.pid)


@asynccontextmanager
async def wakeups(target: Target) -> AsyncIterator[Wakeups]:
    """Tells the service of commits as another replica does."""
    others = Wakeups(target.serving_url, lambda _tenant_id: None)
    running = asyncio.create_task(others.run())
    try:
        yield others
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
