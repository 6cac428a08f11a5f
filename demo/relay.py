"""A till's link to head office: a TCP relay that can be cut and mended."""

import asyncio
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from typing import Self

CHUNK_BYTES = 65_536


class Relay:
    """Listens on 127.0.0.1 and passes on to `port` there."""

    def __init__(self, port: int) -> None:
        self._target_port = port
        self._is_cut = False
        self._writers: set[StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1")
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> int:
        """Breaks what is connected, and whatever connects from now on. Says how much it broke."""
        self._is_cut = True
        broken = list(self._writers)
        for writer in broken:
            writer.transport.abort()
        return len(broken)

    def mend(self) -> None:
        self._is_cut = False

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        if task := asyncio.current_task():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        with suppress(OSError):
            if not self._is_cut:
                await self._connect(reader, writer)
        writer.transport.abort()

    async def _connect(self, reader: StreamReader, writer: StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        both = {writer, far_writer}
        self._writers |= both
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._pass_on(reader, far_writer))
                directions.create_task(self._pass_on(far_reader, writer))
        finally:
            self._writers -= both
            far_writer.transport.abort()

    async def _pass_on(self, reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(OSError):
            while not self._is_cut and (chunk := await reader.read(CHUNK_BYTES)):
                writer.write(chunk)
                await writer.drain()
        writer.transport.abort()
