"""What an operator asks about what is missing, and says of it."""

import re
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import date
from uuid import UUID

import click

from tillsync.v1 import books_service_pb2 as pb
from tillsync.v1.reconcile_service_pb2 import SequenceSpan
from tillsync_service.foundation import limits
from tillsync_service.operator.client import Service
from tillsync_service.operator.options import as_json_option, of_tenant
from tillsync_service.operator.output import (
    Row,
    columns_of,
    row_of,
    say,
    show_row,
    show_rows,
    spelt,
)
from tillsync_service.operator.running import on_service

# A status of its own for "could not ask": a script must not take it for an answer.
NOT_ASKED = 2
# Every tenant of a large service, one after the other.
RESTORED_SECONDS = 600.0

_MISSING_COLUMNS = (
    "store",
    "till",
    "device_id",
    "last_heard_at",
    "what",
    "events",
    "money",
    "said_at",
    "why",
)
_DAY_COLUMNS = ("till", "device_id", "state", "revision", "events", "money", "last_heard_at")
_NUMBERS = re.compile(r"(\d+):(\d+)(?:-(\d+))?")


class _Day(click.ParamType[date]):
    """A date in its one form."""

    name = "date"

    def convert(
        self, value: str | date, param: click.Parameter | None, ctx: click.Context | None
    ) -> date:
        if isinstance(value, date):
            return value
        try:
            day = date.fromisoformat(value)
        except ValueError:
            day = None
        if day is None or day.isoformat() != value:
            self.fail(f"{value!r} is no date such as 2026-11-22.", param, ctx)
        return day


class _Numbers(click.ParamType[SequenceSpan]):
    """Numbers of an outbox, as `missing` shows them."""

    name = "numbers"

    def convert(
        self, value: str | SequenceSpan, param: click.Parameter | None, ctx: click.Context | None
    ) -> SequenceSpan:
        if isinstance(value, SequenceSpan):
            return value
        found = _NUMBERS.fullmatch(value)
        if found is None:
            self.fail(f"{value!r} is not OUTBOX:FIRST-LAST, such as 4711:3-5.", param, ctx)
        epoch, first, last = found.groups(default=found[2])
        try:
            return SequenceSpan(epoch=int(epoch), first=int(first), last=int(last))
        except ValueError:
            self.fail(f"{value!r} has a number that no outbox has.", param, ctx)


_DAY = _Day()
_store_option = click.option("--store", type=click.UUID, help="Only this store's.")
_reason_option = click.option("--reason", required=True, help="Why, for whoever asks later.")


@click.command("missing")
@of_tenant
@_store_option
@click.option(
    "--since",
    type=_DAY,
    metavar="DAY",
    help="Only business days from DAY on, and numbers of tills heard of since.",
)
@as_json_option
@on_service(failure_status=NOT_ASKED)
async def missing(
    service: Service, *, tenant: UUID, store: UUID | None, since: date | None, as_json: bool
) -> int:
    """List what is missing at head office, till by till: numbers of sales that never came, and
    business days whose money is not what the till said. What was waived is listed too, with its
    reason, and numbers that two sales have: a till's disk was cloned. Money is in minor units
    (cents). Into a pipe: lines of tab-separated values.

    \b
    Exit status: 0 nothing is missing, 1 something is, 2 it could not be asked.
    Example: tillsync-service missing --tenant $TENANT --since 2026-11-22
    """
    request = pb.ListMissingRequest(
        tenant_id=str(tenant), store_id=str(store or ""), since=str(since or "")
    )
    examined = 0
    devices: list[pb.DeviceMissing] = []
    async for page in _pages(service, request):
        examined += page.devices_examined
        devices += page.devices
    if as_json:
        show_rows(columns_of(pb.DeviceMissing), list(map(row_of, devices)), as_json=True)
    elif devices or not sys.stdout.isatty():
        rows = [row for device in devices for row in _missing_rows(device)]
        show_rows(_MISSING_COLUMNS, rows, as_json=False)
    else:
        say(f"Nothing is missing; {examined:,} tills were looked at.")
    return int(any(device.holes or device.days for device in devices))


@click.command("day")
@of_tenant
@click.option("--store", type=click.UUID, required=True, help="Which store.")
@click.argument("business_day", metavar="DAY", type=_DAY)
@as_json_option
@on_service()
async def day(
    service: Service, *, tenant: UUID, store: UUID, business_day: date, as_json: bool
) -> None:
    """Show how each till of a store stands on the business day DAY.

    \b
    closed    everything is here and equal
    open      it sent sales of the day, and did not close it
    reopened  it was closed, and a sale came later
    silent    nothing was heard of it for this day
    waived    what is missing was waived
    Example: tillsync-service day --tenant $TENANT --store $STORE 2026-11-22
    """
    request = pb.ListDayRequest(
        tenant_id=str(tenant), store_id=str(store), business_day=str(business_day)
    )
    answer = await service.operate(service.books.ListDay, request)
    if as_json:
        show_rows(columns_of(pb.DeviceDay), list(map(row_of, answer.devices)), as_json=True)
    else:
        show_rows(_DAY_COLUMNS, list(map(_day_row, answer.devices)), as_json=False)


