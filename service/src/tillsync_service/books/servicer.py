"""ReconcileService: parse, call, render."""

from collections.abc import Callable
from datetime import datetime

from grpc.aio import ServicerContext

from tillsync.v1 import reconcile_service_pb2 as reconcile_pb
from tillsync.v1.reconcile_service_pb2_grpc import ReconcileServiceServicer
from tillsync_service.books import wire
from tillsync_service.books.claims import claims_of
from tillsync_service.books.store import ReconcileStore
from tillsync_service.foundation import identity


class ReconcileServicer(ReconcileServiceServicer):
    """For devices. `clock` gives the service's time, aware, in UTC."""

    def __init__(self, store: ReconcileStore, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    async def Reconcile(
        self,
        request: reconcile_pb.ReconcileRequest,
        context: ServicerContext[reconcile_pb.ReconcileRequest, reconcile_pb.ReconcileResponse],
    ) -> reconcile_pb.ReconcileResponse:
        device = identity.current_device()
        claims = claims_of(request)
        reconciled = await self._store.reconcile(device, claims)
        return wire.reconcile_response(claims, reconciled, self._clock())
