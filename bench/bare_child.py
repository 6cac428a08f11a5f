"""A bare server of grpc.aio: `python -m bench.bare_child`. What is said to it goes to every stream,
as it came, and nothing else happens.

Prints {"port": its port}, and ends when its input does.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

from tillsync.v1.sync_service_pb2 import PullResponse


class _Bare(grpc.GenericRpcHandler):
    def __init__(self) -> None:
        self._said: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        first = PullResponse()
        first.checkpoint.SetInParent()
        self._first = first.SerializeToString()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method.endswith("/Pull"):
            return grpc.unary_stream_rpc_method_handler(self._pull)
        return grpc.unary_unary_rpc_method_handler(self._say)

    async def _pull(self, _request: bytes, _context: object) -> AsyncIterator[bytes]:
        yield self._first
        while True:
            yield await asyncio.shield(self._said)

    async def _say(self, request: bytes, _context: object) -> bytes:
        said, self._said = self._said, asyncio.get_running_loop().create_future()
        said.set_result(request)
        return b""


async def _run() -> None:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((_Bare(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"port": port}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_run())
