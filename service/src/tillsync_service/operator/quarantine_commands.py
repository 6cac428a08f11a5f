"""What an operator sees of events whose key was taken by another one."""

from base64 import b64encode
from uuid import UUID

import click
from google.protobuf.any_pb2 import Any
from google.protobuf.json_format import MessageToJson

from tillsync.v1 import admin_service_pb2 as pb
from tillsync.v1 import retail_pb2
from tillsync.v1.event_pb2 import Event
from tillsync_service.foundation import limits
from tillsync_service.operator.client import Service
from tillsync_service.operator.options import as_json_option, of_tenant
from tillsync_service.operator.output import Row, columns_of, row_of, show_row, show_rows
from tillsync_service.operator.running import on_service

_DIGEST_DIGITS = 32


@click.group()
def quarantine() -> None:
    """Sales that have the key of another one, with another body: both are kept, and the first one
    counts. Nothing takes one out: what is a sale of its own is recorded again at the till, under a
    key of its own.

    \b
    Example: tillsync-service quarantine list --tenant 018f2a5e-7c3b-7d10-8a4e-3b1c9d2e5f60
    """


@quarantine.command("list")
@of_tenant
@click.option("--store", type=click.UUID, help="Only what this store's tills offered.")
@as_json_option
@on_service()
async def list_quarantine(
    service: Service, *, tenant: UUID, store: UUID | None, as_json: bool
) -> None:
    """List what is in quarantine, by key. Into a pipe: lines of tab-separated values.

    \b
    Example: tillsync-service quarantine list --tenant $TENANT --store $STORE
    """
    request = pb.ListQuarantineRequest(
        tenant_id=str(tenant), store_id=str(store or ""), page_size=limits.MAX_PAGE_SIZE
    )
    rows: list[Row] = []
    while True:
        page = await service.operate(service.admin.ListQuarantine, request)
        rows += map(_row, page.quarantined)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    show_rows(columns_of(pb.Quarantined), rows, as_json=as_json)


@quarantine.command("show")
@click.argument("key")
@of_tenant
@click.option("--digest", default="", help="Which one, as listed, where several have this key.")
@as_json_option
@on_service()
async def show_quarantined(
    service: Service, *, key: str, tenant: UUID, digest: str, as_json: bool
) -> None:
    """Show the event with this KEY that is in quarantine, and the one that counts (held_...).

    \b
    Example: tillsync-service quarantine show receipt-4711 --tenant $TENANT
    """
    request = pb.GetQuarantinedRequest(tenant_id=str(tenant), key=key, digest=_bytes_of(digest))
    answer = await service.operate(service.admin.GetQuarantined, request)
    held = {"device_id": answer.held.device_id, **_event_row(answer.held.event)}
    row = {
        **_row(answer.quarantined),
        **_event_row(answer.event),
        **{f"held_{name}": value for name, value in held.items()},
    }
    show_row(row, as_json=as_json)


def _bytes_of(digest: str) -> bytes:
    try:
        found = bytes.fromhex(digest)
    except ValueError:
        found = b"?"
    if digest and len(digest) != _DIGEST_DIGITS:
        raise click.UsageError(f"--digest {digest}: {_DIGEST_DIGITS} digits, as listed.")
    return found


def _row(quarantined: pb.Quarantined) -> Row:
    return {**row_of(quarantined), "digest": quarantined.digest.hex()}


def _event_row(event: Event) -> Row:
    amounts = [f"{amount.currency}={amount.minor_units}" for amount in event.amounts]
    return {
        "sequence": event.device_sequence,
        "business_day": event.business_day,
        "amounts": amounts,
        "type_url": event.body.type_url,
        "body": _body(event.body),
    }


def _body(packed: Any) -> str:
    """The document as JSON, or the bytes of one whose meaning is not known here, in base64."""
    for name in retail_pb2.DESCRIPTOR.message_types_by_name:
        document = getattr(retail_pb2, name)()
        if packed.Is(document.DESCRIPTOR) and packed.Unpack(document):
            return MessageToJson(document, preserving_proto_field_name=True, indent=None)
    return b64encode(packed.value).decode()
