"""The service's errors, split by what the caller must do, and the one table that renders them.

    ServiceError
    ├── InvalidRequest      correct the named field
    ├── Unauthenticated     get a new token
    ├── PermissionDenied    use another credential, or ask the operator
    ├── NotFound            list what there is
    ├── AlreadyExists       nothing: it is there
    ├── StateForbids        change the state first
    ├── Overloaded          the same again, after retry_after_seconds
    └── Unavailable         the same again, after retry_after_seconds

Anything else becomes INTERNAL with a fixed text; its cause goes to the log only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from tillsync.v1.error_reason_pb2 import ErrorReason

DOMAIN = "tillsync"
RETRY_AFTER_SECONDS = 1.0

_INTERNAL_TEXT = (
    "The service failed; nothing is known to be stored. Send the same again, and tell the operator."
)


class ServiceError(Exception):
    """A failure with an answer. `reason` is machine-readable, and so are the `facts` that a caller
    needs beside it; the text is for a person."""

    code = grpc.StatusCode.INTERNAL
    default_reason = ErrorReason.ERROR_REASON_INTERNAL
    retry_after_seconds: float | None = None

    def __init__(
        self,
        text: str,
        *,
        reason: "ErrorReason.ValueType | None" = None,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.reason = self.default_reason if reason is None else reason
        self.facts = facts or {}


class InvalidRequest(ServiceError):
    """A field of the request is at fault; `field` is its path, as in `events` or `store_id`."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = ErrorReason.ERROR_REASON_FIELD_INVALID

    def __init__(
        self, field: str, text: str, *, reason: "ErrorReason.ValueType | None" = None
    ) -> None:
        super().__init__(f"{field}: {text}" if field else text, reason=reason)
        self.field = field
        self.description = text


class Unauthenticated(ServiceError):
    code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = ErrorReason.ERROR_REASON_TOKEN_INVALID


class PermissionDenied(ServiceError):
    code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = ErrorReason.ERROR_REASON_PERMISSION_DENIED


class NotFound(ServiceError):
    code = grpc.StatusCode.NOT_FOUND
    default_reason = ErrorReason.ERROR_REASON_NOT_FOUND


class AlreadyExists(ServiceError):
    code = grpc.StatusCode.ALREADY_EXISTS
    default_reason = ErrorReason.ERROR_REASON_ALREADY_EXISTS


class StateForbids(ServiceError):
    code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = ErrorReason.ERROR_REASON_STATE_FORBIDS


class Overloaded(ServiceError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = ErrorReason.ERROR_REASON_OVERLOADED
    retry_after_seconds = RETRY_AFTER_SECONDS


class Unavailable(ServiceError):
    code = grpc.StatusCode.UNAVAILABLE
    default_reason = ErrorReason.ERROR_REASON_DATABASE_UNAVAILABLE
    retry_after_seconds = RETRY_AFTER_SECONDS


@dataclass(frozen=True, slots=True)
class RenderedStatus(grpc.Status):
    """What grpc's abort_with_status takes."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def reason_name(reason: "ErrorReason.ValueType") -> str:
    """The reason as it stands on the wire: the enum value's name without its prefix."""
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_")


def render(error: BaseException) -> RenderedStatus:
    """The status for a caller: google.rpc.Status with ErrorInfo, BadRequest and RetryInfo as they
    apply, and the two facts a light client needs as plain metadata (`tillsync-reason`, and the
    standard `grpc-retry-pushback-ms`).
    """
    known = error if isinstance(error, ServiceError) else ServiceError(_INTERNAL_TEXT)
    text = str(known)
    status = status_pb2.Status(
        code=known.code.value[0], message=text, details=[_packed(d) for d in _details(known)]
    )
    metadata: list[tuple[str, str | bytes]] = [
        ("grpc-status-details-bin", status.SerializeToString()),
        ("tillsync-reason", reason_name(known.reason)),
    ]
    if known.retry_after_seconds is not None:
        pushback_ms = round(known.retry_after_seconds * 1000)
        metadata.append(("grpc-retry-pushback-ms", str(pushback_ms)))
    return RenderedStatus(known.code, text, tuple(metadata))


def _details(
    error: ServiceError,
) -> list[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo]:
    details: list[
        error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo
    ] = [
        error_details_pb2.ErrorInfo(
            reason=reason_name(error.reason), domain=DOMAIN, metadata=error.facts
        )
    ]
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.description
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details


def _packed(
    detail: (
        error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo
    ),
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
