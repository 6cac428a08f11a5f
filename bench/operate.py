"""What it costs to be seen: metrics and traces while sales stream in; and probes under full
load."""

from collections.abc import Callable
from statistics import median

from bench import agents, load
from bench.figures import Figures, percentile
from bench.ingest import BATCH_EVENTS, STREAMS
from bench.rig import Rig, Target
from bench.sales import Till, batches, sales

ROUNDS = 7


async def measure(bench: Rig, say: Callable[[str], None], events: int) -> Figures:
    """Figures by name."""
    for name in ("seen", "unseen"):
        await bench.database(name)
    async with agents.child("bench.sink_child") as sink:
        endpoint = f"http://127.0.0.1:{(await sink.line())['port']}"
        async with (
            bench.service("seen", otlp_endpoint=endpoint, trace_ratio="0.1") as seen,
            bench.service("unseen", measured="false") as unseen,
        ):
            say("streams with and without telemetry")
            tills = {
                target.address: await target.tills(tenants=1, count=STREAMS)
                for target in (seen, unseen)
            }
            await _rate(seen, tills[seen.address], events // 4)
            await _rate(unseen, tills[unseen.address], events // 4)
            pairs = []
            for number in range(ROUNDS):  # in turn, so that a slow minute hits both
                order = (seen, unseen) if number % 2 else (unseen, seen)
                rates = {
                    target.address: await _rate(target, tills[target.address], events)
                    for target in order
                }
                pairs.append((rates[seen.address], rates[unseen.address]))
            say("probes under full load")
            took = await _probed(seen, tills[seen.address], events)
    return {
        "seen_events_per_s": (median(with_ for with_, _ in pairs), ""),
        "unseen_events_per_s": (median(without for _, without in pairs), ""),
        "seen_to_unseen": (median(with_ / without for with_, without in pairs), ">= 0.95"),
        "probe_p50_ms": (percentile(took, 50), ""),
        "probe_p99_ms": (percentile(took, 99), "<= 200"),
    }


async def _rate(target: Target, tills: list[Till], events: int) -> float:
    """Events a second over several streams."""
    each = events // len(tills)
    requests = [
        (target.address, target.token(till), batches(sales(till, each), BATCH_EVENTS))
        for till in (Till.of_device(till.device) for till in tills)
    ]
    return each * len(tills) / await load.streams(requests)


async def _probed(target: Target, tills: list[Till], events: int) -> list[float]:
    """Milliseconds of each probe while as much streams in as can."""
    words = (target.address, target.http_address)
    async with agents.child("bench.probe_child", *words) as probes:
        for _ in range(3):
            await _rate(target, tills, events)
        took: list[float] = (await probes.finish())["milliseconds"]
    return took
