"""An operator sees what became of tills' edits that collided, and decides those that wait."""

from uuid import UUID

import grpc
import pytest

from support.records import head_of, parts_of, versions_of
from support.service import failure_of
from tillsync.v1 import record_service_pb2 as pb
from tillsync_service.sync.scopes import TENANT

KEEP, APPLY = pb.RESOLUTION_CHOICE_KEEP, pb.RESOLUTION_CHOICE_APPLY
DEVICE = UUID("018f2a5e-7c3b-7d10-8a4e-3b1c9d2e5f60")


@pytest.fixture
def operator(fleet):
    return fleet.operator()


@pytest.fixture
async def shop(fleet):
    """A tenant with a store, and one customer of the tenant's."""
    operator, place = fleet.operator(), await fleet.a_store()
    await operator.call(
        "DefineCollection",
        tenant_id=place.tenant_id,
        collection={"name": "customer", "policy": 3, "load_order": 100},
    )
    await operator.import_records(
        {"tenant_id": place.tenant_id, "collection": "customer"},
        {"ada": '{"name":"Ada","points":3}'},
    )
    return place


async def collided(migrator, shop, conflict_id, **edit):
    """An edit of a till's that met a record that had changed, as push keeps it."""
    edit = {
        "record_id": "ada",
        "scope": TENANT,
        "kind": "patch",
        "body": '{"name":"Ada L."}',
        "outcome": "parked",
        **edit,
    }
    await migrator.execute(
        "INSERT INTO tillsync.conflict (tenant_id, conflict_id, device_id, epoch, sequence,"
        " collection, scope, record_id, kind, base_version, edit_body, met_version, met_body,"
        " outcome, reason)"
        " VALUES ($1, $2, $3, 7, 8, 'customer', $4, $5, $6, 1, $7, 2, '{\"name\":\"Ada\"}', $8,"
        " 'It had changed.')",
        UUID(shop.tenant_id),
        conflict_id,
        DEVICE,
        edit["scope"],
        edit["record_id"],
        edit["kind"],
        edit["body"],
        edit["outcome"],
    )


async def resolved(operator, shop, conflict_id, choice):
    answer = await operator.call(
        "ResolveConflict", tenant_id=shop.tenant_id, conflict_id=conflict_id, choice=choice
    )
    return answer.conflict


async def found(operator, shop, conflict_id):
    return await operator.call("GetConflict", tenant_id=shop.tenant_id, conflict_id=conflict_id)


async def body_of(operator, shop, record_id, store_id=""):
    answer = await operator.call(
        "GetRecord",
        tenant_id=shop.tenant_id,
        collection="customer",
        store_id=store_id,
        record_id=record_id,
    )
    return answer.body


async def test_conflicts_come_in_pages_by_id(operator, shop, migrator):
    """After a day offline there are many: an operator turns the pages and sees each once, or only
    those that wait for him."""
    for conflict_id, outcome in enumerate(("parked", "lost", "won", "parked", "parked"), start=5):
        await collided(migrator, shop, conflict_id, outcome=outcome)

    async def pages(**request):
        after, sizes, ids = 0, [], []
        while True:
            page = await operator.call(
                "ListConflicts", tenant_id=shop.tenant_id, after=after, page_size=2, **request
            )
            sizes.append(len(page.conflicts))
            ids += [conflict.conflict_id for conflict in page.conflicts]
            if not page.more:
                return sizes, ids
            after = ids[-1]

    assert await pages() == ([2, 2, 1], [5, 6, 7, 8, 9])
    assert await pages(open_only=True) == ([2, 1], [5, 8, 9])
    await resolved(operator, shop, 8, KEEP)
    assert await pages(open_only=True) == ([2], [5, 9])
    whole = await operator.call("ListConflicts", tenant_id=shop.tenant_id)
    assert (len(whole.conflicts), whole.more) == (5, False)
    for size in (-1, 1_001):
        failure = await failure_of(
            operator.call("ListConflicts", tenant_id=shop.tenant_id, page_size=size)
        )
        assert failure.reason == "FIELD_INVALID"


