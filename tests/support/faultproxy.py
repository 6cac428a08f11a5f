"""A TCP proxy that behaves like a bad link. It knows no protocol: TLS and HTTP/2 pass as they are.

    async with FaultProxy("127.0.0.1", service_port) as network:
        till = ... connects to network.address
        network.drop_silently()

Modes apply to every connection, open or new, from the moment they are set:
    pass_on()          both ways, the default
    drop_silently()    both ways into the void, connections stay open (a router that restarted); the
                       handshake of a new connection still succeeds, as with a captive portal
    lose_responses()   requests arrive, responses vanish
    lose_requests()    the other way round
    delay(seconds)     every chunk, each way, in order
    refuse()           open connections are cut and new ones closed at once
    cut()              cuts what is open now, once; the mode stays
Bytes that a mode swallowed are gone, so going back to pass_on() after dropping leaves a stream with
a hole in it: call cut() too, as a real network's timeout would.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Self

CHUNK_BYTES = 65_536


@dataclass(frozen=True)
class _Mode:
    up: bool = True
    down: bool = True
    delay_seconds: float = 0.0
    accept: bool = True


class FaultProxy:
    """One listening port on 127.0.0.1 in front of one target."""

    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = (target_host, target_port)
        self._mode = _Mode()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.connections = 0
        """How many connections were ever accepted."""
        self.bytes_up = 0
        """How many bytes came from clients, passed on or not."""
        self.bytes_down = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._server
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def retarget(self, host: str, port: int) -> None:
        """New connections go there: a failover, or a restart on another port."""
        self._target = (host, port)

    def pass_on(self) -> None:
        self._mode = _Mode()

    def drop_silently(self) -> None:
        self._mode = _Mode(up=False, down=False)

    def lose_responses(self) -> None:
        self._mode = _Mode(down=False)

    def lose_requests(self) -> None:
        self._mode = _Mode(up=False)

    def delay(self, seconds: float) -> None:
        self._mode = _Mode(delay_seconds=seconds)

    def refuse(self) -> None:
        self._mode = _Mode(accept=False)
        self.cut()

    def cut(self) -> None:
        for writer in self._writers:
            # Aborting sends RST: the peer learns of it at once, as from a dying process.
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._mode.accept:
            writer.transport.abort()
            return
        self.connections += 1
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            self._let_go(writer)
            return
        self._writers.add(far_writer)
        try:
            await asyncio.gather(
                self._pump(reader, far_writer, up=True), self._pump(far_reader, writer, up=False)
            )
        except asyncio.CancelledError:
            return  # the test is over; asyncio.streams would log a cancelled handler as an error
        finally:
            self._let_go(writer, far_writer)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                if up:
                    self.bytes_up += len(chunk)
                else:
                    self.bytes_down += len(chunk)
                if self._mode.delay_seconds:
                    await asyncio.sleep(self._mode.delay_seconds)
                if self._mode.up if up else self._mode.down:
                    writer.write(chunk)
                    await writer.drain()
        # A dropping network does not carry the goodbye either.
        if self._mode.up and self._mode.down:
            writer.close()

    def _let_go(self, *writers: asyncio.StreamWriter) -> None:
        for writer in writers:
            self._writers.discard(writer)
            writer.transport.abort()
