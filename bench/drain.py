"""One agent with a long backlog, and what `record` costs."""

import json
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bench import agents
from bench.figures import Figures, percentile
from bench.rig import Target
from bench.sales import Till, sales
from tillsync.v1.event_pb2 import Event
from tillsync_agent import Outbox

RECORDS = 2_000
# Filling the backlog is not what is measured, so it is done where a commit costs no disk.
_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108


async def measure(target: Target, backlog: int) -> Figures:
    """Figures by name, each with what is wanted of it."""
    with tempfile.TemporaryDirectory(prefix="tillsync-bench-agent-") as name:
        folder = Path(name)
        figures = _record_figures(folder)
        state_dir = folder / "till"
        fill(state_dir, backlog)
        await agents.enrol(target, await agents.new_tenant(target), state_dir)
        drained = json.loads(
            await agents.run(sys.executable, "-m", "bench.drain_child", str(state_dir))
        )
    return figures | {
        "drain_events_per_s": (backlog / drained["seconds"], ">= 15,000"),
        "drain_peak_mb": (drained["peak_mb"], "<= 80"),
    }


def _record_figures(folder: Path) -> Figures:
    events = list(sales(Till.nowhere(), RECORDS))
    with Outbox.open(folder / "record.db") as outbox:
        recorded = _latencies_us(lambda event: _record(outbox, event), events)
    bare = sqlite3.connect(folder / "bare.db", isolation_level=None)
    bare.execute("PRAGMA journal_mode = WAL")
    bare.execute("PRAGMA synchronous = FULL")
    bare.execute("CREATE TABLE bare (key TEXT PRIMARY KEY, body BLOB)")
    inserted = _latencies_us(
        lambda event: bare.execute("INSERT INTO bare VALUES (?, ?)", (event.key, event.body.value)),
        events,
    )
    bare.close()
    return {
        "record_p50_us": (percentile(recorded, 50), ""),
        "record_p99_us": (percentile(recorded, 99), ""),
        "bare_insert_p50_us": (percentile(inserted, 50), ""),
        "bare_insert_p99_us": (percentile(inserted, 99), ""),
    }


def _record(outbox: Outbox, event: Event) -> None:
    outbox.record(
        event.body,
        business_day=event.business_day,
        amounts={amount.currency: amount.minor_units for amount in event.amounts},
        key=event.key,
    )


def fill(state_dir: Path, backlog: int) -> None:
    where = _MEMORY_FOLDER if _MEMORY_FOLDER.is_dir() else state_dir.parent
    filling = Path(tempfile.mkdtemp(prefix="tillsync-bench-", dir=where))
    try:
        with Outbox.open(filling / "outbox.db") as outbox:
            for event in sales(Till.nowhere(), backlog):
                _record(outbox, event)
            outbox.checkpoint()
        shutil.copytree(filling, state_dir)
    finally:
        shutil.rmtree(filling)


def _latencies_us(act: Callable[[Event], object], events: Iterable[Event]) -> list[float]:
    latencies = []
    for event in events:
        began = time.perf_counter_ns()
        act(event)
        latencies.append((time.perf_counter_ns() - began) / 1000)
    return latencies
