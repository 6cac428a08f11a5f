"""What a caller is told when a call fails: what to do, and nothing about our insides."""

import asyncpg
import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.foundation import db, errors
from tillsync_service.foundation.errors import (
    InvalidRequest,
    Overloaded,
    ServiceError,
    StateForbids,
    Unavailable,
    render,
)

Status = grpc.StatusCode


def details_of(rendered: errors.RenderedStatus) -> dict[str, object]:
    status = status_pb2.Status.FromString(metadata_of(rendered)["grpc-status-details-bin"])
    assert (status.code, status.message) == (rendered.code.value[0], rendered.details)
    return {
        packed.type_url.rpartition(".")[2]: getattr(
            error_details_pb2, packed.type_url.rpartition(".")[2]
        ).FromString(packed.value)
        for packed in status.details
    }


def metadata_of(rendered: errors.RenderedStatus) -> dict[str, str | bytes]:
    return dict(rendered.trailing_metadata)


def the_tree(root: type[ServiceError] = ServiceError) -> list[type[ServiceError]]:
    return [leaf for kind in root.__subclasses__() for leaf in (kind, *the_tree(kind))]


def test_facts_come_with_the_reason():
    """A program reads what it needs from a field, and not out of a sentence."""
    error = StateForbids("Another history.", facts={"history_id": "018f"})

    assert details_of(render(error))["ErrorInfo"].metadata == {"history_id": "018f"}
    assert not details_of(render(StateForbids("So it is.")))["ErrorInfo"].metadata


@pytest.mark.parametrize(
    ("name", "code", "reason", "retries"),
    [
        ("InvalidRequest", Status.INVALID_ARGUMENT, "FIELD_INVALID", False),
        ("Unauthenticated", Status.UNAUTHENTICATED, "TOKEN_INVALID", False),
        ("PermissionDenied", Status.PERMISSION_DENIED, "PERMISSION_DENIED", False),
        ("NotFound", Status.NOT_FOUND, "NOT_FOUND", False),
        ("AlreadyExists", Status.ALREADY_EXISTS, "ALREADY_EXISTS", False),
        ("StateForbids", Status.FAILED_PRECONDITION, "STATE_FORBIDS", False),
        ("Overloaded", Status.RESOURCE_EXHAUSTED, "OVERLOADED", True),
        ("Unavailable", Status.UNAVAILABLE, "DATABASE_UNAVAILABLE", True),
    ],
)
def test_each_error_says_what_to_do(name, code, reason, retries):
    """A till knows from the answer alone whether to send again, and when."""
    kind = getattr(errors, name)
    error = kind("field", "text") if kind is InvalidRequest else kind("text")

    rendered = render(error)

    assert rendered.code is code
    assert details_of(rendered)["ErrorInfo"].reason == reason
    assert details_of(rendered)["ErrorInfo"].domain == "tillsync"
    assert metadata_of(rendered)["tillsync-reason"] == reason
    assert ("RetryInfo" in details_of(rendered)) is retries
    assert ("grpc-retry-pushback-ms" in metadata_of(rendered)) is retries


def test_no_error_of_the_tree_is_left_out_of_that_table():
    """A new kind of failure cannot reach a till without somebody deciding what it should do."""
    known = next(
        mark for mark in test_each_error_says_what_to_do.pytestmark if mark.name == "parametrize"
    ).args[1]
    assert {kind.__name__ for kind in the_tree()} == {name for name, *_ in known}


def test_a_bad_field_is_named():
    """The maker of a till's program reads which field to correct, and why."""
    rendered = render(InvalidRequest("events", "A batch has events."))

    (violation,) = details_of(rendered)["BadRequest"].field_violations
    assert (violation.field, violation.description) == ("events", "A batch has events.")
    assert rendered.details == "events: A batch has events."


def test_the_wait_is_the_same_in_both_spellings():
    """A light till and gRPC's own retries wait equally long."""
    rendered = render(Overloaded("Too much."))

    delay = details_of(rendered)["RetryInfo"].retry_delay
    assert str(delay.ToMilliseconds()) == metadata_of(rendered)["grpc-retry-pushback-ms"] == "1000"


def test_a_special_reason_wins():
    """A till that hears of a stop goes to another replica at once."""
    rendered = render(Unavailable("Stopping.", reason=ErrorReason.ERROR_REASON_SHUTTING_DOWN))

    assert metadata_of(rendered)["tillsync-reason"] == "SHUTTING_DOWN"


@pytest.mark.parametrize(
    "unknown",
    [
        ZeroDivisionError("secret"),
        asyncpg.UniqueViolationError("Key (tenant, key)=(secret) exists"),
        KeyError("secret"),
    ],
)
def test_an_unknown_failure_tells_nothing_of_our_insides(unknown):
    """A fault of ours shows a till neither SQL nor another tenant's data, only what to do."""
    unknown.detail = "secret"

    rendered = render(unknown)

    assert rendered.code is grpc.StatusCode.INTERNAL
    assert metadata_of(rendered)["tillsync-reason"] == "INTERNAL"
    assert "secret" not in repr(rendered)
    assert "Send the same again" in rendered.details


def test_every_reason_of_the_tree_is_one_of_the_contract():
    """A till's program can look up every reason that it meets."""
    names = {value.removeprefix("ERROR_REASON_") for value in ErrorReason.keys()}  # noqa: SIM118

    assert {errors.reason_name(kind.default_reason) for kind in the_tree()} <= names


@pytest.mark.parametrize(
    "lost",
    [
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("got result for unknown protocol state"),
        ConnectionResetError(),
        TimeoutError(),
    ],
)
def test_a_lost_database_connection_is_no_verdict(lost):
    """A connection that breaks in the middle of an answer leaves the sale undecided: the till
    hears that it shall send it again, and not that something is wrong with it."""
    with pytest.raises(Unavailable), db._database_errors():
        raise lost
