"""An agent that compares its days with head office: `python -m bench.reconcile_child STATE_DIR`.

Sends what waits, compares, and prints one JSON object: the calls that it took, their bytes both
ways, how many events were offered again, and whether all days are equal in the end.
"""

import asyncio
import json
import sys
from pathlib import Path

from tillsync.v1 import reconcile_service_pb2 as pb
from tillsync_agent import Agent, config
from tillsync_agent.link import Link
from tillsync_agent.outbox import Outbox
from tillsync_agent.reconciliation import NOTE_NAME, Reconciliation

_POLL_SECONDS = 0.05
_calls: list[int] = []
_reconcile = Link.reconcile


async def _counted(self: Link, request: pb.ReconcileRequest) -> pb.ReconcileResponse:
    response = await _reconcile(self, request)
    _calls.append(request.ByteSize() + response.ByteSize())
    return response


async def _compare(outbox: Outbox) -> Reconciliation:
    while True:
        notes = await asyncio.to_thread(outbox.notes)
        result = Reconciliation.parse(notes.get(NOTE_NAME, ""))
        if result.at and not result.unfinished:
            return result
        await asyncio.sleep(_POLL_SECONDS)


async def _run(state_dir: Path) -> Reconciliation:
    settings = config.load(state_dir)
    with Outbox.open(settings.outbox_path) as outbox:
        outbox.note(NOTE_NAME, "")
    async with Agent(settings) as agent:
        return await _compare(agent.outbox)


if __name__ == "__main__":
    Link.reconcile = _counted  # type: ignore[method-assign]
    found = asyncio.run(_run(Path(sys.argv[1])))
    print(
        json.dumps(
            {
                "calls": len(_calls),
                "bytes": sum(_calls),
                "offered": found.offered_again,
                "equal": not found.days_differing,
            }
        )
    )
