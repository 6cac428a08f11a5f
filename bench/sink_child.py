"""A collector that takes everything and keeps nothing: `python -m bench.sink_child`.

Prints {"port": its port}, and ends when its input does.
"""

import asyncio
from typing import Any

import grpc

from bench.child_server import serve


class _Sink(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:  # noqa: ARG002 - it takes every method
        return grpc.unary_unary_rpc_method_handler(self._take)

    async def _take(self, _request: bytes, _context: object) -> bytes:
        return b""


if __name__ == "__main__":
    asyncio.run(serve(_Sink()))
