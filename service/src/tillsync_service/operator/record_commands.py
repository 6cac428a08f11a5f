"""What tills hold copies of, kept from anywhere: collections and their records."""

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click

from tillsync.v1 import record_service_pb2 as pb
from tillsync.v1.record_pb2 import Collection, Policy
from tillsync_service.operator.client import OperatorError, Service
from tillsync_service.operator.importing import Importing
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
from tillsync_service.operator.record_files import Line, RecordFile, RecordFileError, format_of
from tillsync_service.operator.running import on_service

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_POLICIES = ("server-wins", "arrival-wins", "manual")
# Whatever a till needs most to sell comes first.
_LOAD_ORDERS = {"price": 10, "prices": 10, "promotion": 20, "promotions": 20}
_DEFAULT_LOAD_ORDER = 100
_COLLECTION_COLUMNS = ("name", "policy", "lookup_keys", "load_order", "records")

_in_collection = click.option("--collection", required=True, help="Which collection.")


def _in_store(text: str) -> Callable[[Decorated], Decorated]:
    return click.option("--store", type=click.UUID, help=text)


@click.group()
def collections() -> None:
    """Sets of records that are kept by the same rules.

    \b
    Example: tillsync-service collections list --tenant 018f2a5e-7c3b-7d10-8a4e-3b1c9d2e5f60
    """


@collections.command("define")
@click.argument("name")
@of_tenant
@click.option(
    "--policy",
    type=click.Choice(_POLICIES),
    help="Who wins when a till changes what was changed meanwhile: the service, whoever comes "
    "last, or nobody until you decide. A new collection needs it.",
)
@click.option(
    "--lookup-key",
    "lookup_keys",
    multiple=True,
    metavar="FIELD",
    help="Tills find a record by this field, too. Several times for several: these are all.",
)
@click.option("--no-lookup-keys", is_flag=True, help="Tills find a record by its id only.")
@click.option(
    "--load-order",
    type=int,
    help="A new till loads the lowest first. A new collection: prices 10, promotions 20, others "
    "100.",
)
@as_json_option
@on_service()
async def define_collection(
    service: Service,
    *,
    name: str,
    tenant: UUID,
    policy: str | None,
    lookup_keys: tuple[str, ...],
    no_lookup_keys: bool,
    load_order: int | None,
    as_json: bool,
) -> None:
    """Make a collection called NAME, or change its rules. What no option names stays as it is. A
    repeat changes nothing.

    \b
    Example: tillsync-service collections define price --tenant $TENANT \\
               --policy server-wins --lookup-key barcode
    """
    if lookup_keys and no_lookup_keys:
        raise click.UsageError("Give one of --lookup-key and --no-lookup-keys.")
    known = {one.name: one for one in await _collections(service, tenant)}
    if policy is None and name not in known:
        raise click.UsageError(f"{name} is a new collection: give --policy.")
    collection = known.get(name) or Collection(
        name=name, load_order=_LOAD_ORDERS.get(name, _DEFAULT_LOAD_ORDER)
    )
    if policy is not None:
        collection.policy = Policy.Value(f"POLICY_{policy.replace('-', '_').upper()}")
    if lookup_keys or no_lookup_keys:
        collection.lookup_keys[:] = lookup_keys
    if load_order is not None:
        collection.load_order = load_order
    request = pb.DefineCollectionRequest(tenant_id=str(tenant), collection=collection)
    answer = await service.operate(service.records.DefineCollection, request)
    show_row({**_collection_row(answer.collection), "version": answer.version}, as_json=as_json)


async def _collections(service: Service, tenant: UUID) -> list[Collection]:
    """A tenant's collections as they are defined now."""
    request = pb.ListCollectionsRequest(tenant_id=str(tenant))
    answer = await service.operate(service.records.ListCollections, request)
    return [one.collection for one in answer.collections]


@collections.command("list")
@of_tenant
@as_json_option
@on_service()
async def list_collections(service: Service, *, tenant: UUID, as_json: bool) -> None:
    """List a tenant's collections, by name. Into a pipe: lines of tab-separated values.

    \b
    Example: tillsync-service collections list --tenant $TENANT --json
    """
    request = pb.ListCollectionsRequest(tenant_id=str(tenant))
    answer = await service.operate(service.records.ListCollections, request)
    rows = [
        {
            **_collection_row(one.collection),
            "records": sum(part.record_count for part in one.parts),
            "parts": [
                {
                    "store_id": part.store_id,
                    "records": part.record_count,
                    "digest": part.digest.hex(),
                }
                for part in one.parts
            ],
        }
        for one in answer.collections
    ]
    show_rows(_COLLECTION_COLUMNS, rows, as_json=as_json)


@click.group()
def records() -> None:
    """What tills hold copies of: prices, customers, stock.

    \b
    Example: tillsync-service records import prices.csv --tenant $TENANT --collection price
    """


