"""An operator gives tills what they hold copies of: collections and their records."""

import asyncio
import json
import random
from uuid import UUID, uuid4

import grpc
import pytest

from support.polling import eventually
from support.records import digest_of, head_of, parts_of, versions_of
from support.service import failure_of
from tillsync.v1 import record_service_pb2 as pb
from tillsync.v1.record_service_pb2_grpc import RecordServiceStub
from tillsync_service.foundation import limits
from tillsync_service.sync.scopes import TENANT
from tillsync_service.sync.store import RecordStore

SERVER_WINS, MANUAL = 1, 3
PRICE = {"name": "price", "policy": SERVER_WINS, "lookup_keys": ["barcode"], "load_order": 10}


@pytest.fixture
def operator(fleet):
    return fleet.operator()


@pytest.fixture
async def shop(fleet):
    """A tenant with a store, and the collection of its prices."""
    place = await fleet.a_store()
    await define(fleet.operator(), place.tenant_id, **PRICE)
    return place


async def define(operator, tenant_id, **collection):
    return await operator.call(
        "DefineCollection", tenant_id=tenant_id, collection={"policy": SERVER_WINS, **collection}
    )


async def imported(operator, shop, *messages, **settings):
    """The answers to an import into the prices."""
    settings = {"tenant_id": shop.tenant_id, "collection": "price", **settings}
    return await operator.import_records(settings, *messages)


async def result_of(operator, shop, *messages, **settings):
    return (await imported(operator, shop, *messages, **settings))[-1].result


async def body_of(operator, shop, record_id, **place):
    answer = await operator.call(
        "GetRecord",
        **{"tenant_id": shop.tenant_id, "collection": "price", "record_id": record_id, **place},
    )
    return answer.body


async def staged_rows(migrator):
    return await migrator.fetchval("SELECT count(*) FROM tillsync.record_staging")


async def test_a_collection_is_defined_once_and_changed_when_it_differs(operator, shop, migrator):
    """A script that sets a shop up runs every night: tills hear of a rule when it changes."""
    again = await define(operator, shop.tenant_id, **PRICE)
    changed = await define(operator, shop.tenant_id, **{**PRICE, "load_order": -7})
    other = await define(operator, shop.tenant_id, name="stock")

    assert (again.version, changed.version, other.version) == (1, 2, 3)
    assert await head_of(migrator, shop.tenant_id) == 3
    listed = await operator.call("ListCollections", tenant_id=shop.tenant_id)
    assert [one.collection for one in listed.collections] == [
        changed.collection,
        other.collection,
    ]
    assert changed.collection.lookup_keys == ["barcode"]
    assert changed.collection.load_order == -7


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("name", ["", "Price", "1st", "a-b", "ä", "a" * 64, "price\n", "a\0b"]),
        ("policy", [0, 4]),
        (
            "lookup_keys",
            [[""], ["a\0"], ["a", "a"], list("abcdefghi"), ["x" * 101], ['a"b'], ["a\\b"]],
        ),
    ],
)
async def test_a_bad_definition_is_named(operator, shop, field, values):
    """An operator who mistypes a collection's rules reads what to mend."""
    for value in values:
        failure = await failure_of(define(operator, shop.tenant_id, **{**PRICE, field: value}))

        assert failure.reason == "FIELD_INVALID", value
        assert failure.details["BadRequest"].field_violations[0].field == f"collection.{field}"


async def test_a_tenant_has_a_hundred_collections(operator, shop):
    """A script gone wrong does not fill the service with collections; the present ones can still
    be changed."""
    for number in range(99):
        await define(operator, shop.tenant_id, name=f"c{number}")

    failure = await failure_of(define(operator, shop.tenant_id, name="one_more"))

    assert failure.reason == "STATE_FORBIDS"
    assert (await define(operator, shop.tenant_id, **{**PRICE, "policy": MANUAL})).version == 101


