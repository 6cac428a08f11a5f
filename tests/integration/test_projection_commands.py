"""An operator at a shell looks after the tables of sales, on a service as it really runs."""

import json
from uuid import UUID, uuid4

import grpc
import pytest

from support.builders import BUSINESS_DAY
from support.fleet import Till
from support.polling import eventually
from support.projections import a_sale, a_void, recording, unreadable
from support.service import Caller, failure_of
from tillsync.v1 import projection_service_pb2 as pb
from tillsync.v1.projection_service_pb2_grpc import ProjectionServiceStub
from tillsync_service.databases import utc_now
from tillsync_service.fleet.keys import KeyFile
from tillsync_service.fleet.tokens import TokenIssuer
from tillsync_service.operator.client import Service, Target


@pytest.fixture
async def till(shell):
    """A till that sends; `tenant` and `store` are its ids."""
    made = (await shell.run("enrolment-code", "--new-store", "Main street", "--json")).json
    async with Service(Target(shell.address)) as open_service:
        device = Till(open_service.device)
        await device.enrol(made["code"])
        token = (await device.issue()).access_token
    async with Caller(shell.address, token) as till:
        till.tenant, till.store, till.token = made["tenant_id"], made["store_id"], token
        yield till


async def level(shell, till):
    """The tenant's line of `projections list`, once nothing waits."""

    async def line():
        (found,) = (await shell.run("projections", "list", "--tenant", till.tenant, "--json")).json
        return found if found["lag_events"] == "0" and found["position"] != "0" else None

    return await eventually(line, within_seconds=30)


async def a_bad_day(shell, till):
    """A void that came too early, its sale, and a body nobody can read."""
    await till.offer(recording("void", a_void("sale")), recording("cut", unreadable()))
    await till.offer(recording("sale", a_sale()))
    return await level(shell, till)


async def test_sales_reach_the_tables_by_themselves(shell, till):
    """A service that was only started writes what comes in into the tables, and says how far it
    is."""
    found = await a_bad_day(shell, till)

    assert found["position"] == "3"
    assert (found["dead_letters_waiting"], found["rebuild"]) == ("2", None)
    plain = await shell.run("projections", "list", "--tenant", till.tenant)
    assert plain.lines[0][:3] == [till.tenant, "3", "0"]


async def test_dead_letters_are_listed_and_shown(shell, till):
    """The operator sees what waits and why, and one of them with what the till had sent."""
    await a_bad_day(shell, till)
    of_tenant = ("--tenant", till.tenant)

    plain = await shell.run("dead-letters", "list", *of_tenant)
    chosen = await shell.run(
        "dead-letters", "list", *of_tenant, "--reason", "void-unknown", "--json"
    )
    shown = await shell.run("dead-letters", "show", "1", *of_tenant, "--json")
    unreadable_one = await shell.run("dead-letters", "show", "2", *of_tenant, "--json")
    nobody = await shell.run("dead-letters", "show", "99", *of_tenant)

    assert [line[:3] for line in plain.lines] == [
        ["1", "Void", "void-unknown"],
        ["2", "Sale", "body-unreadable"],
    ]
    assert [row["key"] for row in chosen.json] == ["void"]
    assert json.loads(shown.json["body"]) == {"voided_key": "sale"}
    assert (shown.json["business_day"], shown.json["attempts"]) == (BUSINESS_DAY, "1")
    assert (unreadable_one.json["body"], unreadable_one.json["body_bytes"]) == ("", 2)
    assert (nobody.status, "NOT_FOUND" in nobody.err) == (1, True)


async def test_replay_and_discard_with_a_look_before(shell, till):
    """A dry run says what would be; then the void is carried out, and the cut one given up."""
    await a_bad_day(shell, till)
    of_tenant = ("--tenant", till.tenant)

    dry = await shell.run("dead-letters", "replay", *of_tenant, "--dry-run", "--json")
    real = await shell.run("dead-letters", "replay", *of_tenant, "--type", "Void", "--json")
    dry_discard = await shell.run(
        "dead-letters", "discard", *of_tenant, "--because", "cut", "--dry-run", "--json"
    )
    discarded = await shell.run("dead-letters", "discard", *of_tenant, "--because", "cut")
    again = await shell.run("dead-letters", "replay", *of_tenant, "--json")
    given_up = await shell.run("dead-letters", "list", *of_tenant, "--state", "discarded", "--json")

    assert dry.json == {"replayed": 2, "revived": 1, "waiting": 1, "dry_run": True}
    assert real.json == {"replayed": 1, "revived": 1, "waiting": 0, "dry_run": False}
    assert dry_discard.json == {"discarded": 1, "dry_run": True}
    assert discarded.lines == [["1", "false"]]
    assert again.json["replayed"] == 0
    (row,) = given_up.json
    assert (row["discarded_by"], row["discarded_because"], row["key"]) == ("test", "cut", "cut")


