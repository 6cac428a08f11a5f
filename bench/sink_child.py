"""A collector that takes everything and keeps nothing: `python -m bench.sink_child`.

Prints {"port": its port}, and ends when its input does.
"""

import asyncio
import json
import sys
from typing import Any

import grpc


class _Sink(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:  # noqa: ARG002 - it takes every method
        return grpc.unary_unary_rpc_method_handler(self._take)

    async def _take(self, _request: bytes, _context: object) -> bytes:
        return b""


async def _run() -> None:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((_Sink(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"port": port}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_run())
