"""Where devices, their secrets and the codes they join with are kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID, uuid4

import structlog

from tillsync_service.fleet import enrolment, refusals
from tillsync_service.fleet.rotation import RETIRED_SECRET_DAYS, Secrets, State, present
from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Database, Transaction, statements
from tillsync_service.foundation.identity import Device

log = structlog.get_logger(__name__)

_SQL = statements("tillsync_service.fleet")

_STANDING_SECONDS = 2.0 * limits.ACCESS_TOKEN_SECONDS


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A device's new identity."""

    tenant_id: UUID
    store_id: UUID
    store_name: str
    device_id: UUID


class FleetStore:
    """Takes secrets and codes as hashes only."""

    def __init__(self, database: Database, *, new_id: Callable[[], UUID] = uuid4) -> None:
        self._database = database
        self._new_id = new_id

    async def enrol(self, code_hash: bytes, secret_hash: bytes, name: str) -> Enrolled:
        """Trades the code for a device with this first secret, committed when it returns. The same
        code and secret again give the same device.

        Raises NotFound (CODE_UNKNOWN), StateForbids (CODE_EXPIRED, CODE_USED), InvalidRequest when
        another device has the secret, Unavailable."""
        tenant_id = await self._find_code(code_hash)
        async with self._database.transaction(tenant_id) as transaction:
            row = await transaction.fetch_one(_SQL["lock_code"], tenant_id, code_hash)
            if row is None:
                raise refusals.code_unknown()
            code = enrolment.Code(**row)
            # Asked under the lock: a repeat must see what the call before it has written.
            owner = await transaction.fetch_one(_SQL["find_secrets"], secret_hash, None)
            owner_id = owner["device_id"] if owner else None
            device_id = enrolment.returning_device(code, owner_of_secret=owner_id)
            if device_id is None:
                device_id = self._new_id()
                await transaction.execute(
                    _SQL["enrol_device"],
                    tenant_id,
                    code_hash,
                    device_id,
                    code.store_id,
                    name,
                    secret_hash,
                )
        return Enrolled(tenant_id, code.store_id, code.store_name, device_id)

    async def present_secret(self, secret_hash: bytes, proposal_hash: bytes | None) -> Device:
        """The device whose secret this is, after the proposal (None: none) was dealt with as
        `rotation` says, committed when it returns. A repeat changes nothing.

        Raises Unauthenticated (SECRET_UNKNOWN), PermissionDenied (DEVICE_REVOKED), InvalidRequest
        when another device has the proposed secret, Unavailable."""
        tenant_id, device_id = await self._find_secret(secret_hash, proposal_hash)
        async with self._database.transaction(tenant_id) as transaction:
            row = await transaction.fetch_one(_SQL["lock_device"], tenant_id, device_id)
            if row is None:
                raise refusals.secret_unknown()
            if row["is_revoked"]:
                raise refusals.device_revoked()
            account = _Account(transaction, tenant_id, device_id)
            alarm = await account.present(secret_hash, proposal_hash)
        if alarm and not row["is_suspect"]:
            log.warning("device_suspect", tenant_id=str(tenant_id), device_id=str(device_id))
        return Device(tenant_id, row["store_id"], device_id, suspect=alarm or row["is_suspect"])

    async def out_of_standing(self) -> Mapping[UUID, bool]:
        """The devices that are suspect or were lately revoked, of every tenant; True: revoked."""
        async with self._database.transaction(None) as transaction:
            rows = await transaction.fetch(_SQL["out_of_standing"], _STANDING_SECONDS)
        return {row["device_id"]: row["revoked"] for row in rows}

    async def _find_code(self, code_hash: bytes) -> UUID:
        """The code's tenant."""
        async with self._database.transaction(None) as transaction:
            row = await transaction.fetch_one(_SQL["find_code"], code_hash)
        if row is None or row["tenant_id"] is None:
            raise refusals.code_unknown()
        tenant_id: UUID = row["tenant_id"]
        return tenant_id

    async def _find_secret(
        self, secret_hash: bytes, proposal_hash: bytes | None
    ) -> tuple[UUID, UUID]:
        async with self._database.transaction(None) as transaction:
            row = await transaction.fetch_one(_SQL["find_secrets"], secret_hash, proposal_hash)
        if row is None or row["device_id"] is None:
            raise refusals.secret_unknown()
        if row["proposal_device_id"] not in (None, row["device_id"]):
            raise refusals.secret_taken("next_refresh_secret_hash")
        return row["tenant_id"], row["device_id"]


class _Account:
    """The secrets of one device, whose row this transaction has locked."""

    def __init__(self, transaction: Transaction, tenant_id: UUID, device_id: UUID) -> None:
        self._transaction = transaction
        self._device = (tenant_id, device_id)

    async def present(self, presented: bytes, proposal: bytes | None) -> bool:
        """Whether there is an alarm, which is written down then, as are the secrets' states."""
        before = await self._read(presented, proposal)
        if presented not in before.states():
            # It was written over since it was found.
            raise refusals.secret_unknown()
        after, alarm = present(before, presented, proposal)
        await self._write(before.states(), after.states(), presented)
        if alarm:
            await self._transaction.execute(_SQL["suspect_device"], *self._device)
        return alarm

    async def _read(self, presented: bytes, proposal: bytes | None) -> Secrets:
        asked = [presented] if proposal is None else [presented, proposal]
        rows = await self._transaction.fetch(_SQL["secrets_of_device"], *self._device, asked)
        states = {row["secret_hash"]: State(row["state"]) for row in rows}
        live = {state: secret for secret, state in states.items()}
        return Secrets(
            current=live.get(State.CURRENT),
            proposed=live.get(State.PROPOSED),
            retired=frozenset(s for s, state in states.items() if state is State.RETIRED),
        )

    async def _write(
        self, before: dict[bytes, State], after: dict[bytes, State], presented: bytes
    ) -> None:
        for secret, state in after.items():
            if before.get(secret) is state:
                continue
            if secret not in before and await self._write_over(secret, state, presented):
                continue
            await self._transaction.execute(_SQL["put_secret"], *self._device, secret, state)

    async def _write_over(self, secret: bytes, state: State, presented: bytes) -> bool:
        status = await self._transaction.execute(
            _SQL["write_over_retired"],
            *self._device,
            secret,
            state,
            RETIRED_SECRET_DAYS,
            presented,
        )
        return status != "UPDATE 0"
