"""A PostgreSQL of a test's own, which may be frozen, killed and started again on its port."""

import contextlib
from pathlib import Path

import psutil

from tillsync_service.foundation.embedded import SERVICE_USER, EmbeddedPostgres

__all__ = ["SERVICE_USER", "OwnPostgres"]


class OwnPostgres:
    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedPostgres(folder)

    async def start(self) -> None:
        await self._server.start()
        self.admin_url, self.serving_url = self._server.admin_url, self._server.service_url

    async def stop(self) -> None:
        await self._server.stop()

    async def kill(self) -> None:
        """SIGKILL to all of it at once, as a power cut, and nobody left to tidy up."""
        processes = self._processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, 10)
        await self._server.stop()

    def is_running(self) -> bool:
        return bool(self._processes())

    def freeze(self) -> None:
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def _processes(self) -> list[psutil.Process]:
        if self._server._process is None:
            return []
        try:
            main = psutil.Process(self._server._process.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
