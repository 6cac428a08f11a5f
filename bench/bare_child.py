"""A bare server of grpc.aio: `python -m bench.bare_child`. What is said to it goes to every stream,
as it came, and nothing else happens.

Prints {"port": its port}, and ends when its input does.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from bench.child_server import serve
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
    await serve(_Bare())


if __name__ == "__main__":
    asyncio.run(_run())