async def test_a_conflict_shows_both_sides_and_the_present(operator, shop, migrator):
    """Whoever decides sees what the till wanted, what it met, and what the record is today."""
    await collided(migrator, shop, 5, scope=UUID(shop.store_id), outcome="lost")
    await collided(migrator, shop, 6)

    of_the_store, of_the_tenant = [await found(operator, shop, n) for n in (5, 6)]

    conflict = of_the_tenant.conflict
    assert (conflict.device_id, conflict.epoch) == (str(DEVICE), 7)
    assert conflict.mutation.sequence == 8
    assert conflict.mutation.body == '{"name":"Ada L."}'
    assert (conflict.met_body, conflict.met_version) == ('{"name":"Ada"}', 2)
    assert not conflict.HasField("resolution")
    assert of_the_tenant.present_body == '{"name":"Ada","points":3}'
    assert of_the_tenant.present_version == 2
    assert of_the_store.conflict.mutation.store_id == shop.store_id
    assert (of_the_store.present_body, of_the_store.present_version) == ("", 0)


async def test_keeping_changes_nothing_but_the_conflict(operator, shop, migrator):
    """The operator says that the record is right as it is: no till hears of anything."""
    await collided(migrator, shop, 5)

    conflict = await resolved(operator, shop, 5, KEEP)

    assert conflict.resolution.choice == KEEP
    assert conflict.resolution.decided_by == "test"
    assert conflict.resolution.HasField("decided_at")
    assert conflict.resolution.version == 0
    assert await head_of(migrator, shop.tenant_id) == 2


@pytest.mark.parametrize(
    ("edit", "body"),
    [
        ({}, '{"name":"Ada L.","points":3}'),
        ({"kind": "put", "body": '{"name":"Bob"}'}, '{"name":"Bob"}'),
        ({"kind": "add", "body": '{"points":4}'}, '{"name":"Ada","points":7}'),
        ({"kind": "delete", "body": ""}, ""),
        ({"kind": "put", "body": '{"x":1}', "record_id": "new"}, '{"x":1}'),
    ],
)
async def test_applying_makes_a_version_of_the_record_as_it_is_now(
    operator, shop, migrator, edit, body
):
    """The operator says that the till was right: its edit goes over what the record is today, and
    every till gets it."""
    await collided(migrator, shop, 5, **edit)

    conflict = await resolved(operator, shop, 5, APPLY)

    assert (conflict.resolution.choice, conflict.resolution.version) == (APPLY, 3)
    assert await body_of(operator, shop, edit.get("record_id", "ada")) == body
    assert await head_of(migrator, shop.tenant_id) == 3
    assert (await versions_of(migrator, shop.tenant_id))[-1] == 3
    listed = await operator.call("ListCollections", tenant_id=shop.tenant_id)
    assert {
        (part.collection, part.store_id): (part.record_count, part.digest)
        for part in listed.collections[0].parts
    } == await parts_of(migrator, shop.tenant_id)


async def test_applying_what_is_there_already_makes_no_version(operator, shop, migrator):
    """Somebody mended the record by hand before: the conflict is closed, tills hear nothing."""
    await collided(migrator, shop, 5, body='{"name":"Ada"}')

    conflict = await resolved(operator, shop, 5, APPLY)

    assert (conflict.resolution.choice, conflict.resolution.version) == (APPLY, 0)
    assert await head_of(migrator, shop.tenant_id) == 2


async def test_only_an_open_conflict_can_be_decided_and_once(operator, shop, migrator):
    """Two operators decide the same conflict: the second hears that it is done."""
    await collided(migrator, shop, 5)
    await collided(migrator, shop, 6, outcome="lost")
    await collided(migrator, shop, 7, record_id="nobody")
    await resolved(operator, shop, 5, KEEP)

    for conflict_id, choice in ((5, APPLY), (5, KEEP), (6, APPLY), (7, APPLY)):
        failure = await failure_of(resolved(operator, shop, conflict_id, choice))
        assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
        assert failure.reason == "STATE_FORBIDS"
    assert (await failure_of(resolved(operator, shop, 8, KEEP))).reason == "NOT_FOUND"
    for choice in (0, 3):
        failure = await failure_of(resolved(operator, shop, 7, choice))
        assert failure.reason == "FIELD_INVALID"
    assert not (await found(operator, shop, 7)).conflict.HasField("resolution")
    assert await head_of(migrator, shop.tenant_id) == 2


async def test_another_tenants_conflict_is_not_there(fleet, shop, migrator):
    """Conflicts are numbered alike in every tenant: one retailer's operator sees only his own."""
    other = await fleet.a_store()
    await collided(migrator, shop, 5)
    limited = fleet.operator(other.tenant_id)

    assert (await failure_of(found(limited, other, 5))).reason == "NOT_FOUND"
    assert (await failure_of(resolved(limited, other, 5, APPLY))).reason == "NOT_FOUND"
    listed = await limited.call("ListConflicts", tenant_id=other.tenant_id)
    assert list(listed.conflicts) == []