async def test_an_import_is_published_whole_and_a_repeat_changes_what_differs(
    operator, shop, migrator
):
    """The nightly price list goes in; the same again is nothing new for any till."""
    first, then = {"1": '{"cents": 100}', "2": '{"cents": 200}'}, {"3": '{"cents": 300}'}

    answers = await imported(operator, shop, first, then)
    again = await result_of(operator, shop, {**first, "2": '{"cents":250}', "3": "", "9": ""})

    assert [answer.staged for answer in answers] == [0, 2, 3, 3]
    assert answers[-1].result == pb.ImportResult(changed=3, version=4)
    assert again == pb.ImportResult(changed=1, unchanged=1, deleted=1, version=6)
    assert await body_of(operator, shop, "2") == '{"cents":250}'
    assert await body_of(operator, shop, "3") == ""
    assert await staged_rows(migrator) == 0


async def test_of_two_with_the_same_id_the_last_counts(operator, shop):
    """A file names a product twice: the line further down is what the tills get, unless it is
    broken."""
    result = await result_of(operator, shop, {"1": '{"a":1}'}, {"1": '{"a":2}'}, {"1": "{"})

    assert (result.changed, result.refused) == (1, 1)
    assert await body_of(operator, shop, "1") == '{"a":2}'


BAD_RECORDS = [
    ("record_ids", "", "{}"),
    ("record_ids", "x" * 201, "{}"),
    ("record_ids", "a\0b", "{}"),
    ("bodies", "x", "rubbish"),
    ("bodies", "x", "[1]"),
    ("bodies", "x", '"text"'),
    ("bodies", "x", '{"a": NaN}'),
    ("bodies", "x", '{"a": -Infinity}'),
    ("bodies", "x", '{"a": 1e999}'),
    ("bodies", "x", '{"a": "\\ud800"}'),
    ("bodies", "x", '{"a": "\0"}'),
    ("bodies", "x", '{"a": "' + "x" * limits.MAX_RECORD_BYTES + '"}'),
    ("bodies", "x", '{"a":' * 2_000 + "1" + "}" * 2_000),
]


@pytest.mark.parametrize(("field", "record_id", "body"), BAD_RECORDS)
async def test_a_bad_record_is_named_and_the_rest_goes_in(operator, shop, field, record_id, body):
    """One broken product among the price list does not keep the tills from the other prices."""
    answers = await imported(operator, shop, {"1": "{}"}, {"2": "{}", record_id: body, "3": "{}"})

    (refused,) = answers[2].refused
    assert (refused.index, refused.field) == (2, field)
    assert refused.record_id == record_id[:200]
    assert refused.description
    assert answers[-1].staged == 3
    assert answers[-1].result == pb.ImportResult(changed=3, refused=1, version=4)


@pytest.mark.parametrize(("field", "record_id", "body"), BAD_RECORDS)
async def test_an_atomic_import_takes_all_or_nothing(
    operator, shop, migrator, field, record_id, body
):
    """An operator who wants the whole list or none of it gets none, and reads which record it
    was."""
    failure = await failure_of(
        imported(operator, shop, {"1": "{}"}, {"2": "{}", record_id: body}, atomic=True)
    )

    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == "RECORD_NOT_STORABLE"
    assert failure.text.startswith(f"{field}: Record 2: ")
    assert await head_of(migrator, shop.tenant_id) == 1
    assert await staged_rows(migrator) == 0


async def test_a_complete_import_deletes_what_it_does_not_name(operator, shop):
    """The price list is all there is: what is not on it cannot be sold any more. A price that is
    on it but broken stays as it was, and a store's own prices are another list."""
    own = {"store_id": shop.store_id}
    await imported(operator, shop, {"kept": '{"a":1}', "gone": "{}", "broken": '{"old":1}'})
    await imported(operator, shop, {"special": "{}"}, **own)

    result = await result_of(
        operator, shop, {"kept": '{"a":1}', "new": "{}"}, {"broken": "{"}, complete=True
    )

    assert (result.changed, result.unchanged, result.deleted, result.refused) == (1, 1, 1, 1)
    assert await body_of(operator, shop, "gone") == ""
    assert await body_of(operator, shop, "broken") == '{"old":1}'
    assert await body_of(operator, shop, "special", **own) == "{}"


