"""Who is calling: set once per request by the doorkeeper, read by whoever needs it."""

from contextvars import ContextVar
from dataclasses import dataclass
from uuid import UUID

from tillsync_service.foundation import fields
from tillsync_service.foundation.db import FastUUID
from tillsync_service.foundation.errors import PermissionDenied


@dataclass(frozen=True, slots=True)
class Device:
    """A store device. `suspect`: its secret is in two hands, so only sales are taken."""

    tenant_id: UUID
    store_id: UUID
    device_id: UUID
    suspect: bool = False

    def __post_init__(self) -> None:
        # Every event of a batch hashes and encodes them.
        for name in ("tenant_id", "store_id", "device_id"):
            object.__setattr__(self, name, FastUUID(getattr(self, name).bytes))


@dataclass(frozen=True, slots=True)
class Operator:
    """A person or tool of the operator's. `tenant_id` None: every tenant."""

    tenant_id: UUID | None = None
    label: str = ""

    def must_manage(self, tenant_id: UUID | None) -> None:
        """Raises PermissionDenied unless this operator may act on `tenant_id` (None: on all)."""
        if self.tenant_id is not None and self.tenant_id != tenant_id:
            raise PermissionDenied("This operator token is limited to another tenant.")


@dataclass(frozen=True, slots=True)
class Integrator:
    """A program of the tenant's that reads its feed (an ERP, a warehouse), and nothing else."""

    tenant_id: UUID
    name: str = ""


Caller = Device | Operator | Integrator

_current: ContextVar[Caller] = ContextVar("tillsync_caller")


def assume(caller: Caller) -> None:
    """Makes `caller` the current one for the rest of this request."""
    _current.set(caller)


def current_ids() -> dict[str, str]:
    """Who this task works for, for a log line: tenant_id, and device_id of a device."""
    caller = _current.get(None)
    if isinstance(caller, Device):
        return {"tenant_id": str(caller.tenant_id), "device_id": str(caller.device_id)}
    if isinstance(caller, Operator) and caller.tenant_id is not None:
        return {"tenant_id": str(caller.tenant_id)}
    return {}


def current_device() -> Device:
    """The calling device. The doorkeeper has let nobody else in."""
    caller = _current.get()
    if not isinstance(caller, Device):
        raise PermissionDenied("This call is for store devices.")
    return caller


def current_operator() -> Operator:
    """The calling operator. The doorkeeper has let nobody else in."""
    caller = _current.get()
    if not isinstance(caller, Operator):
        raise PermissionDenied("This call is for operators.")
    return caller


def managed_tenant(tenant_id: str) -> UUID:
    """The tenant that an operator's request names in `tenant_id`. Raises InvalidRequest, or
    PermissionDenied unless this operator may manage it."""
    parsed = fields.uuid("tenant_id", tenant_id)
    current_operator().must_manage(parsed)
    return parsed


def feed_tenant(tenant_id: str) -> UUID:
    """The tenant whose feed a request is about: an integrator's own, which it may leave to its
    token, or one that an operator may manage. Raises InvalidRequest and PermissionDenied."""
    caller = _current.get()
    if not isinstance(caller, Integrator):
        return managed_tenant(tenant_id)
    if tenant_id and fields.uuid("tenant_id", tenant_id) != caller.tenant_id:
        raise PermissionDenied("This integrator token is for another tenant.")
    return caller.tenant_id
