"""The demo's processes: real ones, each with a log, that end with it at the latest."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from demo.failure import DemoFailed

ROOT = Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.05
START_SECONDS = 60.0
STOP_SECONDS = 20.0
SHOWN_LOG_LINES = 12


def program(name: str) -> str:
    """An installed command of this virtualenv."""
    return str(Path(sys.executable).with_name(name))


class Process:
    """One running process. Its log goes on from one process of the same name to the next."""

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        *,
        log: Path,
        begin: int,
        may_end: bool,
    ) -> None:
        """`begin`: where in the log this process began to write; `may_end`: by itself, well."""
        self.name = name
        self._log = log
        self._begin = begin
        self._may_end = may_end
        self._process = process
        self._end_expected = False

    def words(self) -> str:
        """What it has written to its log so far."""
        return self._log.read_bytes()[self._begin :].decode(errors="replace")

    async def until_says(self, word: str) -> None:
        """Waits for a word in its log."""
        try:
            async with asyncio.timeout(START_SECONDS):
                while word not in self.words():
                    self.check()
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise self.failed(f"did not say {word!r} within {START_SECONDS:.0f} s") from None

    def check(self) -> None:
        """Raises DemoFailed when it ended and nobody wanted that."""
        status = self._process.returncode
        is_good = status is None or self._end_expected or (self._may_end and status == 0)
        if not is_good:
            raise self.failed(f"ended by itself, with status {status}")

    async def answer(self) -> str:
        """What a command wrote to its output, once it has ended. Raises DemoFailed if it failed."""
        self._end_expected = True
        output, _ = await self._process.communicate()
        if self._process.returncode != 0:
            raise self.failed(f"failed with status {self._process.returncode}")
        return output.decode().strip()

    async def finished(self) -> None:
        """Waits until it ends by itself. Raises DemoFailed when that was no good end."""
        await self._process.wait()
        self.check()

    async def kill(self) -> None:
        """SIGKILL. Raises DemoFailed unless that, and nothing else, ended it."""
        self.check()
        self._end_expected = True
        with suppress(ProcessLookupError):
            self._process.kill()
        if await self._process.wait() != -signal.SIGKILL:
            raise self.failed("did not die of SIGKILL")

    async def stop(self) -> None:
        """SIGTERM, and a well-behaved end. Raises DemoFailed where it is neither."""
        self.check()
        self._end_expected = True
        with suppress(ProcessLookupError):
            self._process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        if self._process.returncode != 0:
            raise self.failed(f"did not stop in order: status {self._process.returncode}")

    def failed(self, what: str) -> DemoFailed:
        lines = "\n".join(self.words().splitlines()[-SHOWN_LOG_LINES:])
        return DemoFailed(f"{self.name} {what}; its last words:\n{lines or '(none)'}")


class Processes:
    """Starts processes in one group; `async with` ends them all."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._started: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        # A group of their own: a Ctrl-C at the terminal is for the demo, which then ends the rest.
        self._guard = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "demo.guard", cwd=ROOT, stdin=PIPE, process_group=0
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._guard.stdin:
            self._guard.stdin.close()
        await self._guard.wait()
        for process in self._started:
            await process.wait()

    async def start(
        self,
        name: str,
        *command: str,
        settings: Mapping[str, str] | None = None,
        may_end: bool = False,
    ) -> Process:
        """`settings`: its TILLSYNC_* variables; those of whoever runs the demo are not for it."""
        return await self._spawn(name, command, settings, may_end=may_end)

    async def run(self, name: str, *command: str, settings: Mapping[str, str] | None = None) -> str:
        """Runs a command to its end, and gives what it answered."""
        process = await self._spawn(name, command, settings, may_end=True, stdout=PIPE)
        return await process.answer()

    async def _spawn(
        self,
        name: str,
        command: Sequence[str],
        settings: Mapping[str, str] | None,
        *,
        may_end: bool,
        stdout: int | None = None,
    ) -> Process:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TILLSYNC_")}
        log = self._logs / f"{name.replace(' ', '-')}.log"
        with log.open("ab") as output:
            begin = output.tell()
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=ROOT,
                env={**inherited, **(settings or {})},
                stdin=DEVNULL,
                stdout=output if stdout is None else stdout,
                stderr=output,
                process_group=self._guard.pid,
            )
        self._started.append(process)
        return Process(name, process, log=log, begin=begin, may_end=may_end)
