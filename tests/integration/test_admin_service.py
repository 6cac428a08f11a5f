"""An operator keeps tenants, stores, codes and devices in order."""

from uuid import UUID, uuid4

import grpc
import pytest

from support.records import head_of
from support.service import failure_of
from tillsync.v1 import admin_service_pb2 as pb
from tillsync.v1.admin_service_pb2_grpc import AdminServiceStub

A_UUID = str(uuid4())


@pytest.fixture
def operator(fleet):
    return fleet.operator()


async def a_tenant(operator, **fields):
    answer = await operator.call("CreateTenant", **{"name": "Shops", **fields})
    return answer.tenant.tenant_id


async def a_store(operator, tenant_id, code="1"):
    answer = await operator.call("CreateStore", tenant_id=tenant_id, code=code, name="Main street")
    return answer.store.store_id


async def pages_of(operator, method, field, **request):
    """All rows of a list, two a page, and how many pages it took."""
    rows, token, pages = [], "", 0
    while True:
        answer = await operator.call(method, page_size=2, page_token=token, **request)
        rows += getattr(answer, field)
        pages += 1
        token = answer.next_page_token
        if not token:
            return rows, pages


async def test_a_new_tenant_can_sell_and_load_prices_at_once(operator, migrator):
    """An operator makes a tenant, and both of its streams stand ready."""
    tenant = (await operator.call("CreateTenant", name="Shops", disposable=True)).tenant

    assert (tenant.name, tenant.disposable) == ("Shops", True)
    assert tenant.HasField("created_at")
    heads = await migrator.fetch(
        "SELECT stream, position FROM tillsync.tenant_head WHERE tenant_id = $1 ORDER BY stream",
        UUID(tenant.tenant_id),
    )
    assert [tuple(head) for head in heads] == [("event", 0), ("record", 0)]


async def test_a_tenant_is_made_once_where_its_id_was_chosen(operator):
    """A tool that sets up a tenant runs twice: the second time it hears that it is there. Without
    an id of its own choice, every call makes another tenant."""
    chosen = A_UUID
    assert await a_tenant(operator, tenant_id=chosen.upper()) == chosen

    failure = await failure_of(operator.call("CreateTenant", name="Again", tenant_id=chosen))

    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    assert await a_tenant(operator) != await a_tenant(operator)
    tenants = (await operator.call("ListTenants")).tenants
    assert [tenant.name for tenant in tenants if tenant.tenant_id == chosen] == ["Shops"]


async def test_a_store_code_is_taken_once_in_a_tenant(operator):
    """Two stores of one retailer cannot both be number 12; two retailers may each have one."""
    here, there = await a_tenant(operator), await a_tenant(operator)
    await a_store(operator, here, "12")
    await a_store(operator, there, "12")

    failure = await failure_of(a_store(operator, here, "12"))

    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")


async def test_every_list_comes_in_pages_by_id(fleet, operator):
    """An operator with five hundred stores turns the pages and sees each thing once."""
    tenant_ids = [await a_tenant(operator) for _ in range(5)]
    tenant_id = tenant_ids[0]
    store_ids = [await a_store(operator, tenant_id, code) for code in "abcd"]
    device_ids = []
    for store_id in [store_ids[0]] * 3 + [store_ids[1]] * 2:
        code = await operator.call("CreateEnrolmentCode", tenant_id=tenant_id, store_id=store_id)
        device_ids.append((await fleet.till().enrol(code.code)).device_id)

    tenants, tenant_pages = await pages_of(operator, "ListTenants", "tenants")
    stores, store_pages = await pages_of(operator, "ListStores", "stores", tenant_id=tenant_id)
    devices, _ = await pages_of(operator, "ListDevices", "devices", tenant_id=tenant_id)
    of_a_store, _ = await pages_of(
        operator, "ListDevices", "devices", tenant_id=tenant_id, store_id=store_ids[0]
    )

    assert [tenant.tenant_id for tenant in tenants] == sorted(tenant_ids)
    assert [store.store_id for store in stores] == sorted(store_ids)
    assert [device.device_id for device in devices] == sorted(device_ids)
    assert [device.device_id for device in of_a_store] == sorted(device_ids[:3])
    assert (tenant_pages, store_pages) == (3, 2)


async def test_a_list_without_a_page_size_shows_a_hundred(operator):
    """A tool that says nothing about pages gets a page that fits a screen, and the next token."""
    tenant_id = await a_tenant(operator)
    for number in range(101):
        await a_store(operator, tenant_id, f"{number}")

    first = await operator.call("ListStores", tenant_id=tenant_id)
    rest = await operator.call("ListStores", tenant_id=tenant_id, page_token=first.next_page_token)

    assert (len(first.stores), len(rest.stores)) == (100, 1)
    assert not rest.next_page_token


