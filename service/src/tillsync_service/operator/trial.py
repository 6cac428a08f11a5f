"""A tenant to try a running service with: its own, disposable, and gone again afterwards."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from uuid import uuid4

import grpc

from tillsync.v1 import admin_service_pb2 as admin_pb
from tillsync.v1 import device_service_pb2 as device_pb
from tillsync.v1 import event_pb2, ingest_service_pb2, retail_pb2
from tillsync_service.operator.client import CALL_SECONDS, CallFailed, OperatorError, Service
from tillsync_service.operator.running import to_the_end

REMOVE_WITHIN_SECONDS = 30.0
REMOVE_AGAIN_AFTER_SECONDS = 0.5
# A token is renewed when a fifth of its life is left.
_RENEW_AT = 0.8
_LINES = 8


class LeftBehind(OperatorError):
    """The tenant could not be removed; the line says how to, later."""


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    renew_at: float  # on the monotonic clock


class Trial:
    """A disposable tenant, its one store and its one till. Each step needs the one before."""

    def __init__(self, service: Service, name: str) -> None:
        self._service = service
        self._name = name
        self._refresh_secret = secrets.token_bytes(32)
        self._token: _Token | None = None
        self._renewing = asyncio.Lock()
        # Chosen here, so that it can be removed even when the answer is lost.
        self.tenant_id = str(uuid4())
        self.may_exist = False

    async def make_tenant(self) -> None:
        """The tenant. Raises OperatorError."""
        self._service.must_have_token()
        request = admin_pb.CreateTenantRequest(
            name=self._name, tenant_id=self.tenant_id, disposable=True
        )
        self.may_exist = True
        try:
            # Not cut off half-way: what is removed must not be made after that.
            await to_the_end(self._service.operate(self._service.admin.CreateTenant, request))
        except CallFailed as error:
            self.may_exist = error.may_have_happened
            raise

    async def make_code(self) -> str:
        """A store, and a code for its till. Raises OperatorError."""
        admin = self._service.admin
        made = await self._service.operate(
            admin.CreateStore,
            admin_pb.CreateStoreRequest(tenant_id=self.tenant_id, code="1", name=self._name),
        )
        answer = await self._service.operate(
            admin.CreateEnrolmentCode,
            admin_pb.CreateEnrolmentCodeRequest(
                tenant_id=self.tenant_id, store_id=made.store.store_id
            ),
        )
        return answer.code

    async def enrol(self, code: str) -> str:
        """Enrols the till; its device id. Raises OperatorError."""
        request = device_pb.EnrollRequest(
            code=code,
            refresh_secret_hash=hashlib.sha256(self._refresh_secret).digest(),
            device_name=self._name,
        )
        answer = await self._service.call(self._service.device.Enroll, request)
        return answer.device_id

    async def token(self) -> str:
        """A token of the till's that is good for a while yet. Raises OperatorError."""
        async with self._renewing:
            if self._token is None or monotonic() >= self._token.renew_at:
                self._token = await self._issue()
            return self._token.value

    async def _issue(self) -> _Token:
        asked_at = monotonic()
        request = device_pb.IssueTokenRequest(refresh_secret=self._refresh_secret)
        answer = await self._service.call(self._service.device.IssueToken, request)
        life_seconds = answer.expires_in.ToTimedelta().total_seconds()
        return _Token(answer.access_token, asked_at + _RENEW_AT * life_seconds)

    async def ingest(
        self, event: event_pb2.Event, *, timeout_seconds: float = CALL_SECONDS
    ) -> event_pb2.Verdict:
        """The verdict on one event in a call of its own. Raises OperatorError."""
        answer = await self._service.call(
            self._service.ingest.Ingest,
            ingest_service_pb2.IngestRequest(events=[event]),
            token=await self.token(),
            timeout_seconds=timeout_seconds,
        )
        if len(answer.verdicts) != 1:
            raise OperatorError(f"One event was sent, and {len(answer.verdicts)} verdicts came.")
        return answer.verdicts[0]

    async def remove(self) -> None:
        """Removes the tenant with everything in it; asks again for a while if the service is away.
        A cancellation waits for it. Raises LeftBehind."""
        if self.may_exist:
            await to_the_end(self._remove())

    async def _remove(self) -> None:
        give_up_at = monotonic() + REMOVE_WITHIN_SECONDS
        request = admin_pb.DeleteTenantRequest(tenant_id=self.tenant_id)
        while True:
            try:
                await self._service.operate(self._service.admin.DeleteTenant, request)
            except CallFailed as error:
                if error.code is grpc.StatusCode.NOT_FOUND:
                    break
                if monotonic() >= give_up_at or not error.may_have_happened:
                    raise LeftBehind(
                        f"The trial's tenant is left behind; when the service is well again: "
                        f"tillsync-service tenants delete {self.tenant_id} ({error})"
                    ) from None
            else:
                break
            await asyncio.sleep(REMOVE_AGAIN_AFTER_SECONDS)
        self.may_exist = False


@asynccontextmanager
async def enrolled_trial(service: Service, name: str) -> AsyncIterator[Trial]:
    """A trial whose till is ready to sell, removed at the end however that comes. Raises
    OperatorError, LeftBehind."""
    await service.must_serve()
    trial = Trial(service, name)
    try:
        await trial.make_tenant()
        await trial.enrol(await trial.make_code())
        await trial.token()
        yield trial
    finally:
        await trial.remove()


def a_sale(key: str, number: int, *, receipt: str) -> event_pb2.Event:
    """A sale of some 400 bytes, number `number` of its till; `receipt` decides its body."""
    sale = retail_pb2.Sale(receipt_number=receipt, currency="USD", total_minor=_LINES * 1250)
    for line in range(_LINES):
        sale.lines.add(
            product_id=f"product-{line:08}",
            quantity=retail_pb2.Decimal(unscaled=1),
            unit_price_minor=1250,
            total_minor=1250,
        )
    now = datetime.now(UTC)
    event = event_pb2.Event(
        key=key,
        business_day=now.date().isoformat(),
        outbox_epoch=1,
        device_sequence=number,
    )
    event.occurred_at.FromDatetime(now)
    event.body.Pack(sale)
    event.amounts.add(currency="USD", minor_units=sale.total_minor)
    return event
