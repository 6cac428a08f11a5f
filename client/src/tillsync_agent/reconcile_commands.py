"""tillsync-agent reconcile and close-day: is all of it at head office?"""

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path

import click

from tillsync_agent import config, status
from tillsync_agent.errors import OutboxInUse
from tillsync_agent.exits import ATTENTION, EPILOG
from tillsync_agent.outbox import Outbox
from tillsync_agent.reconciliation import Difference, Reconciliation, Sums

_TIMEOUT = click.option(
    "--timeout", "timeout_seconds", default=60.0, show_default=True, help="Seconds."
)
_MISSING_ELSEWHERE = (
    "the day is equal, but head office misses numbers of an outbox of this device that is not here "
    "any more: its operator sees them with `tillsync-service missing`, and may waive them"
)
_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.command(epilog=EPILOG)
@_TIMEOUT
@_JSON
@click.pass_obj
def reconcile(state_dir: Path | None, timeout_seconds: float, *, as_json: bool) -> None:
    """Sends what waits, compares every business day with head office, and gives back what it lost.

    Exit code 0 if all is equal, else 1 and what is not. An agent that is running does it.

    \b
    Example:
        tillsync-agent reconcile --timeout 300
    """
    result = _asked(state_dir, timeout_seconds)
    if as_json:
        click.echo(json.dumps(asdict(result), indent=2))
    elif result.is_equal:
        click.echo(f"{result.days_equal} business days are equal{_given_back(result)}")
    else:
        click.echo(f"not all is equal{_given_back(result)}:", err=True)
    _end(result, is_done=result.is_equal, as_json=as_json)


@click.command("close-day", epilog=EPILOG)
@click.argument("day", metavar="DATE")
@_TIMEOUT
@_JSON
@click.pass_obj
def close_day(state_dir: Path | None, day: str, timeout_seconds: float, *, as_json: bool) -> None:
    """Closes the business day DATE, when all of it is at head office and equal.

    Exit code 0: it is closed, under the revision that is printed. Else 1, and what is missing and
    why. An agent that is running does it.

    \b
    Example:
        tillsync-agent close-day 2026-11-22
    """
    if not _is_day(day):
        raise click.UsageError(f"{day!r} is no day like 2026-11-22")
    result = _asked(state_dir, timeout_seconds, day)
    if as_json:
        click.echo(json.dumps({"business_day": day} | asdict(result), indent=2))
    elif result.closed:
        money = _sums(result.comes_to)
        click.echo(f"business day {day} is closed, revision {result.revision}: {money}")
    else:
        click.echo(f"business day {day} is not closed:", err=True)
        if result.is_equal and not result.days_waived:
            click.echo(f"  {_MISSING_ELSEWHERE}", err=True)
    _end(result, is_done=result.closed, as_json=as_json)


def _asked(
    state_dir: Path | None, timeout_seconds: float, day: str | None = None
) -> Reconciliation:
    from tillsync_agent.agent import Agent  # noqa: PLC0415 - loads gRPC
    from tillsync_agent.reconciler import ask  # noqa: PLC0415

    settings = config.load(state_dir, gateway_port=0)
    close = day is not None

    async def compared() -> Reconciliation:
        async with Agent(settings) as agent:
            return await agent.reconcile(timeout_seconds, day, close=close)

    try:
        return asyncio.run(compared())
    except OutboxInUse:
        with Outbox.open(settings.outbox_path) as outbox:
            return asyncio.run(ask(outbox, timeout_seconds, day, close=close))


def _end(result: Reconciliation, *, is_done: bool, as_json: bool) -> None:
    if not as_json:
        for line in _findings(result):
            click.echo(f"  {line}", err=not is_done)
    if not is_done:
        sys.exit(ATTENTION)


def _findings(result: Reconciliation) -> Iterator[str]:
    if result.error:
        yield result.error
    if result.unfinished:
        yield "sales went on meanwhile, or more is to be given back: ask again in a minute"
    yield from status.differences(result)
    for day in result.differing:
        yield from _balance(day)
    if result.waived_count:
        yield f"{result.waived_count} numbers are gone, and head office does not wait for them"
    for business_day in result.days_waived:
        yield f"{status.name_of(business_day)} differs, and head office does not wait for the rest"
    for refused in result.refused:
        why = " ".join(word for word in (refused.reason, refused.field) if word)
        name = status.name_of(refused.business_day)
        yield f"refused: number {refused.sequence} of {name}, {refused.outcome} {why}"
    if result.refused_count > len(result.refused):
        yield f"refused in all: {result.refused_count}, see `tillsync-agent dead-letters`"


def _balance(day: Difference) -> Iterator[str]:
    for currency in sorted({*day.here, *day.there}):
        events, money = day.here.get(currency, (0, 0))
        events_there, money_there = day.there.get(currency, (0, 0))
        yield (
            f"{status.name_of(day.business_day)}, {currency}: here {events} events and {money}, at "
            f"head office {events_there} and {money_there} (minor units), which is "
            f"{events_there - events:+} and {money_there - money:+}"
        )


def _sums(sums: Sums) -> str:
    parts = [f"{events} events, {money} {unit}" for unit, (events, money) in sums.items()]
    return "; ".join(parts) or "no events"


def _given_back(result: Reconciliation) -> str:
    return f"; {result.offered_again} events were given back" if result.offered_again else ""


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