async def test_a_store_has_prices_of_its_own(operator, shop, migrator):
    """The same product costs something else in one store, and both prices are kept."""
    await imported(operator, shop, {"1": '{"cents":100}'})
    await imported(operator, shop, {"1": '{"cents":90}'}, store_id=shop.store_id)

    assert await body_of(operator, shop, "1") == '{"cents":100}'
    assert await body_of(operator, shop, "1", store_id=shop.store_id) == '{"cents":90}'
    listed = await operator.call("ListCollections", tenant_id=shop.tenant_id)
    parts = {part.store_id: part.digest for part in listed.collections[0].parts}
    assert parts == {
        "": digest_of({"1": '{"cents":100}'}),
        shop.store_id: digest_of({"1": '{"cents":90}'}),
    }


async def test_digests_are_what_the_records_come_to_after_anything(operator, shop, migrator):
    """After a year of imports, corrections and clearances, a till that compares its copy with the
    service's sum finds them equal; and every change had a version of its own, without holes."""
    rnd = random.Random(71)
    everything = [f"{n}" for n in range(30)]
    for _ in range(25):
        chosen = rnd.sample(everything, rnd.randint(1, 20))
        records = {one: rnd.choice(["", '{"a":1}', '{"a":2}', "{"]) for one in chosen}
        before = await head_of(migrator, shop.tenant_id)
        result = await result_of(
            operator,
            shop,
            records,
            complete=rnd.random() < 0.3,
            store_id=rnd.choice(["", shop.store_id]),
        )
        new = [v for v in await versions_of(migrator, shop.tenant_id) if v > before]
        assert new == list(range(before + 1, result.version + 1))
        assert len(new) == result.changed + result.deleted

    expected = await parts_of(migrator, shop.tenant_id)
    listed = await operator.call("ListCollections", tenant_id=shop.tenant_id)
    assert {
        (part.collection, part.store_id): (part.record_count, part.digest)
        for part in listed.collections[0].parts
    } == expected
    assert len(expected) == 2


async def test_nothing_of_an_import_is_seen_before_its_end(fleet, operator, shop, migrator):
    """An operator's link breaks, or he presses Ctrl-C in the middle: no till has half a price
    list, and nothing is left behind."""
    for read_first in (True, False) * 5:
        call = operator.records.ImportRecords()
        await call.write(
            pb.ImportRecordsRequest(settings={"tenant_id": shop.tenant_id, "collection": "price"})
        )
        await call.read()
        await call.write(pb.ImportRecordsRequest(record_ids=["1"], bodies=["{}"]))
        if read_first:
            assert (await call.read()).staged == 1
            assert await staged_rows(migrator) >= 1
        call.cancel()

    async def nothing_left():
        return fleet.doorkeeper._house.inside == 0 and await staged_rows(migrator) == 0

    await eventually(nothing_left)
    assert await head_of(migrator, shop.tenant_id) == 1
    assert await versions_of(migrator, shop.tenant_id) == []


async def test_what_an_import_left_behind_long_ago_is_swept_up(operator, shop, migrator):
    """A service was killed in the middle of an import: its rows do not stay for ever."""
    await migrator.execute(
        "INSERT INTO tillsync.record_staging"
        " SELECT $1, gen_random_uuid(), 1, 'x', '{}', 1, now() - age * interval '1 hour'"
        " FROM unnest('{1,25}'::int[]) age",
        UUID(shop.tenant_id),
    )

    await imported(operator, shop, {"1": "{}"})

    assert await staged_rows(migrator) == 1


def a_request(**fields):
    return pb.ImportRecordsRequest(**fields)


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([], "settings"),
        ([a_request(record_ids=["1"], bodies=["{}"])], "settings"),
        (["settings", "settings"], "settings"),
        (["settings and a record"], "record_ids"),
        (["settings", a_request(record_ids=["1", "2"], bodies=["{}"])], "bodies"),
        (["settings", a_request(record_ids=["1"] * 1_001, bodies=["{}"] * 1_001)], "record_ids"),
        (["settings", a_request(record_ids=list("abcdef"), bodies=["{}"] * 6)], "record_ids"),
    ],
)
async def test_an_import_that_is_none_is_refused(
    operator, shop, migrator, monkeypatch, requests, field
):
    """A tool that breaks the contract hears what is wrong, and nothing goes in."""
    monkeypatch.setattr(limits, "MAX_IMPORT_RECORDS", 5)
    settings = {"tenant_id": shop.tenant_id, "collection": "price"}
    named = {
        "settings": a_request(settings=settings),
        "settings and a record": a_request(settings=settings, record_ids=["1"], bodies=["{}"]),
    }

    async def sent():
        for request in requests:
            yield named[request] if isinstance(request, str) else request

    async def answers():
        return [answer async for answer in operator.records.ImportRecords(sent())]

    failure = await failure_of(answers())

    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.details["BadRequest"].field_violations[0].field == field
    assert await head_of(migrator, shop.tenant_id) == 1


