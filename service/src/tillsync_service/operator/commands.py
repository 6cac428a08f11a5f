"""What an operator keeps in order, from anywhere: tenants, stores, codes, devices."""

import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click
import grpc
from google.protobuf.duration_pb2 import Duration

from tillsync.v1 import admin_service_pb2 as pb
from tillsync_service.foundation import limits
from tillsync_service.operator.client import CallFailed, OperatorError, Service
from tillsync_service.operator.options import as_json_option, of_tenant
from tillsync_service.operator.output import Row, columns_of, row_of, say, show_row, show_rows
from tillsync_service.operator.running import on_service

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_MAX_CODE_HOURS = limits.MAX_CODE_VALID_SECONDS / 3600

_device_argument = click.argument("device", type=click.UUID)


def _quiet(what: str) -> Callable[[Decorated], Decorated]:
    return click.option("-q", "--quiet", is_flag=True, help=f"Print only the {what}.")


@click.group()
def tenants() -> None:
    """Retailers.

    \b
    Example: tillsync-service tenants list
    """


@tenants.command("create")
@click.argument("name")
@click.option("--disposable", is_flag=True, help="It can be deleted, with everything in it.")
@_quiet("id")
@as_json_option
@on_service()
async def create_tenant(
    service: Service, *, name: str, disposable: bool, quiet: bool, as_json: bool
) -> None:
    """Make a tenant called NAME.

    \b
    Example: TENANT=$(tillsync-service tenants create --quiet "My shops")
    """
    tenant = await _make_tenant(service, name, disposable=disposable)
    _show_made(row_of(tenant), tenant.tenant_id, quiet=quiet, as_json=as_json)


@tenants.command("list")
@as_json_option
@on_service()
async def list_tenants(service: Service, *, as_json: bool) -> None:
    """List all tenants, by id. Into a pipe: lines of tab-separated values.

    \b
    Example: tillsync-service tenants list --json
    """
    rows = [
        row_of(tenant)
        async for page in _pages(service, service.admin.ListTenants, pb.ListTenantsRequest())
        for tenant in page.tenants
    ]
    show_rows(columns_of(pb.Tenant), rows, as_json=as_json)


@tenants.command("delete")
@click.argument("tenant", type=click.UUID)
@as_json_option
@on_service()
async def delete_tenant(service: Service, *, tenant: UUID, as_json: bool) -> None:
    """Remove the disposable TENANT (its id) with everything in it. Any other is refused.

    \b
    Example: tillsync-service tenants delete 018f2a5e-7c3b-7d10-8a4e-3b1c9d2e5f60
    """
    request = pb.DeleteTenantRequest(tenant_id=str(tenant))
    answer = await service.operate(service.admin.DeleteTenant, request)
    row = {"tenant_id": str(tenant), "events_removed": answer.events_removed}
    show_row(row, as_json=as_json)


@click.group()
def stores() -> None:
    """A tenant's shops.

    \b
    Example: tillsync-service stores list --tenant 018f2a5e-7c3b-7d10-8a4e-3b1c9d2e5f60
    """


@stores.command("create")
@click.argument("name")
@of_tenant
@click.option("--code", required=True, help="Your own short code for it, unique in the tenant.")
@_quiet("id")
@as_json_option
@on_service()
async def create_store(
    service: Service, *, name: str, tenant: UUID, code: str, quiet: bool, as_json: bool
) -> None:
    """Make a store called NAME.

    \b
    Example: STORE=$(tillsync-service stores create -q --tenant $TENANT --code 1 "Main street")
    """
    store = await _make_store(service, str(tenant), code, name)
    _show_made(row_of(store), store.store_id, quiet=quiet, as_json=as_json)


@stores.command("list")
@of_tenant
@as_json_option
@on_service()
async def list_stores(service: Service, *, tenant: UUID, as_json: bool) -> None:
    """List a tenant's stores, by id. Into a pipe: lines of tab-separated values.

    \b
    Example: tillsync-service stores list --tenant $TENANT
    """
    request = pb.ListStoresRequest(tenant_id=str(tenant))
    rows = [
        row_of(store)
        async for page in _pages(service, service.admin.ListStores, request)
        for store in page.stores
    ]
    show_rows(columns_of(pb.Store), rows, as_json=as_json)


