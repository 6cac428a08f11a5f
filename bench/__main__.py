"""`python -m bench`: the figures as a table, and as one JSON object in the last line."""

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass

import click
from rich.console import Console
from rich.table import Table

from bench import drain, feed, ingest, operate, projections, rig, sync
from bench.figures import Figures, verdict


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured; see the options."""

    events: int
    rounds: int
    ledger_rows: int
    calls: int
    backlog: int


@click.command()
@click.option(
    "--part",
    type=click.Choice(("all", "sales", "sync", "operate", "feed", "projections")),
    default="all",
    show_default=True,
    help="What is measured.",
)
@click.option("--events", default=60_000, show_default=True, help="Events of one streamed round.")
@click.option("--rounds", default=3, show_default=True, help="Rounds; medians are printed.")
@click.option("--ledger-rows", default=2_000_000, show_default=True, help="The large database.")
@click.option("--calls", default=6_000, show_default=True, help="Single-event calls.")
@click.option("--backlog", default=100_000, show_default=True, help="Events one agent drains.")
def main(part: str, **size: int) -> None:
    """Measure everything side by side: ratios are what counts, the machine may be slow.

    \b
    Example: python -m bench --part sync
    Example: python -m bench --events 20000 --rounds 1 --ledger-rows 200000 --backlog 20000
    """
    console = Console(stderr=True)
    figures = asyncio.run(_measure(console, Size(**size), part))
    table = Table("figure", "measured", "wanted", "")
    for name, (value, wanted) in figures.items():
        table.add_row(name, f"{value:,.2f}", wanted, verdict(value, wanted))
    console.print(table)
    click.echo(json.dumps({name: round(value, 3) for name, (value, _) in figures.items()}))


async def _measure(console: Console, size: Size, part: str) -> Figures:
    figures: Figures = {}
    async with rig.running() as bench:
        if part in {"all", "sales"}:
            figures |= await _measure_sales(bench, console, size)
        if part in {"all", "sync"}:
            figures |= await sync.measure(bench, console.print)
        if part in {"all", "operate"}:
            figures |= await operate.measure(bench, console.print, size.events)
        if part in {"all", "feed"}:
            figures |= await feed.measure(bench, console.print)
        if part in {"all", "projections"}:
            figures |= await projections.measure(bench, console.print)
    return figures


async def _measure_sales(bench: rig.Rig, console: Console, size: Size) -> Figures:
    figures: Figures = {}
    async with AsyncExitStack() as services:
        for name in ("empty", "large", "singles"):
            await bench.database(name)
        empty = await services.enter_async_context(bench.service("empty"))
        large = await services.enter_async_context(bench.service("large"))

        console.print(f"filling a ledger with {size.ledger_rows:,} rows")
        tills = await empty.tills(tenants=1, count=ingest.STREAMS)
        large_tills = await large.tills(tenants=1, count=ingest.STREAMS)
        await ingest.fill(large, large_tills[0], size.ledger_rows)

        console.print("streams of one tenant, on the empty and on the large database")
        second = await services.enter_async_context(bench.service("empty"))
        one, full, two = await ingest.alternate(
            [((empty,), tills), ((large,), large_tills), ((empty, second), tills)],
            rounds=size.rounds,
            events=size.events,
        )
        for table, disk_bytes in (
            await ingest.bytes_per_event(empty, tills[0].device.tenant_id)
        ).items():
            figures[f"{table}_bytes_per_event"] = (disk_bytes, "")
        console.print("streams of four tenants")
        four_tills = await empty.tills(tenants=ingest.STREAMS, count=ingest.STREAMS)
        four, four_two = await ingest.alternate(
            [((empty,), four_tills), ((empty, second), four_tills)],
            rounds=size.rounds,
            events=size.events,
        )
        bare = await ingest.bare_rate(empty, tills, size.events)

        middle_one, middle_four = ingest.middle(one), ingest.middle(four)
        figures |= {
            "bare_table_events_per_s": (bare, ""),
            "floor_events_per_s": (middle_one.floor, ""),
            "stream_events_per_s": (middle_one.service, ""),
            "stream_to_floor": (ingest.middle_ratio(one), ">= 0.80"),
            "stream_to_floor_two_replicas": (ingest.middle_ratio(two), ""),
            "four_tenants_floor_events_per_s": (middle_four.floor, ""),
            "four_tenants_events_per_s": (middle_four.service, ""),
            "four_tenants_to_floor": (ingest.middle_ratio(four), ">= 0.65"),
            "four_tenants_to_floor_two_replicas": (ingest.middle_ratio(four_two), ""),
            "service_cpu_us_per_event": (middle_four.service_us, ""),
            "service_cpu_above_floor_client_us": (middle_four.overhead_us, "<= 10"),
            "large_floor_events_per_s": (ingest.middle(full).floor, ""),
            "large_stream_events_per_s": (ingest.middle(full).service, ""),
            "large_to_empty": (
                ingest.middle(full).service / middle_one.service,
                ">= 0.90",
            ),
        }

        console.print("one event a call, group commit on and off")
        grouped = await services.enter_async_context(bench.service("singles"))
        alone = await services.enter_async_context(bench.service("singles", group_commit="false"))
        with_groups = await ingest.unary_calls(grouped, size.calls)
        without = await ingest.unary_calls(alone, size.calls)
        figures |= {
            "calls_per_s": (size.calls / with_groups.seconds, ""),
            "calls_p95_ms": (with_groups.percentile_ms(95), ""),
            "calls_per_s_without_group_commit": (size.calls / without.seconds, ""),
            "group_commit_gain": (without.seconds / with_groups.seconds, ">= 2"),
        }

        console.print(f"one agent with a backlog of {size.backlog:,}")
        figures |= await drain.measure(empty, size.backlog)
        figures["service_peak_mb"] = (
            max(target.peak_megabytes() for target in (empty, large, grouped)),
            "<= 250",
        )
    return figures


if __name__ == "__main__":
    main(prog_name="python -m bench")
