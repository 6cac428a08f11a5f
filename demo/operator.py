"""What an operator does before the tills open, through AdminService."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc

from tillsync.v1 import admin_service_pb2 as pb
from tillsync.v1 import books_service_pb2 as books_pb
from tillsync.v1.admin_service_pb2_grpc import AdminServiceStub
from tillsync.v1.books_service_pb2_grpc import BooksServiceStub

CALL_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Chain:
    """A retailer with stores. `codes`: by store, an enrolment code for each till."""

    tenant_id: str
    codes: Mapping[str, Sequence[str]]


class Operator:
    """At the service's address, with a token of `tillsync-service operator-token`. Blocks."""

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._metadata = (("authorization", f"Bearer {token}"),)

    def open_chain(self, stores: Sequence[str], tills_per_store: int) -> Chain:
        """A tenant, its stores (named as in the data), and a one-time code for each till."""
        with grpc.insecure_channel(self._address) as channel:
            self._stub = AdminServiceStub(channel)
            tenant_id = self._create_tenant("Demo grocers")
            return Chain(
                tenant_id,
                {name: self._open_store(tenant_id, name, tills_per_store) for name in stores},
            )

    def missing(self, tenant_id: str) -> int:
        """How many sales are missing from the chain's tills, by what they said of themselves."""
        with grpc.insecure_channel(self._address) as channel:
            asked = books_pb.ListMissingRequest(tenant_id=tenant_id)
            answer = BooksServiceStub(channel).ListMissing(
                asked, metadata=self._metadata, timeout=CALL_SECONDS
            )
        return sum(device.missing_events for device in answer.devices)

    def _create_tenant(self, name: str) -> str:
        asked = pb.CreateTenantRequest(name=name)
        answer = self._stub.CreateTenant(asked, metadata=self._metadata, timeout=CALL_SECONDS)
        return answer.tenant.tenant_id

    def _open_store(self, tenant_id: str, name: str, tills: int) -> list[str]:
        asked = pb.CreateStoreRequest(tenant_id=tenant_id, code=name, name=f"Store {name}")
        answer = self._stub.CreateStore(asked, metadata=self._metadata, timeout=CALL_SECONDS)
        store_id = answer.store.store_id
        return [self._enrolment_code(tenant_id, store_id) for _ in range(tills)]

    def _enrolment_code(self, tenant_id: str, store_id: str) -> str:
        asked = pb.CreateEnrolmentCodeRequest(tenant_id=tenant_id, store_id=store_id)
        return self._stub.CreateEnrolmentCode(
            asked, metadata=self._metadata, timeout=CALL_SECONDS
        ).code
