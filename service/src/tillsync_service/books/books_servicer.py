"""BooksService: parse, call, render."""

from grpc.aio import ServicerContext

from tillsync.v1 import books_service_pb2 as pb
from tillsync.v1.books_service_pb2_grpc import BooksServiceServicer
from tillsync_service.books import books_wire
from tillsync_service.books.books_store import BooksStore
from tillsync_service.foundation import fields, identity, limits, pages


class BooksServicer(BooksServiceServicer):
    """For operators; each method first asks whether this one may manage the tenant."""

    def __init__(self, store: BooksStore) -> None:
        self._store = store

    async def ListMissing(
        self,
        request: pb.ListMissingRequest,
        context: ServicerContext[pb.ListMissingRequest, pb.ListMissingResponse],
    ) -> pb.ListMissingResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        store_id = fields.uuid("store_id", request.store_id) if request.store_id else None
        since = books_wire.day("since", request.since) if request.since else None
        asked = pages.asked(request.page_size, request.page_token)
        listed = await self._store.list_missing(tenant_id, store_id, since, asked)
        return books_wire.list_missing_response(listed)

    async def ListDay(
        self,
        request: pb.ListDayRequest,
        context: ServicerContext[pb.ListDayRequest, pb.ListDayResponse],
    ) -> pb.ListDayResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        store_id = fields.uuid("store_id", request.store_id)
        day = books_wire.day("business_day", request.business_day)
        standings = await self._store.list_day(tenant_id, store_id, day)
        return pb.ListDayResponse(devices=map(books_wire.device_day, standings))

    async def Waive(
        self,
        request: pb.WaiveRequest,
        context: ServicerContext[pb.WaiveRequest, pb.WaiveResponse],
    ) -> pb.WaiveResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        device_id = fields.uuid("device_id", request.device_id)
        what = books_wire.waived(request)
        reason = fields.text("reason", request.reason, limits.MAX_REASON_CHARACTERS)
        actor = identity.current_operator().label
        row = await self._store.waive(tenant_id, device_id, what, reason, actor)
        return pb.WaiveResponse(waiver=books_wire.waiver(row))

    async def DeclareRestored(
        self,
        request: pb.DeclareRestoredRequest,
        context: ServicerContext[pb.DeclareRestoredRequest, pb.DeclareRestoredResponse],
    ) -> pb.DeclareRestoredResponse:
        operator = identity.current_operator()
        operator.must_manage(None)
        reason = fields.text("reason", request.reason, limits.MAX_REASON_CHARACTERS)
        tenants = await self._store.declare_restored(reason, operator.label)
        return pb.DeclareRestoredResponse(tenants=tenants)
