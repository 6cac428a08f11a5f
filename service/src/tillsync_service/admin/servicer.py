"""AdminService: parse, call, render."""

from collections.abc import Callable

from grpc.aio import ServicerContext

from tillsync.v1 import admin_service_pb2 as pb
from tillsync.v1.admin_service_pb2_grpc import AdminServiceServicer
from tillsync.v1.event_pb2 import Event
from tillsync_service.admin import wire
from tillsync_service.admin.store import AdminStore
from tillsync_service.foundation import fields, identity, limits, pages
from tillsync_service.foundation.codes import code_hash, new_code


class AdminServicer(AdminServiceServicer):
    """For operators; each method first asks whether this one may manage the tenant."""

    def __init__(self, store: AdminStore, *, mint_code: Callable[[], str] = new_code) -> None:
        self._store = store
        self._mint_code = mint_code

    async def CreateTenant(
        self,
        request: pb.CreateTenantRequest,
        context: ServicerContext[pb.CreateTenantRequest, pb.CreateTenantResponse],
    ) -> pb.CreateTenantResponse:
        identity.current_operator().must_manage(None)
        name = fields.text("name", request.name, limits.MAX_NAME_CHARACTERS)
        chosen_id = fields.uuid("tenant_id", request.tenant_id) if request.tenant_id else None
        row = await self._store.create_tenant(chosen_id, name, disposable=request.disposable)
        return pb.CreateTenantResponse(tenant=wire.tenant(row))

    async def ListTenants(
        self,
        request: pb.ListTenantsRequest,
        context: ServicerContext[pb.ListTenantsRequest, pb.ListTenantsResponse],
    ) -> pb.ListTenantsResponse:
        identity.current_operator().must_manage(None)
        asked = pages.asked(request.page_size, request.page_token)
        page = await self._store.list_tenants(asked)
        return pb.ListTenantsResponse(
            tenants=map(wire.tenant, page.rows), next_page_token=page.next_token
        )

    async def DeleteTenant(
        self,
        request: pb.DeleteTenantRequest,
        context: ServicerContext[pb.DeleteTenantRequest, pb.DeleteTenantResponse],
    ) -> pb.DeleteTenantResponse:
        removed = await self._store.delete_tenant(identity.managed_tenant(request.tenant_id))
        return pb.DeleteTenantResponse(events_removed=removed)

    async def CreateStore(
        self,
        request: pb.CreateStoreRequest,
        context: ServicerContext[pb.CreateStoreRequest, pb.CreateStoreResponse],
    ) -> pb.CreateStoreResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        code = fields.text("code", request.code, limits.MAX_STORE_CODE_CHARACTERS)
        name = fields.text("name", request.name, limits.MAX_NAME_CHARACTERS)
        row = await self._store.create_store(tenant_id, code, name)
        return pb.CreateStoreResponse(store=wire.store(row))

    async def ListStores(
        self,
        request: pb.ListStoresRequest,
        context: ServicerContext[pb.ListStoresRequest, pb.ListStoresResponse],
    ) -> pb.ListStoresResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        asked = pages.asked(request.page_size, request.page_token)
        page = await self._store.list_stores(tenant_id, asked)
        return pb.ListStoresResponse(
            stores=map(wire.store, page.rows), next_page_token=page.next_token
        )

    async def CreateEnrolmentCode(
        self,
        request: pb.CreateEnrolmentCodeRequest,
        context: ServicerContext[pb.CreateEnrolmentCodeRequest, pb.CreateEnrolmentCodeResponse],
    ) -> pb.CreateEnrolmentCodeResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        store_id = fields.uuid("store_id", request.store_id)
        valid_for = request.valid_for if request.HasField("valid_for") else None
        seconds = wire.code_valid_seconds(valid_for)
        code = self._mint_code()
        row = await self._store.create_code(tenant_id, store_id, code_hash(code), seconds)
        return pb.CreateEnrolmentCodeResponse(
            code=code, expires_at=wire.timestamp(row["expires_at"])
        )

    async def ListDevices(
        self,
        request: pb.ListDevicesRequest,
        context: ServicerContext[pb.ListDevicesRequest, pb.ListDevicesResponse],
    ) -> pb.ListDevicesResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        store_id = fields.uuid("store_id", request.store_id) if request.store_id else None
        asked = pages.asked(request.page_size, request.page_token)
        page = await self._store.list_devices(tenant_id, store_id, asked)
        return pb.ListDevicesResponse(
            devices=map(wire.device, page.rows), next_page_token=page.next_token
        )

    async def RevokeDevice(
        self,
        request: pb.RevokeDeviceRequest,
        context: ServicerContext[pb.RevokeDeviceRequest, pb.RevokeDeviceResponse],
    ) -> pb.RevokeDeviceResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        device_id = fields.uuid("device_id", request.device_id)
        row = await self._store.revoke_device(tenant_id, device_id)
        return pb.RevokeDeviceResponse(device=wire.device(row))

    async def ClearSuspicion(
        self,
        request: pb.ClearSuspicionRequest,
        context: ServicerContext[pb.ClearSuspicionRequest, pb.ClearSuspicionResponse],
    ) -> pb.ClearSuspicionResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        device_id = fields.uuid("device_id", request.device_id)
        row = await self._store.clear_suspicion(tenant_id, device_id)
        return pb.ClearSuspicionResponse(device=wire.device(row))

    async def MoveDevice(
        self,
        request: pb.MoveDeviceRequest,
        context: ServicerContext[pb.MoveDeviceRequest, pb.MoveDeviceResponse],
    ) -> pb.MoveDeviceResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        device_id = fields.uuid("device_id", request.device_id)
        store_id = fields.uuid("store_id", request.store_id)
        row = await self._store.move_device(tenant_id, device_id, store_id)
        return pb.MoveDeviceResponse(device=wire.device(row))

    async def ListQuarantine(
        self,
        request: pb.ListQuarantineRequest,
        context: ServicerContext[pb.ListQuarantineRequest, pb.ListQuarantineResponse],
    ) -> pb.ListQuarantineResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        store_id = fields.uuid("store_id", request.store_id) if request.store_id else None
        size = pages.asked(request.page_size, "").size
        after = wire.after_quarantined(request.page_token)
        rows = await self._store.list_quarantine(tenant_id, store_id, after, size + 1)
        return pb.ListQuarantineResponse(
            quarantined=map(wire.quarantined, rows[:size]),
            next_page_token=wire.quarantine_token(rows, size),
        )

    async def GetQuarantined(
        self,
        request: pb.GetQuarantinedRequest,
        context: ServicerContext[pb.GetQuarantinedRequest, pb.GetQuarantinedResponse],
    ) -> pb.GetQuarantinedResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        key = fields.text("key", request.key, limits.MAX_KEY_CHARACTERS)
        row, held = await self._store.quarantined(tenant_id, key, wire.digest(request.digest))
        return pb.GetQuarantinedResponse(
            quarantined=wire.quarantined(row),
            event=Event.FromString(row["envelope"]),
            held=wire.held_event(held) if held else None,
        )
