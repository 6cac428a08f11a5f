"""What it takes a till to find three missing events of ten thousand, and to bring them."""

import json
import sqlite3
import sys
import tempfile
from pathlib import Path

import asyncpg

from bench import agents, drain
from bench.figures import Figures
from bench.rig import Target

EVENTS = 10_000
# Numbers that head office never saw, and numbers that it lost without a trace.
_UNSEEN = (18, 5_000, 9_999)
_LOST = (77, 4_321, 8_765)
_MODULUS = 2**128


async def measure(target: Target) -> Figures:
    with tempfile.TemporaryDirectory(prefix="tillsync-bench-reconcile-") as name:
        state_dir = Path(name) / "till"
        drain.fill(state_dir, EVENTS)
        _say_sent(state_dir / "outbox.db")
        await agents.enrol(target, await agents.new_tenant(target), state_dir)
        figures = await _compared("unseen", state_dir)
        await _lose(target)
        return figures | await _compared("lost", state_dir)


async def _compared(name: str, state_dir: Path) -> Figures:
    found = json.loads(
        await agents.run(sys.executable, "-m", "bench.reconcile_child", str(state_dir))
    )
    if not found["equal"] or found["offered"] != len(_LOST):
        raise RuntimeError(f"three events were {name}, and this was found: {found}")
    return {
        f"reconcile_{name}_round_trips": (found["calls"], "<= 5"),
        f"reconcile_{name}_kb": (found["bytes"] / 1024, "<= 64"),
    }


def _say_sent(outbox: Path) -> None:
    """The till takes some for sent that never were."""
    connection = sqlite3.connect(outbox)
    with connection:
        connection.execute(
            "UPDATE tillsync_event SET state = 'accepted', settled_at = recorded_at"
            " WHERE sequence IN (?, ?, ?)",
            _UNSEEN,
        )
    connection.close()


async def _lose(target: Target) -> None:
    """Head office believes to have had some numbers, and has not: nothing but sums tell."""
    connection = await asyncpg.connect(target.admin_url)
    try:
        async with connection.transaction():
            gone = await connection.fetch(
                "DELETE FROM tillsync.event WHERE device_sequence = ANY ($1)"
                " RETURNING tenant_id, key, amounts",
                list(_LOST),
            )
            digests = await connection.fetch(
                "DELETE FROM tillsync.event_key WHERE tenant_id = $1 AND key = ANY ($2)"
                " RETURNING digest",
                gone[0]["tenant_id"],
                [row["key"] for row in gone],
            )
            await connection.execute(
                "UPDATE tillsync.device_day SET event_count = event_count - $2,"
                " amount_minor = amount_minor - $3,"
                " digest_sum = mod(digest_sum + $4::text::numeric, $5::text::numeric)"
                " WHERE tenant_id = $1",
                gone[0]["tenant_id"],
                len(gone),
                sum(json.loads(row["amounts"])["USD"] for row in gone),
                str(-sum(int.from_bytes(row["digest"]) for row in digests) % _MODULUS),
                str(_MODULUS),
            )
    finally:
        await connection.close()