async def test_rebuild_follows_to_the_end(shell, till):
    """The operator makes all anew, and the command ends when it is done."""
    await a_bad_day(shell, till)

    one = await shell.run("projections", "rebuild", "--tenant", till.tenant, "--json")
    every = await shell.run("projections", "rebuild")

    assert one.json == [
        {"tenant_id": till.tenant, "events": 3, "started_by": "test", "joined": False}
    ]
    assert (every.status, till.tenant in every.out) == (0, True)
    assert (await level(shell, till))["rebuild"] is None


A_UUID = str(uuid4())
REQUESTS = {
    "ListProjections": {"tenant_id": A_UUID},
    "ListDeadLetters": {"tenant_id": A_UUID},
    "GetDeadLetter": {"tenant_id": A_UUID, "position": 1},
    "ReplayDeadLetters": {"tenant_id": A_UUID},
    "DiscardDeadLetters": {"tenant_id": A_UUID, "reason": "why"},
    "Rebuild": {"tenant_id": A_UUID},
}


def test_every_method_is_listed_here():
    """A new method cannot be forgotten by the tests below."""
    service = pb.DESCRIPTOR.services_by_name["ProjectionService"]
    assert {method.name for method in service.methods} == set(REQUESTS)


def called(stub, method, token, **more):
    message = getattr(pb, f"{method}Request")(**{**REQUESTS[method], **more})
    metadata = (("authorization", f"Bearer {token}"),)
    answer = getattr(stub, method)(message, metadata=metadata, timeout=20)
    if method != "Rebuild":
        return answer

    async def answers():
        return [one async for one in answer]

    return answers()


@pytest.fixture
async def stub(service):
    async with grpc.aio.insecure_channel(service.address) as channel:
        yield ProjectionServiceStub(channel)


def a_token(service, tenant_id=None):
    issuer = TokenIssuer(KeyFile(service.keys), utc_now)
    return issuer.operator_token("test", tenant_id, 3600)


@pytest.mark.parametrize("method", REQUESTS)
async def test_only_who_may_manage_the_tenant_may_call(service, stub, till, method):
    """A till, and another retailer's operator, neither see nor change anything here; what does not
    exist is not found."""
    denied = grpc.StatusCode.PERMISSION_DENIED

    assert (await failure_of(called(stub, method, till.token))).code is denied
    assert (await failure_of(called(stub, method, a_token(service, uuid4())))).code is denied
    missing = await failure_of(called(stub, method, a_token(service)))
    assert missing.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("method", ["ListProjections", "Rebuild"])
async def test_all_tenants_are_for_an_operator_of_all(service, stub, method):
    """An operator of one retailer cannot look at, or rebuild, every retailer's tables."""
    token = a_token(service, UUID(A_UUID))

    failure = await failure_of(called(stub, method, token, tenant_id=""))

    assert failure.code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("method", "field", "wrong"),
    [
        ("ListDeadLetters", "page_size", {"page_size": 1001}),
        ("ListDeadLetters", "state", {"state": 77}),
        ("ListDeadLetters", "after", {"after": -1}),
        ("ListProjections", "page_token", {"page_token": "x"}),
        ("GetDeadLetter", "position", {"position": -1}),
        ("ReplayDeadLetters", "page_size", {"page_size": 251}),
        ("ReplayDeadLetters", "filter.reason", {"filter": {"reason": 77}}),
        ("ReplayDeadLetters", "filter.store_id", {"filter": {"store_id": "x"}}),
        ("ReplayDeadLetters", "filter.type", {"filter": {"type": "x" * 201}}),
        ("ReplayDeadLetters", "filter.to_position", {"filter": {"to_position": -5}}),
        ("DiscardDeadLetters", "reason", {"reason": " "}),
    ],
)
async def test_a_wrong_field_is_named(service, stub, method, field, wrong):
    """Whoever calls from a program hears which field to mend."""
    failure = await failure_of(called(stub, method, a_token(service), **wrong))

    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = failure.details["BadRequest"].field_violations
    assert violation.field == field