async def test_a_code_is_good_for_as_long_as_it_says(operator, migrator):
    """A code is good for a day, or for what the operator says, by the database's clock."""
    tenant_id = await a_tenant(operator)
    store_id = await a_store(operator, tenant_id)
    for seconds, request in ((86_400, {}), (90, {"valid_for": {"seconds": 90}})):
        answer = await operator.call(
            "CreateEnrolmentCode", tenant_id=tenant_id, store_id=store_id, **request
        )
        row = await migrator.fetchrow(
            "SELECT expires_at, extract(epoch FROM expires_at - created_at)::float AS good"
            " FROM tillsync.enrolment_code ORDER BY created_at DESC LIMIT 1"
        )
        assert row["good"] == seconds
        assert answer.expires_at.ToMicroseconds() == int(row["expires_at"].timestamp() * 1_000_000)


# What each method needs, with ids that exist for nobody.
REQUESTS = {
    "CreateTenant": {"name": "x"},
    "ListTenants": {},
    "DeleteTenant": {"tenant_id": A_UUID},
    "CreateStore": {"tenant_id": A_UUID, "code": "1", "name": "x"},
    "ListStores": {"tenant_id": A_UUID},
    "CreateEnrolmentCode": {"tenant_id": A_UUID, "store_id": A_UUID},
    "ListDevices": {"tenant_id": A_UUID},
    "RevokeDevice": {"tenant_id": A_UUID, "device_id": A_UUID},
    "ClearSuspicion": {"tenant_id": A_UUID, "device_id": A_UUID},
    "MoveDevice": {"tenant_id": A_UUID, "device_id": A_UUID, "store_id": A_UUID},
    "ListQuarantine": {"tenant_id": A_UUID},
    "GetQuarantined": {"tenant_id": A_UUID, "key": "x"},
}


def test_every_method_is_listed_here():
    """A new method cannot be forgotten by the tests below."""
    service = pb.DESCRIPTOR.services_by_name["AdminService"]
    assert {method.name for method in service.methods} == set(REQUESTS)


@pytest.mark.parametrize("method", REQUESTS)
async def test_an_operator_of_one_tenant_is_kept_out_of_the_others(fleet, method):
    """A retailer's own operator neither sees nor changes another retailer, nor makes one."""
    limited = fleet.operator(uuid4())

    failure = await failure_of(limited.call(method, **REQUESTS[method]))

    assert (failure.code, failure.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "PERMISSION_DENIED",
    )


async def test_an_operator_of_one_tenant_manages_it(fleet, operator):
    """A retailer's own operator does everything there is to do in the own tenant."""
    tenant_id = await a_tenant(operator, disposable=True)
    own = fleet.operator(tenant_id)

    store_id = await a_store(own, tenant_id)
    ids = {"tenant_id": tenant_id, "store_id": store_id}
    code = (await own.call("CreateEnrolmentCode", **ids)).code
    device_id = (await fleet.till().enrol(code)).device_id
    await own.call("ClearSuspicion", tenant_id=tenant_id, device_id=device_id)
    await own.call("MoveDevice", device_id=device_id, **ids)
    await own.call("RevokeDevice", tenant_id=tenant_id, device_id=device_id)
    assert len((await own.call("ListStores", tenant_id=tenant_id)).stores) == 1
    assert len((await own.call("ListDevices", tenant_id=tenant_id)).devices) == 1
    await own.call("DeleteTenant", tenant_id=tenant_id)


@pytest.mark.parametrize("method", REQUESTS)
async def test_a_till_is_no_operator(fleet, method):
    """A till's token, or none, opens nothing of the operator's."""
    till = await fleet.an_enrolled_till()
    token = (await till.issue()).access_token
    request = getattr(pb, f"{method}Request")(**REQUESTS[method])
    call = getattr(AdminServiceStub(fleet.channel), method)

    as_till = await failure_of(call(request, metadata=(("authorization", f"Bearer {token}"),)))
    as_nobody = await failure_of(call(request))

    assert as_till.reason == "PERMISSION_DENIED"
    assert as_nobody.reason == "TOKEN_MISSING"


BAD_VALUES = {
    "name": ("", " ", "x" * 201, "a\0b"),
    "code": ("", "x" * 51, "a\0b"),
    "page_size": (-1, 1_001),
    "page_token": ("garbage!", "AAAA"),
    "key": ("", " ", "x" * 201, "a\0b"),
    "digest": (b"x",),
    "valid_for": ({"seconds": 0}, {"seconds": -5}, {"seconds": 30 * 86_400 + 1}),
}
BAD_IDS = ("x", str(UUID(int=0)))
BAD_REQUESTS = [
    (method, field, value)
    for method, request in REQUESTS.items()
    for field in getattr(pb, f"{method}Request").DESCRIPTOR.fields_by_name
    for value in (*BAD_VALUES.get(field, BAD_IDS), *([""] if field in request else []))
    if field != "disposable"
]


