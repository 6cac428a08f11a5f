"""Probes and metrics over HTTP, on the loop of everything else.

/startupz   /livez   /readyz     200 and "ok", or 503 and why not
/metrics                         Prometheus' text
/healthz    /health/ready        /livez and /readyz by their older names
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

STOP_SECONDS = 1.0


class Probes:
    """The three questions; each gives the reason why not, empty for yes. Set when it is known who
    can answer: until then the service is starting."""

    def __init__(self) -> None:
        self.started: Callable[[], str] = _starting
        self.live: Callable[[], str] = lambda: ""
        self.ready: Callable[[], str] = _starting


def _starting() -> str:
    return "It is starting."


def application(probes: Probes, registry: CollectorRegistry) -> Starlette:
    """The paths, as an ASGI application."""

    async def started(_request: Request) -> Response:
        return _answer(probes.started())

    async def live(_request: Request) -> Response:
        return _answer(probes.live())

    async def ready(_request: Request) -> Response:
        return _answer(probes.ready())

    async def metrics(_request: Request) -> Response:
        # Thousands of series take milliseconds, which are not taken from the sales' loop.
        text = await asyncio.to_thread(generate_latest, registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    paths = {
        "/startupz": started,
        "/livez": live,
        "/healthz": live,
        "/readyz": ready,
        "/health/ready": ready,
        "/metrics": metrics,
    }
    return Starlette(routes=[Route(path, endpoint) for path, endpoint in paths.items()])


def _answer(why_not: str) -> Response:
    return PlainTextResponse(
        f"{why_not or 'ok'}\n", 503 if why_not else 200, headers={"cache-control": "no-store"}
    )


@asynccontextmanager
async def served(application: Starlette, address: str) -> AsyncIterator[int]:
    """Serves on `address` ("127.0.0.1:7071", port 0 picks one), and gives the port. Raises OSError
    where that is not to be had."""
    listening = _listening(address)
    server = _Server(
        uvicorn.Config(
            application,
            loop="none",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(STOP_SECONDS),
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)


class _Server(uvicorn.Server):
    """uvicorn, but for the signals, which are the service's own business."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listening(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, int(port)), family=family, backlog=2048)
