"""Many tills that listen: `python -m bench.live_child`, with the address, their tokens and the
number of connections as one JSON object in its first line of input.

Prints {"ready": how many} when each had its first checkpoint; and when its input ends, what they
received afterwards: {"received": [[number of the change, second], ...]}, by the machine's monotonic
clock.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator

import grpc

from tillsync.v1.sync_service_pb2 import PullRequest, PullResponse

_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


class _Listeners:
    def __init__(self, address: str, tokens: list[str], connections: int) -> None:
        self._channels = [
            grpc.aio.insecure_channel(address, options=_OPTIONS) for _ in range(connections)
        ]
        self._tokens = tokens
        self._got: list[tuple[float, bytes]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        ready = []
        for number, token in enumerate(self._tokens):
            ready.append(asyncio.Event())
            channel = self._channels[number % len(self._channels)]
            self._tasks.append(asyncio.create_task(self._listen(channel, token, ready[-1])))
        await asyncio.gather(*(each.wait() for each in ready))

    async def stop(self) -> Iterator[tuple[int, float]]:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._channels:
            await channel.close()
        return (
            (json.loads(body)["number"], at)
            for at, raw in self._got
            for block in PullResponse.FromString(raw).blocks
            for body in block.bodies
        )

    async def _listen(self, channel: grpc.aio.Channel, token: str, ready: asyncio.Event) -> None:
        pull: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
            "/tillsync.v1.SyncService/Pull"
        )
        request = PullRequest(live=True).SerializeToString()
        async for raw in pull(request, metadata=(("authorization", f"Bearer {token}"),)):
            if ready.is_set():
                # Parsed when the clock no longer matters: it costs the load generator.
                self._got.append((time.monotonic(), raw))
            elif PullResponse.FromString(raw).HasField("checkpoint"):
                ready.set()


async def _run() -> None:
    order = json.loads(await asyncio.to_thread(sys.stdin.readline))
    listeners = _Listeners(order["address"], order["tokens"], order["connections"])
    await listeners.start()
    print(json.dumps({"ready": len(order["tokens"])}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps({"received": list(await listeners.stop())}), flush=True)


if __name__ == "__main__":
    asyncio.run(_run())