async def test_an_import_needs_a_place_that_there_is(operator, shop):
    """A mistyped collection, store or tenant is told before the first record is sent."""
    for settings, code, reason in (
        ({"collection": "prize"}, "INVALID_ARGUMENT", "COLLECTION_UNKNOWN"),
        ({"collection": "a\0"}, "INVALID_ARGUMENT", "COLLECTION_UNKNOWN"),
        ({"store_id": str(uuid4())}, "NOT_FOUND", "NOT_FOUND"),
        ({"store_id": "x"}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"tenant_id": str(uuid4())}, "NOT_FOUND", "NOT_FOUND"),
        ({"tenant_id": ""}, "INVALID_ARGUMENT", "FIELD_INVALID"),
    ):
        failure = await failure_of(imported(operator, shop, {"1": "{}"}, **settings))
        assert (failure.code.name, failure.reason) == (code, reason), settings


async def test_somebody_can_ask_later_who_changed_the_prices(fleet, shop, migrator):
    """A price was wrong for an hour: the books say whose token changed how many, and when."""
    await imported(fleet.operator(), shop, {"1": "{}", "2": "{"}, store_id=shop.store_id)

    (row,) = await migrator.fetch("SELECT actor, action, detail FROM tillsync.audit")

    assert (row["actor"], row["action"]) == ("test", "import_records")
    assert json.loads(row["detail"]) == {
        "collection": "price",
        "store_id": shop.store_id,
        "complete": False,
        "changed": 1,
        "unchanged": 0,
        "deleted": 0,
        "refused": 1,
        "version": 2,
    }


async def test_imports_of_a_tenant_take_turns(operator, shop, migrator):
    """Two lists are taken in at once: each is whole, and no version is used twice."""
    lists = [{f"{n}-{one}": "{}" for one in range(50)} for n in range(6)]

    results = await asyncio.gather(*(result_of(operator, shop, records) for records in lists))

    assert sorted(result.version for result in results) == [1 + 50 * n for n in range(1, 7)]
    assert await versions_of(migrator, shop.tenant_id) == list(range(2, 302))


async def test_whoever_waits_for_news_is_woken_after_the_commit(database, shop, operator):
    """Tills hear of a new price at once and not with the next look."""
    heard = []
    store = RecordStore(database, heard.append)

    await store.publish(UUID(shop.tenant_id), uuid4(), "price", TENANT, complete=True)

    assert heard == [UUID(shop.tenant_id)]


async def test_a_record_that_is_not_there_is_not_found(operator, shop):
    """An operator who looks for a product that never was does not read an empty one."""
    for place, code, reason in (
        ({"record_id": "1"}, "NOT_FOUND", "NOT_FOUND"),
        ({"record_id": ""}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"record_id": "a\0"}, "INVALID_ARGUMENT", "FIELD_INVALID"),
        ({"collection": "prize"}, "INVALID_ARGUMENT", "COLLECTION_UNKNOWN"),
        ({"store_id": str(uuid4())}, "NOT_FOUND", "NOT_FOUND"),
        ({"store_id": str(UUID(int=0))}, "INVALID_ARGUMENT", "FIELD_INVALID"),
    ):
        failure = await failure_of(body_of(operator, shop, **{"record_id": "1", **place}))
        assert (failure.code.name, failure.reason) == (code, reason), place


# What each method needs, with ids that exist for nobody; the import's is its first message.
A_UUID = str(uuid4())
REQUESTS = {
    "DefineCollection": {"tenant_id": A_UUID, "collection": PRICE},
    "ListCollections": {"tenant_id": A_UUID},
    "ImportRecords": {"settings": {"tenant_id": A_UUID, "collection": "price"}},
    "GetRecord": {"tenant_id": A_UUID, "collection": "price", "record_id": "1"},
    "ListConflicts": {"tenant_id": A_UUID},
    "GetConflict": {"tenant_id": A_UUID, "conflict_id": 1},
    "ResolveConflict": {"tenant_id": A_UUID, "conflict_id": 1, "choice": 1},
}