async def test_a_field_that_is_wrong_is_named(operator):
    """An operator who mistypes something reads which field to mend, for every field there is."""
    for method, field, value in BAD_REQUESTS:
        request = {**REQUESTS[method], field: value}
        failure = await failure_of(operator.call(method, **request))
        assert failure.reason == "FIELD_INVALID", (method, field, value)
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert failure.details["BadRequest"].field_violations[0].field == field


@pytest.mark.parametrize(
    ("method", "foreign"),
    [
        ("CreateEnrolmentCode", "store_id"),
        ("ListDevices", "store_id"),
        ("RevokeDevice", "device_id"),
        ("ClearSuspicion", "device_id"),
    ],
)
async def test_what_is_anothers_is_as_if_it_did_not_exist(fleet, operator, method, foreign):
    """An operator who tries the ids of another retailer learns nothing, not even that they
    exist, and changes nothing."""
    own = await a_tenant(operator)
    theirs = (await fleet.an_enrolled_till()).identity
    limited = fleet.operator(own)

    failures = [
        await failure_of(limited.call(method, tenant_id=own, **{foreign: some_id}))
        for some_id in (getattr(theirs, foreign), A_UUID)
    ]

    assert failures[0].code is grpc.StatusCode.NOT_FOUND
    assert failures[0].reason == "NOT_FOUND"
    assert failures[0].text == failures[1].text
    (device,) = (await operator.call("ListDevices", tenant_id=theirs.tenant_id)).devices
    assert not device.HasField("revoked_at")


async def test_a_device_moves_once_and_sells_for_its_new_store(fleet, operator, migrator):
    """A till is carried into the shop next door: it is listed there, what it sells counts there
    from its next token on, and its move is a version of its own, so that its prices follow. The
    same order again changes nothing."""
    till = await fleet.an_enrolled_till()
    tenant_id, device_id = till.identity.tenant_id, till.identity.device_id
    next_door = await a_store(operator, tenant_id, "2")
    order = {"tenant_id": tenant_id, "device_id": device_id, "store_id": next_door}

    answers = [(await operator.call("MoveDevice", **order)).device for _ in range(2)]

    assert [(device.device_id, device.store_id) for device in answers] == [
        (device_id, next_door)
    ] * 2
    assert answers[0].name == "till 1"
    listed = await operator.call("ListDevices", tenant_id=tenant_id, store_id=next_door)
    assert [device.device_id for device in listed.devices] == [device_id]
    placed = await migrator.fetchval("SELECT placed_version FROM tillsync.device")
    assert (placed, await head_of(migrator, tenant_id)) == (1, 1)
    caller = fleet.caller_of((await till.issue()).access_token)
    assert str(caller.store_id) == next_door
    home = {**order, "store_id": till.identity.store_id}
    assert (await operator.call("MoveDevice", **home)).device.store_id == till.identity.store_id
    assert await head_of(migrator, tenant_id) == 2


async def test_f43_a_device_does_not_leave_its_tenant(fleet, operator, migrator):
    """F43: no order moves a till into another retailer's store, or another retailer's till, and
    whoever tries does not learn that they exist."""
    ours, theirs = [(await fleet.an_enrolled_till()).identity for _ in range(2)]
    limited = fleet.operator(ours.tenant_id)
    here = {
        "tenant_id": ours.tenant_id,
        "device_id": ours.device_id,
        "store_id": ours.store_id,
    }

    for field in ("device_id", "store_id"):
        foreign, unknown = [
            await failure_of(limited.call("MoveDevice", **{**here, field: some_id}))
            for some_id in (getattr(theirs, field), A_UUID)
        ]
        assert foreign.reason == "NOT_FOUND"
        assert foreign.text == unknown.text
    rows = await migrator.fetch("SELECT device_id, store_id, placed_version FROM tillsync.device")
    assert {
        (str(row["device_id"]), str(row["store_id"])): row["placed_version"] for row in rows
    } == {
        (ours.device_id, ours.store_id): 0,
        (theirs.device_id, theirs.store_id): 0,
    }


@pytest.mark.parametrize("method", [m for m in REQUESTS if "tenant_id" in REQUESTS[m]])
async def test_what_does_not_exist_is_not_found(operator, method):
    """An operator who mistypes a tenant's id does not read an empty list and believe it."""
    failure = await failure_of(operator.call(method, **REQUESTS[method]))

    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
