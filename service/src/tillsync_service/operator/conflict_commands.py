"""What an operator decides where tills' edits collided."""

from uuid import UUID

import click

from tillsync.v1 import record_service_pb2 as pb
from tillsync.v1.sync_service_pb2 import MutationKind, MutationOutcome
from tillsync_service.foundation import limits
from tillsync_service.operator.client import Service
from tillsync_service.operator.options import as_json_option, of_tenant
from tillsync_service.operator.output import Row, row_of, show_row, show_rows, spelt
from tillsync_service.operator.running import on_service

_COLUMNS = (
    "conflict_id",
    "occurred_at",
    "outcome",
    "collection",
    "store_id",
    "record_id",
    "kind",
    "device_id",
    "resolution",
)

_conflict_argument = click.argument("conflict_id", metavar="ID", type=int)


@click.group()
def conflicts() -> None:
    """Edits of tills that met a record that had changed.

    \b
    Example: tillsync-service conflicts list --open --tenant 018f2a5e-7c3b-7d10-8a4e-3b1c9d2e5f60
    """


@conflicts.command("list")
@of_tenant
@click.option("--open", "open_only", is_flag=True, help="Only those that wait for you.")
@as_json_option
@on_service()
async def list_conflicts(service: Service, *, tenant: UUID, open_only: bool, as_json: bool) -> None:
    """List a tenant's conflicts, by id. Into a pipe: lines of tab-separated values.

    \b
    Example: tillsync-service conflicts list --open --tenant $TENANT
    """
    request = pb.ListConflictsRequest(
        tenant_id=str(tenant), open_only=open_only, page_size=limits.MAX_PAGE_SIZE
    )
    rows: list[Row] = []
    while True:
        page = await service.operate(service.records.ListConflicts, request)
        rows += map(_row, page.conflicts)
        if not page.more:
            break
        request.after = page.conflicts[-1].conflict_id
    show_rows(_COLUMNS, rows, as_json=as_json)


@conflicts.command("show")
@_conflict_argument
@of_tenant
@as_json_option
@on_service()
async def show_conflict(service: Service, *, conflict_id: int, tenant: UUID, as_json: bool) -> None:
    """Show the conflict ID with both sides, and its record as it is now.

    \b
    Example: tillsync-service conflicts show 4711 --tenant $TENANT
    """
    request = pb.GetConflictRequest(tenant_id=str(tenant), conflict_id=conflict_id)
    answer = await service.operate(service.records.GetConflict, request)
    present = {
        "present_version": answer.present_version,
        "present_body": answer.present_body,
    }
    show_row({**_row(answer.conflict), **present}, as_json=as_json)


@conflicts.command("resolve")
@_conflict_argument
@click.argument("choice", type=click.Choice(("keep", "apply")))
@of_tenant
@as_json_option
@on_service()
async def resolve_conflict(
    service: Service, *, conflict_id: int, choice: str, tenant: UUID, as_json: bool
) -> None:
    """Decide the open conflict ID: keep the record as it is, or apply the till's edit to it.

    \b
    Example: tillsync-service conflicts resolve 4711 apply --tenant $TENANT
    """
    request = pb.ResolveConflictRequest(
        tenant_id=str(tenant),
        conflict_id=conflict_id,
        choice=pb.ResolutionChoice.Value(f"RESOLUTION_CHOICE_{choice.upper()}"),
    )
    answer = await service.operate(service.records.ResolveConflict, request)
    show_row(_row(answer.conflict), as_json=as_json)


def _row(conflict: pb.Conflict) -> Row:
    """A conflict as one row; version: the one that its resolution made."""
    edit, resolution = conflict.mutation, conflict.resolution
    has_resolution = conflict.HasField("resolution")
    return {
        "conflict_id": conflict.conflict_id,
        "occurred_at": row_of(conflict)["occurred_at"],
        "outcome": spelt(MutationOutcome.Name(conflict.outcome)),
        "collection": edit.collection,
        "store_id": edit.store_id,
        "record_id": edit.record_id,
        "kind": spelt(MutationKind.Name(edit.kind)),
        "device_id": conflict.device_id,
        "reason": conflict.reason,
        "base_version": edit.base_version,
        "edit_body": edit.body,
        "met_version": conflict.met_version,
        "met_body": conflict.met_body,
        "resolution": spelt(pb.ResolutionChoice.Name(resolution.choice)) if has_resolution else "",
        "decided_by": resolution.decided_by,
        "version": resolution.version,
    }
