"""Records on their way to tills: the first load, live changes, lookups, and idle tills; and
what a comparison of days costs."""

import asyncio
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

from bench import agents, catalogue, first_load, live, reconcile
from bench.catalogue import COLLECTION, KEY, HeadOffice, head_office
from bench.figures import Figures, percentile
from bench.rig import Rig, Target
from tillsync_agent.replica import Replica

LOADS = 3
STREAMS = (1, 100, 500)
_CHANGES = 100
_LOOKUPS = 5_000
_PAUSE_SECONDS = 0.05


async def measure(bench: Rig, say: Callable[[str], None]) -> Figures:
    """Figures by name. Needs a service process that has served nobody yet, so it starts its own."""
    await bench.database("sync")
    async with bench.service("sync") as target:
        say(f"{STREAMS[-1]} idle tills")
        figures = await _idle(target)
        for streams in STREAMS:
            say(f"changes on {streams} live streams")
            figures |= await _live(target, streams)
        say("first loads of a catalogue")
        figures |= await _catalogue(target)
        say(f"a day of {reconcile.EVENTS:,} events with holes")
        figures |= await reconcile.measure(target)
        figures["sync_service_peak_mb"] = (target.peak_megabytes(), "")
    return figures


async def _idle(target: Target) -> Figures:
    return {
        "idle_till_kb": (await live.idle_stream_kb(target, STREAMS[-1]), "<= 80"),
        "bare_idle_stream_kb": (await live.bare_idle_stream_kb(STREAMS[-1]), ""),
    }


async def _live(target: Target, streams: int) -> Figures:
    ours = await live.latencies_ms(target, streams)
    bare = await live.bare_latencies_ms(streams)
    return {
        f"live_{streams}_p50_ms": (percentile(ours, 50), ""),
        f"live_{streams}_p95_ms": (
            percentile(ours, 95),
            "<= 150" if streams == STREAMS[-1] else "",
        ),
        f"bare_{streams}_p50_ms": (percentile(bare, 50), ""),
        f"bare_{streams}_p95_ms": (percentile(bare, 95), ""),
    }


async def _catalogue(target: Target) -> Figures:
    tenant_id = await agents.new_tenant(target)
    products = list(catalogue.products())
    with tempfile.TemporaryDirectory(prefix="tillsync-bench-sync-") as name:
        folder = Path(name)
        async with head_office(target, tenant_id) as office:
            await office.publish(products)
            figures = await _first_loads(target, tenant_id, folder, len(products))
            till = folder / "till-0"
            figures |= await _applied(target, office, till)
        codes = [catalogue.barcode(int(product.record_id)) for product in products]
        figures |= _lookups(till / "replica.db", codes)
    return figures


async def _first_loads(target: Target, tenant_id: UUID, folder: Path, records: int) -> Figures:
    bare, findable, loads = [], [], []
    for number in range(LOADS):  # in turn, so that a slow minute of the machine hits both
        bare.append(await first_load.bare(target, tenant_id, folder / f"bare-{number}.db"))
        path = folder / f"findable-{number}.db"
        findable.append(await first_load.bare(target, tenant_id, path, findable=True))
        loads.append(await first_load.by_agent(target, tenant_id, folder / f"till-{number}"))
    best_bare, best = min(bare), min(load.seconds for load in loads)
    return {
        "first_load_records_per_s": (records / best, ""),
        "bare_copy_records_per_s": (records / best_bare, ""),
        "bare_findable_copy_records_per_s": (records / min(findable), ""),
        "first_load_to_bare_copy": (best_bare / best, ">= 0.50"),
        "first_load_peak_mb": (max(load.peak_mb for load in loads), "<= 120"),
    }


async def _applied(target: Target, office: HeadOffice, state_dir: Path) -> Figures:
    """From the commit of a change to its commit in SQLite, one change at a time."""
    committed: list[float] = []
    applied: list[float] = []
    async with (
        live.wakeups(target) as wakeups,
        agents.child("bench.agent_child", str(state_dir)) as agent,
    ):
        await agent.line()  # it began
        await agent.line()  # and has everything so far

        def changed(tenant_id: UUID) -> None:
            committed.append(time.monotonic())
            wakeups.tell(tenant_id)

        office.changed = changed
        for number in range(_CHANGES):
            await office.publish([catalogue.staged("change", {"number": number})])
            applied.append((await agent.line())["applied"])
            await asyncio.sleep(_PAUSE_SECONDS)
        await agent.finish()
    took_ms = [(done - began) * 1000 for began, done in zip(committed, applied, strict=True)]
    return {
        "commit_to_applied_p50_ms": (percentile(took_ms, 50), ""),
        "commit_to_applied_p95_ms": (percentile(took_ms, 95), "<= 50"),
    }


def _lookups(path: Path, codes: Sequence[str]) -> Figures:
    chance = random.Random(1)  # noqa: S311  # the same codes at every run
    wanted = [chance.choice(codes) for _ in range(_LOOKUPS)]
    with Replica.open(path) as replica:
        found = _latencies_us(lambda code: len(replica.find(COLLECTION, **{KEY: code})), wanted)
    bare = sqlite3.connect(path, isolation_level=None)
    selected = _latencies_us(lambda code: len(bare.execute(_BARE, (KEY, code)).fetchall()), wanted)
    bare.close()
    return {
        "lookup_p50_us": (percentile(found, 50), ""),
        "lookup_p99_us": (percentile(found, 99), "<= 1,000"),
        "bare_lookup_p50_us": (percentile(selected, 50), ""),
        "bare_lookup_p99_us": (percentile(selected, 99), ""),
    }


_BARE = (
    "SELECT r.body FROM part p CROSS JOIN record_key k USING (part_id) CROSS JOIN record r"
    " USING (part_id, record_id) WHERE p.state = 'visible' AND k.name = ? AND k.value = ?"
)


def _latencies_us(find: Callable[[str], int], codes: Sequence[str]) -> list[float]:
    latencies = []
    for code in codes:
        began = time.perf_counter_ns()
        count = find(code)
        latencies.append((time.perf_counter_ns() - began) / 1000)
        if count != 1:
            raise RuntimeError(f"{count} products have the barcode {code}")
    return latencies
