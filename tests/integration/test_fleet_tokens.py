"""Tills fetch tokens and rotate their secrets; whoever has a copy is noticed."""

import grpc
import pytest
from structlog.testing import capture_logs

from support.builders import an_event
from support.fleet import a_secret, hash_of, together
from support.service import Caller, failure_of, names
from tillsync.v1 import device_service_pb2 as pb
from tillsync.v1.device_service_pb2_grpc import DeviceServiceStub
from tillsync.v1.event_pb2 import EventFlag
from tillsync_service.fleet.rotation import RETIRED_SECRET_DAYS
from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import PermissionDenied
from tillsync_service.foundation.identity import Device


@pytest.fixture
async def till(fleet):
    return await fleet.an_enrolled_till()


async def secrets_by_state(migrator):
    rows = await migrator.fetch(
        "SELECT state, array_agg(secret_hash) AS hashes FROM tillsync.device_secret GROUP BY state"
    )
    return {row["state"]: set(row["hashes"]) for row in rows}


async def the_device(fleet, till):
    """The till as an operator sees it."""
    answer = await fleet.operator().call("ListDevices", tenant_id=till.identity.tenant_id)
    return next(d for d in answer.devices if d.device_id == till.identity.device_id)


async def clear(fleet, till):
    return await fleet.operator().call(
        "ClearSuspicion",
        tenant_id=till.identity.tenant_id,
        device_id=till.identity.device_id,
    )


async def revoke(fleet, till):
    answer = await fleet.operator().call(
        "RevokeDevice",
        tenant_id=till.identity.tenant_id,
        device_id=till.identity.device_id,
    )
    return answer.device


async def test_a_token_opens_the_door_for_the_tills_sales(fleet, till):
    """A till shows its secret, gets a token, and its sales are stored under its own name."""
    answer = await till.issue()

    assert answer.expires_in.ToSeconds() == limits.ACCESS_TOKEN_SECONDS
    assert not answer.suspect
    caller = fleet.caller_of(answer.access_token)
    assert isinstance(caller, Device)
    assert str(caller.tenant_id) == till.identity.tenant_id
    assert str(caller.store_id) == till.identity.store_id
    assert str(caller.device_id) == till.identity.device_id
    async with Caller(fleet.address, answer.access_token) as sender:
        assert names(await sender.offer(an_event())) == ["ACCEPTED"]


async def test_a_till_rotates_although_answers_get_lost(fleet, till):
    """The line breaks at every rotation, the till is restarted in between, and it gets in each
    time and is never suspected."""
    for _ in range(3):
        for answer_lost in (True, True, False):
            answer = await till.issue(rotate=True, answer_lost=answer_lost)
            assert not answer.suspect

    assert not (await till.issue()).suspect
    assert not (await the_device(fleet, till)).HasField("suspect_since")


async def test_a_secret_that_nobody_knows_is_refused(fleet, till):
    """A till that points at another service is told to enrol there; it keeps what it recorded."""
    failure = await failure_of(fleet.till().issue(rotate=True))

    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "SECRET_UNKNOWN")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("refresh_secret", b""),
        ("refresh_secret", b"x" * 31),
        ("next_refresh_secret_hash", b"x"),
        ("next_refresh_secret_hash", b"x" * 33),
    ],
)
async def test_a_field_that_is_wrong_is_named(fleet, till, field, value):
    """Whoever writes a program for tills reads which field to mend."""
    fields = {"refresh_secret": till.current, field: value}

    failure = await failure_of(
        DeviceServiceStub(fleet.channel).IssueToken(pb.IssueTokenRequest(**fields))
    )

    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert failure.details["BadRequest"].field_violations[0].field == field


async def test_a_secret_of_another_till_cannot_be_proposed(fleet, till, migrator):
    """A till cannot take another's place, nor lock it out, by proposing its secret."""
    other = await fleet.an_enrolled_till()
    till.next = other.current

    failure = await failure_of(till.issue())

    assert failure.details["BadRequest"].field_violations[0].field == "next_refresh_secret_hash"
    assert not (await other.issue()).suspect
    till.next = b""
    assert not (await till.issue()).suspect


async def test_a_cloned_till_is_noticed_when_the_second_of_the_two_rotates(fleet, till):
    """A disk image of a till runs in another shop. When both have rotated, the operator sees since
    when, the log has one line, and both tills are told."""
    clone = till.image()
    assert not (await clone.issue(rotate=True)).suspect
    with capture_logs() as logs:
        assert (await till.issue(rotate=True)).suspect
        assert (await till.issue(rotate=True)).suspect
        assert (await clone.issue(rotate=True)).suspect

    first_noticed = (await the_device(fleet, till)).suspect_since
    assert [line["device_id"] for line in logs if line["event"] == "device_suspect"] == [
        till.identity.device_id
    ]
    assert (await till.issue(rotate=True)).suspect
    assert (await the_device(fleet, till)).suspect_since == first_noticed


async def test_a_suspect_till_sells_on_and_its_sales_are_marked(fleet, till):
    """A shop does not stop on a Saturday because somebody copied its till: its sales are taken,
    marked, whatever the two holders do to their secrets, and none of them is locked out."""
    clone = till.image()
    for _ in range(5):
        for holder in (clone, till, till):
            token = (await holder.issue(rotate=True)).access_token
            async with Caller(fleet.address, token) as sender:
                (verdict,) = await sender.offer(an_event())
            assert names([verdict]) == ["ACCEPTED"]

    assert EventFlag.EVENT_FLAG_SUSPECT in verdict.flags


