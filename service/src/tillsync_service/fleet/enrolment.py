"""May a device join with this code? Pure."""

from dataclasses import dataclass
from uuid import UUID

from tillsync_service.fleet import refusals


@dataclass(frozen=True, slots=True)
class Code:
    """An enrolment code as it is stored. `device_id` is who used it; None: nobody yet."""

    store_id: UUID
    store_name: str
    device_id: UUID | None
    is_expired: bool


def returning_device(code: Code, *, owner_of_secret: UUID | None) -> UUID | None:
    """The device that used this code with this very secret before, or None for a newcomer.
    `owner_of_secret` is the device that the secret belongs to already, if any.

    Raises what keeps the newcomer out: CODE_USED, CODE_EXPIRED, or a secret that another has."""
    if code.device_id is not None:
        # Asked before the time: an answer that was lost must not cost the device its identity.
        if code.device_id == owner_of_secret:
            return code.device_id
        raise refusals.code_used()
    if code.is_expired:
        raise refusals.code_expired()
    if owner_of_secret is not None:
        # Two devices with one secret could not be told apart.
        raise refusals.secret_taken("refresh_secret_hash")
    return None
