"""A till joins a store with a code, once, whatever happens to the answer."""

import grpc
import pytest

from support.fleet import a_secret, hash_of, together
from support.service import failure_of
from tillsync.v1 import device_service_pb2 as pb
from tillsync.v1.device_service_pb2_grpc import DeviceServiceStub


async def devices(migrator):
    return await migrator.fetchval("SELECT count(*) FROM tillsync.device")


async def test_a_till_joins_the_store_that_its_code_is_for(fleet):
    """The shopkeeper types the code, and the till says which store it belongs to."""
    request = await fleet.a_store()
    code = (await fleet.operator().stub.CreateEnrolmentCode(request)).code

    identity = await fleet.till().enrol(code.lower().replace("-", " "), "till 3")

    assert (identity.tenant_id, identity.store_id) == (request.tenant_id, request.store_id)
    assert identity.store_name == "Main street"
    (device,) = (await fleet.operator().call("ListDevices", tenant_id=request.tenant_id)).devices
    assert (device.device_id, device.name) == (identity.device_id, "till 3")


async def test_a_till_whose_answer_was_lost_gets_the_same_identity(fleet, migrator):
    """The line breaks while a till enrols. It sends the same again, also after the code's time and
    after its first rotation, and is the same device: no second one appears in the list."""
    code = await fleet.a_code()
    till = fleet.till()
    first = await till.enrol(code)

    assert await till.enrol(code) == first
    await migrator.execute("UPDATE tillsync.enrolment_code SET expires_at = now()")
    assert await till.enrol(code) == first
    image = till.image()
    await till.issue(rotate=True)
    await till.issue()
    assert await image.enrol(code) == first
    assert await devices(migrator) == 1


@pytest.mark.parametrize("expired_since", [False, True])
async def test_a_code_is_good_for_one_till(fleet, migrator, expired_since):
    """A second till with the same code is turned away, and the operator makes another code."""
    code = await fleet.a_code()
    await fleet.till().enrol(code)
    if expired_since:
        await migrator.execute("UPDATE tillsync.enrolment_code SET expires_at = now()")

    failure = await failure_of(fleet.till().enrol(code))

    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CODE_USED")
    assert await devices(migrator) == 1


async def test_of_two_tills_that_come_with_one_code_together_one_joins(
    fleet, migrator, admin_database_url
):
    """Two people set up two tills with one note in the same second: one till joins, the other
    hears that the code is used."""
    code = await fleet.a_code()

    answers = await together(
        admin_database_url, "enrolment_code", fleet.till().enrol(code), fleet.till().enrol(code)
    )

    joined = [answer for answer in answers if isinstance(answer, pb.EnrollResponse)]
    (refused,) = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(joined) == 1
    assert refused.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert await devices(migrator) == 1


async def test_a_till_that_asks_twice_at_once_is_one_device(fleet, migrator, admin_database_url):
    """A till gives up waiting and asks again while its first call is still under way: both answers
    name one device."""
    code = await fleet.a_code()
    till = fleet.till()

    first, second = await together(
        admin_database_url, "enrolment_code", till.enrol(code), till.enrol(code)
    )

    assert first == second
    assert await devices(migrator) == 1


async def test_a_code_that_is_too_old_is_refused(fleet, migrator):
    """A code from last month's note opens nothing, and the shopkeeper is told to ask anew."""
    code = await fleet.a_code()
    await migrator.execute("UPDATE tillsync.enrolment_code SET expires_at = now()")

    failure = await failure_of(fleet.till().enrol(code))

    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CODE_EXPIRED")


@pytest.mark.parametrize("typed", ["0000-0000-0000-0000", "hello", "ABCD", "é" * 16])
async def test_a_code_that_is_none_is_a_typing_error(fleet, typed):
    """The shopkeeper mistypes the code and reads that there is no such code."""
    await fleet.a_code()

    failure = await failure_of(fleet.till().enrol(typed))

    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "CODE_UNKNOWN")


async def test_two_tills_with_one_secret_are_not_taken(fleet, migrator):
    """Two tills set up from one disk image bring the same secret: the second must mint its own,
    or nobody could tell them apart."""
    till = await fleet.an_enrolled_till()
    copy = till.image()

    failure = await failure_of(copy.enrol(await fleet.a_code()))

    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.details["BadRequest"].field_violations[0].field == "refresh_secret_hash"
    assert await devices(migrator) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("code", ""),
        ("code", " "),
        ("refresh_secret_hash", b""),
        ("refresh_secret_hash", b"x" * 31),
        ("refresh_secret_hash", b"x" * 33),
        ("device_name", ""),
        ("device_name", "x" * 101),
        ("device_name", "till\0"),
    ],
)
async def test_a_field_that_is_wrong_is_named(fleet, migrator, field, value):
    """Whoever writes a program for tills reads which field to mend, and the code stays good."""
    code = await fleet.a_code()
    fields = {"code": code, "refresh_secret_hash": hash_of(a_secret()), "device_name": "till"}

    failure = await failure_of(
        DeviceServiceStub(fleet.channel).Enroll(pb.EnrollRequest(**{**fields, field: value}))
    )

    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert failure.details["BadRequest"].field_violations[0].field == field
    assert await devices(migrator) == 0
    await fleet.till().enrol(code)


async def test_neither_code_nor_secret_is_kept(fleet, migrator):
    """Whoever steals a backup of the database can neither enrol a till nor pass for one."""
    code = await fleet.a_code()
    till = fleet.till()
    await till.enrol(code)
    await till.issue(rotate=True)

    rows = await migrator.fetch(
        "SELECT c::text FROM tillsync.enrolment_code c"
        " UNION ALL SELECT s::text FROM tillsync.device_secret s"
    )

    text = " ".join(row[0] for row in rows)
    assert len(rows) == 3
    for secret in (till.current.hex(), code, code.replace("-", "")):
        assert secret not in text
