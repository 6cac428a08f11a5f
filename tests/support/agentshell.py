"""A shell at a till: the real tillsync-agent, for one state folder."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAM = (sys.executable, "-c", "from tillsync_agent.cli import main; main()")


def program_of(user: int, group: int) -> tuple[str, ...]:
    """The same as another account; only root can. It becomes that account after the imports, since
    the program may lie where nobody else can read."""
    imports = "import os, tillsync_agent.agent, tillsync_agent.link, tillsync_agent.cli"
    become = f"os.setgroups([]); os.setgid({group}); os.setuid({user})"
    return (sys.executable, "-c", f"{imports}; {become}; tillsync_agent.cli.main()")


class Shell:
    """Runs tillsync-agent; `env` may be changed before the next command."""

    def __init__(self, folder: Path, program: Sequence[str] = PROGRAM) -> None:
        self.folder = folder
        self._program = program
        self.env = {n: v for n, v in os.environ.items() if not n.startswith("TILLSYNC_")}
        self.env["TILLSYNC_AGENT_STATE_DIR"] = str(folder)
        self.env["TILLSYNC_AGENT_MAX_WAIT_SECONDS"] = "0.2"

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._program,
            *arguments,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    async def __call__(self, *arguments: str, given: bytes = b"") -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        process = await self.start(*arguments)
        out, err = await asyncio.wait_for(process.communicate(given), 60)
        return process.returncode, out.decode(), err.decode()
