"""A bare server of grpc.aio in a process of its own, which ends when its input does."""

import asyncio
import json
import sys

import grpc


async def serve(handler: grpc.GenericRpcHandler) -> None:
    """Prints {"port": its port}, and serves."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"port": port}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)
