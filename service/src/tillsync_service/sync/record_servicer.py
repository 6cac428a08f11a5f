"""RecordService: parse, call, render."""

import asyncio
from collections.abc import AsyncIterator

from grpc.aio import ServicerContext

from tillsync.v1 import record_service_pb2 as pb
from tillsync.v1.record_service_pb2_grpc import RecordServiceServicer
from tillsync_service.foundation import identity, limits
from tillsync_service.sync import imports, record_wire, scopes
from tillsync_service.sync.record_store import OperatorStore
from tillsync_service.sync.store import RecordStore


class RecordServicer(RecordServiceServicer):
    """For operators; each method first asks whether this one may manage the tenant."""

    def __init__(self, store: OperatorStore, records: RecordStore) -> None:
        self._store = store
        self._records = records
        self._publishing = asyncio.Semaphore(limits.MAX_PUBLISHING)

    async def DefineCollection(
        self,
        request: pb.DefineCollectionRequest,
        context: ServicerContext[pb.DefineCollectionRequest, pb.DefineCollectionResponse],
    ) -> pb.DefineCollectionResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        wanted = record_wire.definition(request.collection)
        row = await self._store.define_collection(tenant_id, wanted)
        return pb.DefineCollectionResponse(
            collection=record_wire.collection(row), version=row["version"]
        )

    async def ListCollections(
        self,
        request: pb.ListCollectionsRequest,
        context: ServicerContext[pb.ListCollectionsRequest, pb.ListCollectionsResponse],
    ) -> pb.ListCollectionsResponse:
        rows, digests = await self._store.list_collections(
            identity.managed_tenant(request.tenant_id)
        )
        return pb.ListCollectionsResponse(collections=record_wire.totals(rows, digests))

    async def ImportRecords(
        self,
        request_iterator: AsyncIterator[pb.ImportRecordsRequest],
        context: ServicerContext[pb.ImportRecordsRequest, pb.ImportRecordsResponse],
    ) -> AsyncIterator[pb.ImportRecordsResponse]:
        to = record_wire.destination(await anext(request_iterator, None))
        operator = identity.current_operator()
        operator.must_manage(to.tenant_id)
        await self._store.must_know(to.tenant_id, to.collection, to.scope)
        async with imports.begun(self._records, to) as import_:
            yield record_wire.staged(0, ())
            async for request in request_iterator:
                refused = await import_.take(*record_wire.records(request))
                yield record_wire.staged(import_.staged, refused)
            async with self._publishing:
                published = await import_.publish(operator.label)
            yield record_wire.published(import_.staged, import_.refused, published)

    async def GetRecord(
        self,
        request: pb.GetRecordRequest,
        context: ServicerContext[pb.GetRecordRequest, pb.GetRecordResponse],
    ) -> pb.GetRecordResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        scope = scopes.of_wire("store_id", request.store_id)
        collection = record_wire.collection_name("collection", request.collection)
        record_id = record_wire.record_id("record_id", request.record_id)
        row = await self._store.record(tenant_id, collection, scope, record_id)
        answer = pb.GetRecordResponse(body=row["body"], version=row["version"])
        answer.changed_at.FromDatetime(row["changed_at"])
        return answer

    async def ListConflicts(
        self,
        request: pb.ListConflictsRequest,
        context: ServicerContext[pb.ListConflictsRequest, pb.ListConflictsResponse],
    ) -> pb.ListConflictsResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        size = record_wire.page_size(request.page_size)
        rows = await self._store.list_conflicts(
            tenant_id, after=request.after, limit=size + 1, open_only=request.open_only
        )
        return pb.ListConflictsResponse(
            conflicts=map(record_wire.conflict, rows[:size]), more=len(rows) > size
        )

    async def GetConflict(
        self,
        request: pb.GetConflictRequest,
        context: ServicerContext[pb.GetConflictRequest, pb.GetConflictResponse],
    ) -> pb.GetConflictResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        row, present = await self._store.conflict(tenant_id, request.conflict_id)
        return pb.GetConflictResponse(
            conflict=record_wire.conflict(row),
            present_body=present["body"] if present else "",
            present_version=present["version"] if present else 0,
        )

    async def ResolveConflict(
        self,
        request: pb.ResolveConflictRequest,
        context: ServicerContext[pb.ResolveConflictRequest, pb.ResolveConflictResponse],
    ) -> pb.ResolveConflictResponse:
        tenant_id = identity.managed_tenant(request.tenant_id)
        choice = record_wire.choice(request.choice)
        actor = identity.current_operator().label
        row = await self._store.resolve(tenant_id, request.conflict_id, choice, actor)
        return pb.ResolveConflictResponse(conflict=record_wire.conflict(row))
