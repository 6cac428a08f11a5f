"""What it costs to be seen: metrics and traces while sales stream in; and probes under full
load."""

from collections.abc import Callable
from dataclasses import dataclass
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
            rounds: dict[str, list[_Round]] = {seen.address: [], unseen.address: []}
            for number in range(ROUNDS):  # in turn, so that a slow minute hits both
                for target in (seen, unseen) if number % 2 else (unseen, seen):
                    cpu_began = target.cpu_seconds()
                    rate = await _rate(target, tills[target.address], events)
                    spent = (target.cpu_seconds() - cpu_began) / events * 1e6
                    rounds[target.address].append(_Round(rate, spent))
            say("probes under full load")
            took = await _probed(seen, tills[seen.address], events)
    # Of each side its median: two rounds that follow each other may differ by a fifth here.
    with_, without = (
        _Round(median(each.rate for each in side), median(each.cpu_us for each in side))
        for side in (rounds[seen.address], rounds[unseen.address])
    )
    return {
        "seen_events_per_s": (with_.rate, ""),
        "unseen_events_per_s": (without.rate, ""),
        "seen_to_unseen": (with_.rate / without.rate, ">= 0.95"),
        "seen_cpu_us_an_event": (with_.cpu_us, ""),
        "unseen_cpu_us_an_event": (without.cpu_us, ""),
        "probe_p50_ms": (percentile(took, 50), ""),
        "probe_p99_ms": (percentile(took, 99), "<= 200"),
    }


@dataclass(frozen=True, slots=True)
class _Round:
    """`rate`: events a second; `cpu_us`: what the service spent on an event."""

    rate: float
    cpu_us: float


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
