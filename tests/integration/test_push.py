"""A till's own edits: each counts once, in its order, and the till ends equal to head office."""

import asyncio
import threading
from contextlib import aclosing

import grpc
import pytest

from support.builders import a_device
from support.polling import eventually
from support.service import failure_of
from support.sync import HeadOffice, PullingDevice, sync_served
from tillsync.v1 import sync_service_pb2 as pb
from tillsync_service.foundation.db import Database
from tillsync_service.sync import edit_store
from tillsync_service.sync.edits import judge


@pytest.fixture
async def office(database, migrator, device):
    office = HeadOffice(database, migrator, device.tenant_id)
    await office.define("stock", "server_wins")
    await office.define("customer", "arrival_wins")
    await office.define("contract", "manual")
    return office


@pytest.fixture
async def served(database, database_url, office):
    async with sync_served(database, database_url) as served:
        office.changed = served.wakeups.tell
        yield served


@pytest.fixture
async def till(served, device):
    async with PullingDevice(served.address, device) as till:
        yield till


def edit(sequence, kind="PUT", body='{"n":1}', *, base=0, collection="stock", **more):
    return pb.Mutation(
        sequence=sequence,
        kind=f"MUTATION_KIND_{kind}",
        body=body,
        base_version=base,
        collection=collection,
        record_id=more.pop("record_id", "4711"),
        mutation_id=more.pop("mutation_id", f"edit {sequence}"),
        **more,
    )


def outcomes(response):
    names = [pb.MutationOutcome.Name(result.outcome) for result in response.results]
    return [name.removeprefix("MUTATION_OUTCOME_") for name in names]


async def test_edits_are_applied_once_however_often_they_are_pushed(office, till):
    """The answer to a till's stock movements is lost and it pushes them again, with new ones: each
    moves the stock once, and the till hears the first outcomes again."""
    moves = [edit(n, "ADD", '{"n":-1}') for n in (1, 2, 3)]
    first = await till.push(7, *moves[:2])
    again = await till.push(7, *moves)

    assert outcomes(again) == ["APPLIED"] * 3
    assert list(again.results[:2]) == list(first.results)
    assert again.next_sequence == 4
    assert (await office.records())["stock", "", "4711"] == '{"n":-3}'


async def test_f47_head_office_edits_the_record_while_the_push_is_under_way(office, till):
    """Head office changes the very record that a till is pushing an edit of; whatever wins, the
    till ends with what head office has."""
    base = await office.write("customer", {"4711": {"name": "Ann"}})
    await till.pull()
    pushed, _ = await asyncio.gather(
        till.push(1, edit(1, "PATCH", '{"phone":"1"}', base=base, collection="customer")),
        office.write("customer", {"4711": {"name": "Anna"}}),
    )

    copy = await till.pull()
    assert outcomes(pushed)[0] in {"APPLIED", "WON"}
    assert copy.records == await office.records()
    assert copy.marks == {1: 1}


@pytest.mark.parametrize(
    ("collection", "outcome", "after"),
    [
        ("stock", "LOST", '{"n":9}'),
        ("customer", "WON", '{"n":1}'),
        ("contract", "PARKED", '{"n":9}'),
    ],
)
async def test_every_conflict_is_kept_with_both_sides(
    office, till, migrator, collection, outcome, after
):
    """A till's edit meets a record that head office changed: the policy decides, and an operator
    can read what either side said."""
    base = await office.write(collection, {"4711": {"n": 0}})
    met = await office.write(collection, {"4711": {"n": 9}})

    response = await till.push(1, edit(1, base=base, collection=collection))

    assert outcomes(response) == [outcome]
    row = await migrator.fetchrow("SELECT * FROM tillsync.conflict")
    assert (row["outcome"], row["met_version"], row["met_body"], row["edit_body"]) == (
        outcome.lower(),
        met,
        '{"n":9}',
        '{"n":1}',
    )
    assert (await office.records())[collection, "", "4711"] == after
    assert (await till.pull()).records == await office.records()


async def test_a_live_till_hears_that_its_lost_edit_is_dealt_with(office, till, device):
    """A till's edit changed nothing; a checkpoint tells it all the same, so that it stops showing
    the edit."""
    await office.write("stock", {"4711": {"n": 9}})
    async with aclosing(till.responses(live=True)) as responses:
        while not (await anext(responses)).HasField("checkpoint"):
            pass
        await till.push(5, edit(1))
        message = await asyncio.wait_for(anext(responses), 10)

    assert [(mark.epoch, mark.sequence) for mark in message.checkpoint.marks] == [(5, 1)]


async def test_edits_that_begin_too_late_are_not_applied(office, till):
    """The service was restored and lacks a till's first edits: it says from where, and applies
    nothing out of its order."""
    response = await till.push(1, edit(3))

    assert (response.next_sequence, list(response.results)) == (1, [])
    assert await office.records() == {}


async def test_a_number_used_for_two_edits_is_named(office, till):
    """A cloned till pushes another edit under a number that was used: an error says so, nothing is
    applied, and under a new numbering both edits count."""
    await till.push(1, edit(1, "ADD"))

    partly = await till.push(1, edit(1, "ADD"))
    assert len(partly.results) == 1
    # The same movement, of another day.
    failure = await failure_of(till.push(1, edit(1, "ADD", mutation_id="another"), edit(2, "ADD")))
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "MUTATION_REUSED",
    )
    assert (await office.records())["stock", "", "4711"] == '{"n":1}'
    await till.push(2, edit(1, "ADD", '{"n":5}'))
    assert (await office.records())["stock", "", "4711"] == '{"n":6}'


