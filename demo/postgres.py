"""PostgreSQL in a process of its own, so that it can be stopped while the service runs on."""

import asyncio
import signal
import sys
from pathlib import Path

from tillsync_service.foundation.embedded import EmbeddedPostgres, EmbeddedPostgresError

READY = "PostgreSQL is ready"


async def serve(folder: Path) -> None:
    """Until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with EmbeddedPostgres(folder):
        print(READY, flush=True)
        await stop.wait()


if __name__ == "__main__":
    try:
        asyncio.run(serve(Path(sys.argv[1])))
    except EmbeddedPostgresError as error:
        sys.exit(str(error))