async def test_a_token_from_before_the_alarm_is_suspect_on_every_replica(fleet, till):
    """A copy that fetched its token in time gets nothing but sales through all the same, as soon
    as standing is read anew."""
    clone = till.image()
    early = (await clone.issue(rotate=True)).access_token
    await till.issue(rotate=True)
    assert not fleet.caller_of(early).suspect

    await fleet.standing.refresh()

    assert fleet.caller_of(early).suspect


@pytest.mark.parametrize("survivor_rotates_first", [True, False])
async def test_after_the_operator_cleared_it_the_till_is_not_flagged_again(
    fleet, till, survivor_rotates_first
):
    """The operator scraps the copy and clears the alarm. Whichever of the two was ahead with its
    rotation, the till that is left gets in at once, rotates, and is not suspected again."""
    clone = till.image()
    order = (till, clone, till) if survivor_rotates_first else (clone, till, clone)
    for holder in order:
        await holder.issue(rotate=True)

    device = (await clear(fleet, till)).device

    assert not device.HasField("suspect_since")
    await fleet.standing.refresh()
    for _ in range(3):
        answer = await till.issue(rotate=True, answer_lost=True)
        assert not answer.suspect
        assert not (await till.issue()).suspect
    assert not fleet.caller_of(answer.access_token).suspect


async def test_a_copy_that_is_still_about_rings_the_alarm_again(fleet, till):
    """The operator cleared the alarm and the copy was not scrapped: as soon as it comes in, the
    alarm is back."""
    clone = till.image()
    await clone.issue(rotate=True)
    await till.issue(rotate=True)
    await clear(fleet, till)

    assert not (await till.issue(rotate=True)).suspect

    assert (await clone.issue(rotate=True)).suspect


async def test_clearing_a_till_that_is_not_suspect_changes_nothing(fleet, till, migrator):
    """An operator who clears the wrong till, or clears twice, does not open it to a copy: a
    retired secret still rings."""
    image = till.image()
    await till.issue(rotate=True)
    await till.issue()
    before = await secrets_by_state(migrator)

    await clear(fleet, till)
    await clear(fleet, till)

    assert await secrets_by_state(migrator) == before
    assert (await image.issue()).suspect


async def test_a_stolen_till_is_out(fleet, till):
    """An operator revokes a stolen till. It gets no token, and the one it has opens nothing once
    standing is read anew; what it sent before stays. A second click changes nothing."""
    token = (await till.issue()).access_token
    async with Caller(fleet.address, token) as sender:
        await sender.offer(an_event())

        revoked = await revoke(fleet, till)
        await fleet.standing.refresh()

        refusals = [
            await failure_of(sender.offer(an_event())),
            await failure_of(till.issue(rotate=True)),
        ]
    for failure in refusals:
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "DEVICE_REVOKED",
        )
    assert revoked.HasField("revoked_at")
    assert await revoke(fleet, till) == revoked


async def test_a_stolen_till_is_out_for_as_long_as_a_token_of_it_may_run(fleet, till, migrator):
    """Long after, a revoked till is still out: no token of it runs any more, and standing need not
    remember it."""
    token = (await till.issue()).access_token
    await revoke(fleet, till)

    await migrator.execute(
        "UPDATE tillsync.device SET revoked_at = now() - make_interval(secs => $1)",
        limits.ACCESS_TOKEN_SECONDS + 60.0,
    )
    await fleet.standing.refresh()
    with pytest.raises(PermissionDenied):
        fleet.caller_of(token)

    await migrator.execute("UPDATE tillsync.device SET revoked_at = now() - interval '30 days'")
    await fleet.standing.refresh()
    assert fleet.standing._revoked == {}
    assert (await failure_of(till.issue())).reason == "DEVICE_REVOKED"


async def test_two_proposals_at_once_are_judged_one_after_the_other(
    fleet, till, admin_database_url
):
    """A till and its copy rotate in the same instant: one of the two is noticed."""
    clone = till.image()

    answers = await together(
        admin_database_url, "device", till.issue(rotate=True), clone.issue(rotate=True)
    )

    assert sorted(answer.suspect for answer in answers) == [False, True]


async def test_old_secrets_do_not_pile_up(fleet, till, migrator):
    """A till that rotates for years does not fill the database: a secret that was retired over a
    year ago makes room for the next one, and the younger ones stay."""
    for _ in range(4):
        await till.issue(rotate=True)
    before = await secrets_by_state(migrator)
    assert len(before["retired"]) == 3

    await migrator.execute(
        "UPDATE tillsync.device_secret SET changed_at = now() - make_interval(days => $1)"
        " WHERE secret_hash = $2",
        RETIRED_SECRET_DAYS + 1,
        (oldest := min(before["retired"])),
    )
    await till.issue(rotate=True)

    after = await secrets_by_state(migrator)
    assert oldest not in after["retired"]
    assert before["retired"] - {oldest} < after["retired"]
    assert sum(map(len, after.values())) == sum(map(len, before.values()))


async def test_an_old_secret_in_use_is_not_written_over(fleet, till, migrator):
    """A till that was away for two years comes in with its old disk: it is a suspect, and may come
    in with the same secret again."""
    image = till.image()
    await till.issue(rotate=True)
    await till.issue()
    await migrator.execute(
        "UPDATE tillsync.device_secret SET changed_at = now() - interval '2 years'"
    )

    for _ in range(2):
        assert (await image.issue(rotate=True, answer_lost=True)).suspect


async def test_what_a_till_proposes_is_known_when_it_comes_back_with_it(fleet, till, migrator):
    """Nothing that the service answered is forgotten: every secret a till may hold after an
    answer is known."""
    clone = till.image()
    await clone.issue(rotate=True)
    await till.issue(rotate=True)
    known = set().union(*(await secrets_by_state(migrator)).values())

    assert {hash_of(till.current), hash_of(clone.current)} < known
    assert hash_of(a_secret()) not in known
