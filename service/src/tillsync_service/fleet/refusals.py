"""What a device hears when it is not let in: one text and one reason for each case."""

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.foundation.errors import (
    InvalidRequest,
    NotFound,
    PermissionDenied,
    StateForbids,
    Unauthenticated,
)


def code_unknown() -> NotFound:
    return NotFound(
        "There is no such enrolment code; look for a typing error, or ask for a new code.",
        reason=ErrorReason.ERROR_REASON_CODE_UNKNOWN,
    )


def code_expired() -> StateForbids:
    return StateForbids(
        "The enrolment code's time is over; ask for a new code.",
        reason=ErrorReason.ERROR_REASON_CODE_EXPIRED,
    )


def code_used() -> StateForbids:
    return StateForbids(
        "Another device used this enrolment code; ask for a new code.",
        reason=ErrorReason.ERROR_REASON_CODE_USED,
    )


def secret_unknown() -> Unauthenticated:
    return Unauthenticated(
        "The refresh secret is not known here; what is recorded stays, and the device must enrol.",
        reason=ErrorReason.ERROR_REASON_SECRET_UNKNOWN,
    )


def secret_taken(field: str) -> InvalidRequest:
    return InvalidRequest(field, "The hash of a secret that is known already; mint another secret.")


def device_revoked() -> PermissionDenied:
    return PermissionDenied(
        "An operator revoked this device; what is recorded stays, and the device must enrol anew.",
        reason=ErrorReason.ERROR_REASON_DEVICE_REVOKED,
    )