def test_every_method_is_listed_here():
    """A new method cannot be forgotten by the tests below."""
    service = pb.DESCRIPTOR.services_by_name["RecordService"]
    assert {method.name for method in service.methods} == set(REQUESTS)


def called(stub, method, request, **options):
    message = getattr(pb, f"{method}Request")(**request)
    if method != "ImportRecords":
        return getattr(stub, method)(message, **options)

    async def requests():
        yield message

    async def answers():
        return [answer async for answer in stub.ImportRecords(requests(), **options)]

    return answers()


@pytest.mark.parametrize("method", REQUESTS)
async def test_an_operator_of_one_tenant_is_kept_out_of_the_others(fleet, method):
    """A retailer's own operator neither sees nor changes another retailer's records."""
    limited = fleet.operator(uuid4())

    failure = await failure_of(called(limited.records, method, REQUESTS[method]))

    assert failure.reason == "PERMISSION_DENIED"


@pytest.mark.parametrize("method", REQUESTS)
async def test_a_till_is_no_operator(fleet, method):
    """A till's token, or none, opens nothing of the operator's."""
    token = (await (await fleet.an_enrolled_till()).issue()).access_token
    stub = RecordServiceStub(fleet.channel)
    bearer = (("authorization", f"Bearer {token}"),)

    as_till = await failure_of(called(stub, method, REQUESTS[method], metadata=bearer))
    as_nobody = await failure_of(called(stub, method, REQUESTS[method]))

    assert (as_till.reason, as_nobody.reason) == ("PERMISSION_DENIED", "TOKEN_MISSING")


@pytest.mark.parametrize("method", REQUESTS)
async def test_what_does_not_exist_is_not_found(operator, method):
    """An operator who mistypes a tenant's id does not read an empty list and believe it."""
    failure = await failure_of(called(operator.records, method, REQUESTS[method]))

    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_f43_two_tenants_may_have_the_same_product(fleet, operator, shop, migrator):
    """F43: two retailers number a product alike: each has its own price, versions and sums."""
    other = await fleet.a_store()
    await define(operator, other.tenant_id, **PRICE)
    await imported(operator, shop, {"4711": '{"cents":100}', "1": "{}"})
    await imported(operator, other, {"4711": '{"cents":999}'})

    await imported(operator, other, {"4711": ""}, complete=True)

    assert await body_of(operator, shop, "4711") == '{"cents":100}'
    assert await body_of(operator, other, "4711") == ""
    assert await parts_of(migrator, shop.tenant_id) == {
        ("price", ""): (2, digest_of({"4711": '{"cents":100}', "1": "{}"}))
    }
    assert await parts_of(migrator, other.tenant_id) == {}
    assert await head_of(migrator, shop.tenant_id) == 3
    assert await head_of(migrator, other.tenant_id) == 3


async def test_f43_what_is_anothers_is_as_if_it_did_not_exist(fleet, operator, shop):
    """F43: whoever tries the ids of another retailer learns nothing, not even that they exist."""
    own = await fleet.a_store()
    await define(operator, shop.tenant_id, name="secret")
    await define(operator, own.tenant_id, **PRICE)
    limited = fleet.operator(own.tenant_id)
    for field, theirs, nobodys in (
        ("store_id", shop.store_id, str(uuid4())),
        ("collection", "secret", "nothing"),
    ):
        for ask in (
            lambda **place: imported(limited, own, {"1": "{}"}, **place),
            lambda **place: body_of(limited, own, "1", **place),
        ):
            foreign = await failure_of(ask(**{field: theirs}))
            unknown = await failure_of(ask(**{field: nobodys}))
            assert (foreign.code, foreign.reason, foreign.text.replace(theirs, nobodys)) == (
                unknown.code,
                unknown.reason,
                unknown.text,
            )
            assert foreign.reason in {"NOT_FOUND", "COLLECTION_UNKNOWN"}
