"""Who may ask about the books, and what of a question is wrong."""

from uuid import UUID, uuid4

import grpc
import pytest

from support.builders import BUSINESS_DAY
from support.service import failure_of
from tillsync.v1 import books_service_pb2 as pb
from tillsync.v1.books_service_pb2_grpc import BooksServiceStub

A_UUID = str(uuid4())
NEXT_DAY = "2026-11-23"


# What each method needs, with ids that exist for nobody.
REQUESTS = {
    "ListMissing": {"tenant_id": A_UUID},
    "ListDay": {"tenant_id": A_UUID, "store_id": A_UUID, "business_day": BUSINESS_DAY},
    "Waive": {
        "tenant_id": A_UUID,
        "device_id": A_UUID,
        "span": {"epoch": 1, "first": 1, "last": 1},
        "reason": "x",
    },
    "DeclareRestored": {"reason": "x"},
}


def test_every_method_is_listed_here():
    """A new method cannot be forgotten by the tests below."""
    service = pb.DESCRIPTOR.services_by_name["BooksService"]
    assert {method.name for method in service.methods} == set(REQUESTS)


@pytest.mark.parametrize("method", REQUESTS)
async def test_an_operator_of_one_tenant_is_kept_out_of_the_others(fleet, method):
    """A retailer's own operator neither sees nor waives what is another's, nor declares anything
    for all."""
    failure = await failure_of(fleet.operator(uuid4()).call(method, **REQUESTS[method]))

    assert failure.code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("method", REQUESTS)
async def test_a_till_is_no_operator(fleet, method):
    """A till's token, or none, opens nothing of the operator's."""
    token = (await (await fleet.an_enrolled_till()).issue()).access_token
    request = getattr(pb, f"{method}Request")(**REQUESTS[method])
    call = getattr(BooksServiceStub(fleet.channel), method)

    as_till = await failure_of(call(request, metadata=(("authorization", f"Bearer {token}"),)))
    as_nobody = await failure_of(call(request))

    assert (as_till.reason, as_nobody.reason) == ("PERMISSION_DENIED", "TOKEN_MISSING")


@pytest.mark.parametrize("method", [m for m in REQUESTS if "tenant_id" in REQUESTS[m]])
async def test_what_does_not_exist_is_not_found(fleet, method):
    """An operator who mistypes an id does not read an empty list and believe it."""
    failure = await failure_of(fleet.operator().call(method, **REQUESTS[method]))

    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "foreign"),
    [("ListMissing", "store_id"), ("ListDay", "store_id"), ("Waive", "device_id")],
)
async def test_what_is_anothers_is_as_if_it_did_not_exist(fleet, migrator, method, foreign):
    """An operator who tries the ids of another retailer learns nothing, not even that they exist,
    and writes nothing down."""
    ours = (await fleet.an_enrolled_till()).identity.tenant_id
    theirs = (await fleet.an_enrolled_till()).identity
    own = {**REQUESTS[method], "tenant_id": ours}
    limited = fleet.operator(ours)

    failures = [
        await failure_of(limited.call(method, **{**own, foreign: some_id}))
        for some_id in (getattr(theirs, foreign), A_UUID)
    ]

    assert failures[0].code is grpc.StatusCode.NOT_FOUND
    assert failures[0].text == failures[1].text
    assert await migrator.fetchval("SELECT count(*) FROM tillsync.waiver") == 0
    assert await migrator.fetchval("SELECT count(*) FROM tillsync.audit") == 0


BAD_IDS = ("", "x", str(UUID(int=0)))
BAD_DAYS = ("2026-1-2", "20261122", "yesterday", "2026-02-30", "-infinity")
BAD = {
    "ListMissing": {
        "tenant_id": BAD_IDS,
        "store_id": BAD_IDS[1:],
        "since": BAD_DAYS,
        "page_size": (-1, 1_001),
        "page_token": ("garbage!",),
    },
    "ListDay": {"tenant_id": BAD_IDS, "store_id": BAD_IDS, "business_day": ("", *BAD_DAYS)},
    "Waive": {
        "tenant_id": BAD_IDS,
        "device_id": BAD_IDS,
        "span": (None,),
        "span.epoch": ({"first": 1, "last": 1},),
        "span.first": ({"epoch": 1, "last": 1},),
        "span.last": ({"epoch": 1, "first": 2, "last": 1},),
        "reason": ("", " ", "x" * 501, "a\0b"),
    },
    "DeclareRestored": {"reason": ("", "x" * 501)},
}


async def test_a_field_that_is_wrong_is_named(fleet):
    """An operator who mistypes something reads which field to mend."""
    operator = fleet.operator()
    for method, fields in BAD.items():
        for field, values in fields.items():
            for value in values:
                request = {**REQUESTS[method], field.partition(".")[0]: value}
                failure = await failure_of(operator.call(method, **request))
                assert failure.reason == "FIELD_INVALID", (method, field, value)
                assert failure.details["BadRequest"].field_violations[0].field == field


async def test_a_waiver_is_of_numbers_or_of_a_day(fleet):
    """An operator who names both is asked which of the two is meant."""
    both = {**REQUESTS["Waive"], "business_day": BUSINESS_DAY}
    bad_day = {**REQUESTS["Waive"], "span": None, "business_day": "yesterday"}

    assert (await failure_of(fleet.operator().call("Waive", **both))).text.startswith("span: ")
    failure = await failure_of(fleet.operator().call("Waive", **bad_day))
    assert failure.text.startswith("business_day: ")
