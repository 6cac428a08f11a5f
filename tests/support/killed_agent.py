"""A program that embeds an agent and is killed, as by the power switch, at a chosen step.

    python killed_agent.py STATE_DIR STEP

STEP is take, send, answer, settle, or "none" to drain and end.
"""

import asyncio
import os
import signal
import sys

from tillsync_agent import config
from tillsync_agent.agent import Agent


async def main(state_dir: str, fatal_step: str) -> None:
    def on_step(step: str) -> None:
        if step == fatal_step:
            os.kill(os.getpid(), signal.SIGKILL)

    async with Agent(config.load(state_dir, {}), on_step=on_step) as agent:
        left = await agent.drain(30)
    sys.exit(0 if left.waiting == 0 else 1)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
