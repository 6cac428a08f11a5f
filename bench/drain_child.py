"""The agent under measurement, in a process of its own: `python -m bench.drain_child STATE_DIR`.

Prints one JSON object: seconds from its start until nothing waited, and its peak memory.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from bench.memory import peak_megabytes
from tillsync_agent import Agent, config

POLL_SECONDS = 0.05


async def _drain(state_dir: Path) -> float:
    async with Agent(config.load(state_dir)) as agent:
        began = time.perf_counter()
        while (await asyncio.to_thread(agent.outbox.backlog))[0]:  # noqa: ASYNC110  # it is polled
            await asyncio.sleep(POLL_SECONDS)
        return time.perf_counter() - began


if __name__ == "__main__":
    seconds = asyncio.run(_drain(Path(sys.argv[1])))
    print(json.dumps({"seconds": seconds, "peak_mb": peak_megabytes(os.getpid())}))