@click.command("waive")
@of_tenant
@click.option("--device", type=click.UUID, required=True, help="From which till.")
@click.option(
    "--numbers",
    type=_Numbers(),
    metavar="OUTBOX:FIRST-LAST",
    help="These numbers, as `missing` shows them, or",
)
@click.option("--day", "business_day", type=_DAY, metavar="DAY", help="a whole business day.")
@_reason_option
@as_json_option
@on_service()
async def waive(
    service: Service,
    *,
    tenant: UUID,
    device: UUID,
    numbers: SequenceSpan | None,
    business_day: date | None,
    reason: str,
    as_json: bool,
) -> None:
    """Say that something missing will not come, and why. It is shown as waived from then on, and
    does not keep a day from being closed. Who said it is written down.

    \b
    Example: tillsync-service waive --tenant $TENANT --device $DEVICE --numbers 4711:3-5 \\
      --reason "disk broke, receipts are in the safe"
    """
    if (numbers is None) == (business_day is None):
        raise click.UsageError("Give one of --numbers OUTBOX:FIRST-LAST and --day DAY.")
    request = pb.WaiveRequest(
        tenant_id=str(tenant),
        device_id=str(device),
        span=numbers,
        business_day=str(business_day or ""),
        reason=reason,
    )
    answer = await service.operate(service.books.Waive, request)
    show_row(row_of(answer.waiver), as_json=as_json)


@click.command("restored")
@_reason_option
@click.confirmation_option(
    "--yes",
    prompt="Every till will load its records anew and offer again what is gone. Was the database "
    "restored from a backup, or failed over without its last transactions?",
    help="Do not ask.",
)
@as_json_option
@on_service()
async def restored(service: Service, *, reason: str, as_json: bool) -> None:
    """Say that the database was restored from a backup, or failed over without its last
    transactions: every history gets a new id, by which tills know that they must offer again what
    is gone. For an operator of every tenant.

    \b
    Example: tillsync-service restored --reason "disk failure, backup of 03:00"
    """
    request = pb.DeclareRestoredRequest(reason=reason)
    answer = await service.operate(
        service.books.DeclareRestored, request, timeout_seconds=RESTORED_SECONDS
    )
    show_row({"tenants": answer.tenants}, as_json=as_json)


async def _pages(
    service: Service, request: pb.ListMissingRequest
) -> AsyncIterator[pb.ListMissingResponse]:
    # A device may have a hundred spans and days: of a thousand devices a page might not fit.
    request.page_size = limits.DEFAULT_PAGE_SIZE
    while True:
        page = await service.operate(service.books.ListMissing, request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _missing_rows(device: pb.DeviceMissing) -> Iterator[Row]:
    """A row for each thing that is missing, for each that was waived, and for a cloned disk."""
    of_device = {
        "store": device.store_code,
        "till": device.device_name,
        "device_id": device.device_id,
        "last_heard_at": row_of(device)["last_heard_at"],
        **dict.fromkeys(("events", "money", "said_at", "why"), None),
    }
    listed = 0
    for hole in device.holes:
        count = hole.last - hole.first + 1
        listed += count
        yield {**of_device, "what": _numbers_text(hole), "events": count}
    if device.missing_events > listed:
        yield {**of_device, "what": "further numbers", "events": device.missing_events - listed}
    for one in device.days:
        yield {
            **of_device,
            "what": f"day {one.business_day or 'undeclared'}",
            "events": one.missing_events,
            "money": f"{one.missing_minor} {one.currency}",
            "said_at": row_of(one)["claimed_at"],
        }
    for waiver in device.waivers:
        named = f"day {waiver.business_day}" if waiver.business_day else _numbers_text(waiver)
        yield {
            **of_device,
            "what": f"waived: {named}",
            "said_at": row_of(waiver)["waived_at"],
            "why": f"{waiver.reason} ({waiver.waived_by})",
        }
    if device.HasField("fork"):
        yield _fork_row(of_device, device.fork)


def _fork_row(of_device: Row, fork: pb.Fork) -> Row:
    return {
        **of_device,
        "what": f"forked: numbers {fork.epoch}:{fork.sequence}",
        "events": fork.events,
        "said_at": row_of(fork)["noticed_at"],
        "why": "two sales have one number: the disk was cloned, or restored from a backup",
    }


def _numbers_text(span: SequenceSpan | pb.Waiver) -> str:
    """As --numbers takes it."""
    return f"numbers {span.epoch}:{span.first}-{span.last}"


def _day_row(device: pb.DeviceDay) -> Row:
    books = device.books
    return {
        "till": device.device_name,
        "device_id": device.device_id,
        "state": spelt(pb.DayState.Name(device.state)),
        "revision": device.revision,
        "events": ", ".join(f"{book.event_count} {book.currency}" for book in books),
        "money": ", ".join(f"{book.amount_minor} {book.currency}" for book in books),
        "last_heard_at": row_of(device)["last_heard_at"],
    }