@click.command("enrolment-code")
@click.option("--tenant", type=click.UUID, help="Whose store it is.")
@click.option("--store", type=click.UUID, help="The store that the till joins.")
@click.option(
    "--new-store",
    metavar="NAME",
    help="Make this store first, and without --tenant a tenant for it, too.",
)
@click.option("--store-code", default="1", show_default=True, help="The new store's short code.")
@click.option(
    "--hours",
    type=click.FloatRange(0, _MAX_CODE_HOURS, min_open=True),
    default=24.0,
    show_default=True,
    help="How long the code is good.",
)
@_quiet("code")
@as_json_option
@on_service()
async def enrolment_code(
    service: Service,
    *,
    tenant: UUID | None,
    store: UUID | None,
    new_store: str | None,
    store_code: str,
    hours: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make a code with which one till joins a store, once. It is shown here only.

    \b
    Example, a first try: tillsync-service enrolment-code --new-store "Main street"
    Example, for a script: CODE=$(tillsync-service enrolment-code -q --tenant $T --store $S)
    """
    if (store is None) == (new_store is None):
        raise click.UsageError("Give one of --store ID and --new-store NAME.")
    if new_store is not None:
        tenant_id, store_id = await _make_place(service, tenant, new_store, store_code)
    elif tenant is not None:
        tenant_id, store_id = str(tenant), str(store)
    else:
        raise click.UsageError("--store needs --tenant.")
    row = await _make_code(service, tenant_id, store_id, hours)
    _show_made(row, str(row["code"]), quiet=quiet, as_json=as_json)
    if sys.stdout.isatty() and not quiet and not as_json:
        say(_ON_THE_TILL.format(agent=_agent(), address=service.address, code=row["code"]))


_ON_THE_TILL = """On the till:
  {agent} enroll --service {address} --code {code} --name "till 1"
  {agent} run"""


def _agent() -> str:
    """How the agent is called: by its name, unless only the one beside this program is here."""
    beside = Path(sys.argv[0]).with_name("tillsync-agent")
    return str(beside) if beside.exists() and not shutil.which(beside.name) else beside.name


@click.group()
def devices() -> None:
    """Tills, kiosks and back-office computers.

    \b
    Example: tillsync-service devices list --tenant 018f2a5e-7c3b-7d10-8a4e-3b1c9d2e5f60
    """


@devices.command("list")
@of_tenant
@click.option("--store", type=click.UUID, help="Only this store's.")
@as_json_option
@on_service()
async def list_devices(
    service: Service, *, tenant: UUID, store: UUID | None, as_json: bool
) -> None:
    """List a tenant's devices, by id. Into a pipe: lines of tab-separated values.

    \b
    Example: tillsync-service devices list --tenant $TENANT --store $STORE
    """
    request = pb.ListDevicesRequest(tenant_id=str(tenant), store_id=str(store or ""))
    rows = [
        row_of(device)
        async for page in _pages(service, service.admin.ListDevices, request)
        for device in page.devices
    ]
    show_rows(columns_of(pb.Device), rows, as_json=as_json)


@devices.command("move")
@_device_argument
@of_tenant
@click.option("--store", type=click.UUID, required=True, help="Where it stands from now on.")
@as_json_option
@on_service()
async def move_device(
    service: Service, *, device: UUID, tenant: UUID, store: UUID, as_json: bool
) -> None:
    """Put DEVICE (its id) into another store: its prices follow at once, its sales within minutes.

    \b
    Example: tillsync-service devices move --tenant $TENANT --store $STORE $DEVICE
    """
    request = pb.MoveDeviceRequest(
        tenant_id=str(tenant), device_id=str(device), store_id=str(store)
    )
    answer = await service.operate(service.admin.MoveDevice, request)
    show_row(row_of(answer.device), as_json=as_json)


@devices.command("revoke")
@_device_argument
@of_tenant
@as_json_option
@on_service()
async def revoke_device(service: Service, *, device: UUID, tenant: UUID, as_json: bool) -> None:
    """End the access of DEVICE (its id), as of one stolen; what it sent stays. To undo it, enrol
    it again.

    \b
    Example: tillsync-service devices revoke --tenant $TENANT $DEVICE
    """
    request = pb.RevokeDeviceRequest(tenant_id=str(tenant), device_id=str(device))
    answer = await service.operate(service.admin.RevokeDevice, request)
    show_row(row_of(answer.device), as_json=as_json)


@devices.command("clear-suspicion")
@_device_argument
@of_tenant
@as_json_option
@on_service()
async def clear_suspicion(service: Service, *, device: UUID, tenant: UUID, as_json: bool) -> None:
    """Say that the secret of DEVICE (its id) is in one hand again.

    \b
    Example: tillsync-service devices clear-suspicion --tenant $TENANT $DEVICE
    """
    request = pb.ClearSuspicionRequest(tenant_id=str(tenant), device_id=str(device))
    answer = await service.operate(service.admin.ClearSuspicion, request)
    show_row(row_of(answer.device), as_json=as_json)


def _show_made(row: Row, identifier: str, *, quiet: bool, as_json: bool) -> None:
    if quiet:
        click.echo(identifier)
    else:
        show_row(row, as_json=as_json)


async def _pages(service: Service, method: Any, request: Any) -> AsyncIterator[Any]:
    request.page_size = limits.MAX_PAGE_SIZE
    while True:
        page = await service.operate(method, request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


async def _make_place(
    service: Service, tenant: UUID | None, name: str, store_code: str
) -> tuple[str, str]:
    """A new store, in a new tenant of the same name where none is given: their ids."""
    if tenant is not None:
        try:
            store = await _make_store(service, str(tenant), store_code, name)
        except CallFailed as error:
            if error.code is not grpc.StatusCode.ALREADY_EXISTS:
                raise
            raise OperatorError(f"{error} Give the new one another: --store-code.") from None
        return str(tenant), store.store_id
    made = (await _make_tenant(service, name, disposable=False)).tenant_id
    try:
        return made, (await _make_store(service, made, store_code, name)).store_id
    except OperatorError as error:
        raise OperatorError(f"{error} A tenant was made: go on with --tenant {made}.") from None


async def _make_tenant(service: Service, name: str, *, disposable: bool) -> pb.Tenant:
    request = pb.CreateTenantRequest(name=name, disposable=disposable)
    return (await service.operate(service.admin.CreateTenant, request)).tenant


async def _make_store(service: Service, tenant_id: str, code: str, name: str) -> pb.Store:
    request = pb.CreateStoreRequest(tenant_id=tenant_id, code=code, name=name)
    return (await service.operate(service.admin.CreateStore, request)).store


async def _make_code(service: Service, tenant_id: str, store_id: str, hours: float) -> Row:
    valid_for = Duration()
    valid_for.FromMilliseconds(round(hours * 3_600_000))
    request = pb.CreateEnrolmentCodeRequest(
        tenant_id=tenant_id, store_id=store_id, valid_for=valid_for
    )
    answer = await service.operate(service.admin.CreateEnrolmentCode, request)
    return {"tenant_id": tenant_id, "store_id": store_id, **row_of(answer)}
