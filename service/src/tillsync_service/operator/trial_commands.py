"""The commands that try a running service out: smoke and loadtest."""

import json
import sys
from dataclasses import asdict
from random import Random

import click

from tillsync_service.operator import loadtest as load
from tillsync_service.operator.client import Service
from tillsync_service.operator.output import can_print, say, shown_progress
from tillsync_service.operator.running import on_service
from tillsync_service.operator.smoke import Smoke, Step
from tillsync_service.operator.trial import enrolled_trial

_PASSED, _FAILED = "\N{CHECK MARK}", "\N{BALLOT X}"


@click.command("smoke")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@on_service()
async def smoke(service: Service, *, as_json: bool) -> int:
    """Try a running service out: enrol a till, sell, sell the same again, and more.

    It works in a disposable tenant of its own and removes it, also after a failure or Ctrl-C.

    \b
    Exit status: 0 every step passed, 1 one did not.
    Example: tillsync-service smoke --service sync.example.com:443
    """
    steps: list[Step] = []

    def report(step: Step) -> None:
        steps.append(step)
        if not as_json:
            say(_step_line(step))

    passed = await Smoke(service, report).run()
    if as_json:
        click.echo(json.dumps({"passed": passed, "steps": [asdict(step) for step in steps]}))
    return 0 if passed else 1


@click.command("loadtest")
@click.option("--total", type=click.IntRange(min=1), default=2000, show_default=True)
@click.option("--unique", type=click.IntRange(min=1), default=400, show_default=True)
@click.option("--concurrency", type=click.IntRange(min=1), default=75, show_default=True)
@click.option(
    "--timeout-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="For one call; it is not sent again.",
)
@on_service(failure_status=load.SOMETHING_ELSE)
async def loadtest(
    service: Service, *, total: int, unique: int, concurrency: int, timeout_seconds: float
) -> int:
    """Send TOTAL sales of which UNIQUE are different, in any order, one a call.

    It works in a disposable tenant of its own and removes it, also after a failure or Ctrl-C. The
    last line is JSON: total, unique, accepted, duplicates, other, p50_ms, p95_ms.

    \b
    Exit status: 0 each different sale was ACCEPTED once and every repeat was a DUPLICATE;
    1 only these answers came, but not once each; 2 something else happened, or it could not run.
    Example: tillsync-service loadtest --total 2000 --unique 400 --concurrency 75
    """
    if unique > total:
        raise click.UsageError(f"--unique {unique} is more than --total {total}.")
    sales = load.sales(unique)
    plan = [sales[n] for n in load.shuffled_plan(total, unique, Random())]  # noqa: S311 - no secret
    tally = load.Tally(total, unique)
    try:
        async with enrolled_trial(service, "tillsync-service loadtest") as trial:
            with shown_progress("sales", total) as progress:
                await load.send(
                    trial,
                    plan,
                    tally,
                    concurrency=concurrency,
                    timeout_seconds=timeout_seconds,
                    progress=progress,
                )
    finally:
        # Also when the tenant could not be removed: what was measured is worth knowing.
        if tally.is_complete:
            _show_tally(tally)
    return tally.exit_status


def _show_tally(tally: load.Tally) -> None:
    for trouble in tally.troubles():
        say(f"tillsync-service: {trouble}", err=True)
    click.echo(json.dumps(tally.as_dict()))


def _step_line(step: Step) -> str:
    fancy = can_print(_PASSED + _FAILED, sys.stdout)
    mark = (_PASSED if fancy else "ok  ") if step.passed else (_FAILED if fancy else "FAIL")
    return f"{mark} {step.step:<15} {step.ms:>8.1f} ms  {step.detail}"