@records.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@of_tenant
@_in_collection
@_in_store("For this store only; without it, for the whole tenant.")
@click.option("--id-field", default="id", show_default=True, help="The field that is the id.")
@click.option(
    "--integer",
    "integers",
    multiple=True,
    metavar="FIELD",
    help="CSV: this column is a whole number, or empty. Several times for several.",
)
@click.option("--atomic", is_flag=True, help="One bad line, and nothing goes in.")
@click.option(
    "--complete",
    is_flag=True,
    help="The file is all there is: what it does not name is deleted. Implies --atomic.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(("jsonl", "csv")),
    help="Whatever the file's name says (.jsonl, .ndjson, .json; .csv).",
)
@as_json_option
@on_service()
async def import_records(
    service: Service,
    *,
    file: Path,
    tenant: UUID,
    collection: str,
    store: UUID | None,
    id_field: str,
    integers: tuple[str, ...],
    atomic: bool,
    complete: bool,
    format_name: str | None,
    as_json: bool,
) -> int:
    """Take in the records of FILE: JSON, one object a line, or CSV with a header row.

    Tills see all of it or nothing of it. Bad lines are told and left out; the rest goes in. The
    same file again is harmless.

    \b
    Exit status: 0 all went in, 1 some lines did not, or nothing did.
    Example: tillsync-service records import prices.csv --tenant $TENANT --collection price \\
               --integer price_cents
    """
    settings = _settings(tenant, collection, store, complete=complete)
    format_name = format_of(file, format_name)
    with RecordFile(file, format_name, id_field=id_field, integers=integers) as lines:
        async with service.exchange(service.records.ImportRecords) as exchange:
            importing = Importing(exchange)
            await importing.begin(settings)
            async for _ in _taken(importing, lines):
                if importing.bad_lines and (atomic or complete):
                    bad = importing.bad_lines[0]
                    raise RecordFileError(f"{file}:{bad.number}: {bad.why} Nothing was taken in.")
            result = await importing.publish()
    for bad in importing.bad_lines:
        say(f"tillsync-service: {file}:{bad.number}: {bad.why}", err=True)
    if importing.refused:
        say(f"tillsync-service: Lines left out: {importing.refused:,}.", err=True)
    bad_lines = [{"line": bad.number, "why": bad.why} for bad in importing.bad_lines]
    row = {**_result_row(result), "refused": importing.refused}
    show_row({**row, "bad_lines": bad_lines} if as_json else row, as_json=as_json)
    return 1 if importing.refused else 0


async def _taken(importing: Importing, file: RecordFile) -> AsyncIterator[None]:
    """Takes the file's lines, and stops after each and at the end for a look at how it goes."""
    with shown_progress("records", file.size) as progress:
        shown = 0
        for line in file.lines():
            await importing.take(line)
            progress(file.read_bytes - shown)
            shown = file.read_bytes
            yield
        await importing.take_to_the_end()
    if sys.stderr.isatty():
        say("All of it is there; publishing.", err=True)
    yield


@records.command("show")
@click.argument("record_id", metavar="ID")
@of_tenant
@_in_collection
@_in_store("The store's own; without it, the tenant's.")
@as_json_option
@on_service()
async def show_record(
    service: Service,
    *,
    record_id: str,
    tenant: UUID,
    collection: str,
    store: UUID | None,
    as_json: bool,
) -> None:
    """Show the record ID as it is now; without a body, it was deleted.

    \b
    Example: tillsync-service records show 4711 --tenant $TENANT --collection price
    """
    request = pb.GetRecordRequest(
        tenant_id=str(tenant),
        collection=collection,
        store_id=str(store or ""),
        record_id=record_id,
    )
    answer = await service.operate(service.records.GetRecord, request)
    show_row({"record_id": record_id, **row_of(answer)}, as_json=as_json)


@records.command("delete")
@click.argument("record_ids", metavar="ID...", nargs=-1, required=True)
@of_tenant
@_in_collection
@_in_store("The store's own; without it, the tenant's.")
@as_json_option
@on_service()
async def delete_records(
    service: Service,
    *,
    record_ids: tuple[str, ...],
    tenant: UUID,
    collection: str,
    store: UUID | None,
    as_json: bool,
) -> None:
    """Delete the records ID..., all at once. What is gone already stays so.

    \b
    Example: tillsync-service records delete 4711 4712 --tenant $TENANT --collection price
    """
    async with service.exchange(service.records.ImportRecords) as exchange:
        importing = Importing(exchange)
        await importing.begin(_settings(tenant, collection, store, complete=False))
        for number, record_id in enumerate(record_ids, start=1):
            await importing.take(Line(number, record_id, ""))
        await importing.take_to_the_end()
        for bad in importing.bad_lines:
            raise OperatorError(f"ID {bad.number}: {bad.why} Nothing was deleted.")
        result = await importing.publish()
    show_row({"deleted": result.deleted, "version": result.version}, as_json=as_json)


def _settings(
    tenant: UUID, collection: str, store: UUID | None, *, complete: bool
) -> pb.ImportSettings:
    return pb.ImportSettings(
        tenant_id=str(tenant),
        collection=collection,
        store_id=str(store or ""),
        complete=complete,
    )


def _collection_row(collection: Collection) -> Row:
    return {
        "name": collection.name,
        "policy": spelt(Policy.Name(collection.policy)),
        "lookup_keys": list(collection.lookup_keys),
        "load_order": collection.load_order,
    }


def _result_row(result: pb.ImportResult) -> Row:
    return {
        "changed": result.changed,
        "unchanged": result.unchanged,
        "deleted": result.deleted,
        "refused": result.refused,
        "version": result.version,
    }
