"""How far the tables of sales have come, what could not be understood, and all rows anew."""

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar
from uuid import UUID

import click

from tillsync.v1 import projection_service_pb2 as pb
from tillsync_service.foundation import limits
from tillsync_service.operator.client import Service
from tillsync_service.operator.options import as_json_option, of_tenant
from tillsync_service.operator.output import (
    Row,
    row_of,
    say,
    show_row,
    show_rows,
    shown_progress,
    spelt,
)
from tillsync_service.operator.running import on_service

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_REASON = "DEAD_LETTER_REASON_"
_PROJECTION_COLUMNS = (
    "tenant_id",
    "position",
    "lag_events",
    "projected_at",
    "dead_letters_waiting",
    "dead_letters_discarded",
    "rebuild",
)
_DEAD_COLUMNS = (
    "position",
    "type",
    "reason",
    "field",
    "description",
    "attempts",
    "last_failed_at",
    "store_id",
    "key",
    "state",
)
_REASONS = [
    name.removeprefix(_REASON).lower().replace("_", "-") for name in pb.DeadLetterReason.keys()[1:]
]


def _filtered(function: Decorated) -> Decorated:
    """The options that choose dead letters, as one `chosen`."""
    for option in (
        click.option("--store", type=click.UUID, help="Only of this store."),
        click.option("--type", "type_name", default="", help="Only of this type, such as Void."),
        click.option("--reason", type=click.Choice(_REASONS), help="Only of this reason."),
        click.option("--to", "to_position", type=click.IntRange(1), help="Only up to here."),
        click.option("--from", "from_position", type=click.IntRange(1), help="Only from here on."),
    ):
        function = option(function)
    return function


_dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Only say what would become of them."
)


@click.group()
def projections() -> None:
    """The tables of sales, stock and days that are made from the history.

    \b
    Example: tillsync-service projections list
    """


@projections.command("list")
@click.option("--tenant", type=click.UUID, help="Only this one's.")
@as_json_option
@on_service()
async def list_projections(service: Service, *, tenant: UUID | None, as_json: bool) -> None:
    """List how far each tenant's tables have come. Into a pipe: lines of tab-separated values.

    \b
    Example: tillsync-service projections list --tenant $TENANT
    """
    request = pb.ListProjectionsRequest(tenant_id=str(tenant or ""), page_size=limits.MAX_PAGE_SIZE)
    found: list[pb.Projection] = []
    while True:
        page = await service.operate(service.projections.ListProjections, request)
        found += page.projections
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    rows = [row_of(one) if as_json else _projection_row(one) for one in found]
    show_rows(_PROJECTION_COLUMNS, rows, as_json=as_json)


@projections.command("rebuild")
@click.option("--tenant", type=click.UUID, help="Whose; without it, every tenant's, one by one.")
@as_json_option
@on_service()
async def rebuild(service: Service, *, tenant: UUID | None, as_json: bool) -> None:
    """Make all rows anew from the history, page by page, while sales go on arriving. It goes on in
    the service when this command is stopped; the same again follows it.

    \b
    Example: tillsync-service projections rebuild --tenant $TENANT
    """
    request = pb.RebuildRequest(tenant_id=str(tenant or ""))
    rows: list[Row] = []
    async for ended in _rebuilt(service, request):
        rows.append(_rebuild_row(ended))
        if not as_json:
            show_rows(tuple(rows[-1]), rows[-1:], as_json=False)
    if as_json:
        show_rows((), rows, as_json=True)


@click.group("dead-letters")
def dead_letters() -> None:
    """Events that could not be written into the tables.

    \b
    Example: tillsync-service dead-letters list --tenant 018f2a5e-7c3b-7d10-8a4e-3b1c9d2e5f60
    """


@dead_letters.command("list")
@of_tenant
@_filtered
@click.option(
    "--state",
    type=click.Choice(("waiting", "discarded", "any")),
    default="waiting",
    show_default=True,
    help="Which.",
)
@as_json_option
@on_service()
async def list_dead_letters(
    service: Service, *, tenant: UUID, state: str, as_json: bool, **chosen: Any
) -> None:
    """List a tenant's dead letters, by position. Into a pipe: lines of tab-separated values.

    \b
    Example: tillsync-service dead-letters list --tenant $TENANT --reason void-unknown
    """
    named = "UNSPECIFIED" if state == "any" else state.upper()
    request = pb.ListDeadLettersRequest(
        tenant_id=str(tenant),
        filter=_filter(**chosen),
        state=pb.DeadLetterState.Value(f"DEAD_LETTER_STATE_{named}"),
        page_size=limits.MAX_PAGE_SIZE,
    )
    rows: list[Row] = []
    while True:
        page = await service.operate(service.projections.ListDeadLetters, request)
        rows += map(_dead_letter_row, page.dead_letters)
        if not page.more:
            break
        request.after = page.dead_letters[-1].position
    show_rows(_DEAD_COLUMNS, rows, as_json=as_json)