BAD = {
    "epoch": (0, [edit(1)]),
    "mutations": (1, []),
    "mutations[0].sequence": (1, [edit(0)]),
    "mutations[1].sequence": (1, [edit(1), edit(3)]),
    "mutations[0].kind": (1, [edit(1, "UNSPECIFIED")]),
    "mutations[0].base_version": (1, [edit(1, base=-1)]),
    "mutations[0].body": (1, [edit(1, body="x" * 65_537)]),
    "mutations[0].record_id": (1, [edit(1, record_id="")]),
    "mutations[0].collection": (1, [edit(1, collection="\0")]),
    "mutations[0].mutation_id": (1, [edit(1, mutation_id="")]),
    "mutations[0].store_id": (1, [edit(1, store_id="nowhere")]),
}


@pytest.mark.parametrize("field", BAD)
async def test_a_push_that_is_none_names_the_field(office, till, field):
    """A request that no agent of ours makes is refused by the name of its field, and nothing of it
    is applied."""
    epoch, mutations = BAD[field]

    failure = await failure_of(till.push(epoch, *mutations))

    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.text.startswith(f"{field}: ")
    assert await office.records() == {}


async def test_values_that_can_never_be_applied_get_an_outcome(office, till):
    """An unknown collection, a body that is no object and a patch of what is gone are recorded with
    their reasons; the edit behind them is applied."""
    response = await till.push(
        1,
        edit(1, collection="stok"),
        edit(2, body="[]"),
        edit(3, "PATCH", base=5),
        edit(4),
    )

    assert outcomes(response) == ["REJECTED", "REJECTED", "LOST", "APPLIED"]
    assert [r.refusal.reason for r in response.results] == [
        "COLLECTION_UNKNOWN",
        "RECORD_NOT_STORABLE",
        "RECORD_GONE",
        "",
    ]


async def test_f43_the_same_record_of_another_tenant_is_another_record(
    office, till, served, books, database, migrator
):
    """Two retailers' tills edit a record of the same name: neither touches the other's, and one
    that another tenant has does not exist for this one."""
    stranger = await books.enrol()
    others = HeadOffice(database, migrator, stranger.tenant_id)
    await others.define("stock")
    base = await others.write("stock", {"4711": {"n": 50}})

    async with PullingDevice(served.address, stranger) as theirs:
        mine = await till.push(1, edit(1, "PATCH", '{"n":1}', base=base))
        await theirs.push(1, edit(1, "ADD", '{"n":-1}'))

    assert mine.results[0].refusal.reason == "RECORD_GONE"
    assert await others.records() == {("stock", "", "4711"): '{"n":49}'}
    assert await office.records() == {}


async def test_a_device_that_nobody_knows_pushes_nothing(office, served, device):
    """A token of a device that is not in the tenant any more changes nothing."""
    async with PullingDevice(served.address, a_device(device.tenant_id)) as ghost:
        failure = await failure_of(ghost.push(1, edit(1)))
        assert failure.reason == "TENANT_GONE"
        assert (await failure_of(ghost.pull())).reason == "TENANT_GONE"
    assert await office.records() == {}


async def test_tills_that_wait_for_an_import_hold_up_no_other_retailer(
    database_url, office, device, books, migrator
):
    """An import of one retailer's holds the lock while twenty of its tills push: another retailer's
    till pulls as if nothing were."""
    sync = await Database.connect(database_url, connections=3)
    async with (
        sync_served(sync, database_url) as served,
        PullingDevice(served.address, device) as busy,
        PullingDevice(served.address, await books.enrol()) as other,
    ):
        await other.pull()  # connections are there
        async with migrator.transaction():
            await migrator.execute(
                "SELECT FROM tillsync.tenant_head WHERE tenant_id = $1 AND stream = 'record'"
                " FOR UPDATE",
                device.tenant_id,
            )
            pushes = [asyncio.create_task(busy.push(1 + n, edit(1, "ADD"))) for n in range(20)]
            await eventually(lambda: _waits_for_a_lock(migrator))
            await asyncio.wait_for(other.pull(), 3)  # before any wait for the lock is given up
        receipts = await asyncio.gather(*pushes)
    await sync.close()

    assert [outcomes(receipt) for receipt in receipts] == [["APPLIED"]] * 20


async def test_large_edits_hold_up_nobody_else(office, till, monkeypatch):
    """A till adds to a large record five hundred times, which takes seconds to work out: meanwhile
    the service goes on with everybody's sales."""
    loop = asyncio.get_running_loop()
    others_were_served = threading.Event()

    def slowly(*arguments):
        loop.call_soon_threadsafe(others_were_served.set)
        assert others_were_served.wait(10)
        return judge(*arguments)

    monkeypatch.setattr(edit_store, "judge", slowly)

    assert outcomes(await till.push(7, edit(1, "ADD"))) == ["APPLIED"]


async def _waits_for_a_lock(migrator):
    return await migrator.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")
