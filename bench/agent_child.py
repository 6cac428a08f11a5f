"""An agent that keeps its replica equal to the service: `python -m bench.agent_child STATE_DIR`.

Prints {"began": seconds}, then {"applied": seconds} for each checkpoint, by the machine's monotonic
clock; and when its input ends, its peak memory.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from bench.memory import peak_megabytes
from tillsync_agent import Agent, config


def _say(**words: float) -> None:
    print(json.dumps(words), flush=True)


async def _run(state_dir: Path) -> None:
    def on_step(step: str) -> None:
        if step == "applied":
            _say(applied=time.monotonic())

    _say(began=time.monotonic())
    async with Agent(config.load(state_dir), on_step=on_step):
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_run(Path(sys.argv[1])))
    _say(peak_mb=peak_megabytes(os.getpid()))