@dead_letters.command("show")
@click.argument("position", type=click.IntRange(1))
@of_tenant
@as_json_option
@on_service()
async def show_dead_letter(service: Service, *, position: int, tenant: UUID, as_json: bool) -> None:
    """Show the dead letter at POSITION with its event; the body as JSON, where it can be read.

    \b
    Example: tillsync-service dead-letters show 4711 --tenant $TENANT
    """
    request = pb.GetDeadLetterRequest(tenant_id=str(tenant), position=position)
    answer = await service.operate(service.projections.GetDeadLetter, request)
    body_bytes = len(answer.event.body.value)
    answer.event.ClearField("body")  # of a type that is perhaps unknown here
    event = row_of(answer.event)
    shown = ("business_day", "occurred_at", "outbox_epoch", "device_sequence")
    show_row(
        {
            **_dead_letter_row(answer.dead_letter),
            **{name: event.get(name) for name in shown},
            "body_bytes": body_bytes,
            "body": answer.body_json,
        },
        as_json=as_json,
    )


@dead_letters.command("replay")
@of_tenant
@_filtered
@_dry_run_option
@as_json_option
@on_service()
async def replay(
    service: Service, *, tenant: UUID, dry_run: bool, as_json: bool, **chosen: Any
) -> None:
    """Try the waiting dead letters again, in their place. Nothing is doubled, however often.

    \b
    Example: tillsync-service dead-letters replay --tenant $TENANT --reason void-unknown --dry-run
    """
    request = pb.ReplayDeadLettersRequest(
        tenant_id=str(tenant), filter=_filter(**chosen), dry_run=dry_run
    )
    replayed = revived = 0
    async for answer in _pages(service, service.projections.ReplayDeadLetters, request):
        replayed += answer.replayed
        revived += answer.revived
    row = {"replayed": replayed, "revived": revived, "waiting": replayed - revived}
    show_row({**row, "dry_run": dry_run}, as_json=as_json)


@dead_letters.command("discard")
@of_tenant
@_filtered
@click.option("--because", required=True, help="Why, for whoever asks later.")
@_dry_run_option
@as_json_option
@on_service()
async def discard(
    service: Service, *, tenant: UUID, because: str, dry_run: bool, as_json: bool, **chosen: Any
) -> None:
    """Say of waiting dead letters that they shall not be written into the tables. They are kept,
    with who said so and why.

    \b
    Example: tillsync-service dead-letters discard --tenant $TENANT --from 4711 --to 4711 \\
      --because "test receipt"
    """
    request = pb.DiscardDeadLettersRequest(
        tenant_id=str(tenant), filter=_filter(**chosen), dry_run=dry_run, reason=because
    )
    discarded = 0
    async for answer in _pages(service, service.projections.DiscardDeadLetters, request):
        discarded += answer.discarded
    show_row({"discarded": discarded, "dry_run": dry_run}, as_json=as_json)


async def _rebuilt(
    service: Service, request: pb.RebuildRequest
) -> AsyncIterator[pb.RebuildResponse]:
    """The last word on each tenant; the others are shown as progress."""
    answers = service.answers(service.projections.Rebuild, request)
    async for answer in answers:
        if answer.joined and not answer.finished:
            say(f"One that {answer.progress.started_by} began is under way.", err=True)
        with shown_progress(answer.tenant_id, max(answer.progress.total_events, 1)) as advance:
            done = 0
            while not answer.finished:
                advance(answer.progress.done_events - done)
                done = answer.progress.done_events
                answer = await anext(answers)  # noqa: PLW2901 - the same tenant's
        yield answer


async def _pages(service: Service, method: Any, request: Any) -> AsyncIterator[Any]:
    while True:
        page = await service.operate(method, request)
        yield page
        if not page.more:
            return
        request.after = page.last_position


def _filter(
    *,
    from_position: int | None,
    to_position: int | None,
    reason: str | None,
    type_name: str,
    store: UUID | None,
) -> pb.DeadLetterFilter:
    named = (reason or "unspecified").upper().replace("-", "_")
    return pb.DeadLetterFilter(
        from_position=from_position or 0,
        to_position=to_position or 0,
        reason=pb.DeadLetterReason.Value(_REASON + named),
        type=type_name,
        store_id=str(store or ""),
    )


def _projection_row(one: pb.Projection) -> Row:
    row = dict(row_of(one))
    row["rebuild"] = ""
    if one.HasField("rebuild"):
        row["rebuild"] = f"{one.rebuild.done_events} of {one.rebuild.total_events}"
    return row


def _rebuild_row(one: pb.RebuildResponse) -> Row:
    return {
        "tenant_id": one.tenant_id,
        "events": one.progress.total_events,
        "started_by": one.progress.started_by,
        "joined": one.joined,
    }


def _dead_letter_row(one: pb.DeadLetter) -> Row:
    row = dict(row_of(one))
    return {
        **row,
        "type": one.type_url.rpartition("/")[2].removeprefix("tillsync.v1."),
        "reason": spelt(pb.DeadLetterReason.Name(one.reason)),
        "state": spelt(pb.DeadLetterState.Name(one.state)),
    }
