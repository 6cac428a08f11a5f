"""Tills, stores, a head office and a network that all misbehave, in random order: in the end every
copy is head office's, and every movement of stock counts once.

The service's stores on a real PostgreSQL, the agent's replica on real files, its real decisions;
the network and the power are simulated. A failing schedule is replayed by its number:

    TILLSYNC_TEST_SCHEDULES=7-8 pytest tests/integration/test_sync_model.py
"""

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from support.sync import HeadOffice
from tillsync.v1 import sync_service_pb2 as pb
from tillsync_agent import sync_decisions
from tillsync_agent.answers import Failure
from tillsync_agent.errors import CollectionUnknown, EditRefused, RecordMissing
from tillsync_agent.replica import Replica
from tillsync_agent.sync_decisions import Next
from tillsync_service.databases import utc_now
from tillsync_service.foundation.errors import ServiceError, reason_name
from tillsync_service.sync import cursors, mutations, wire
from tillsync_service.sync.edit_store import EditStore
from tillsync_service.sync.read_store import ReadStore
from tillsync_service.sync.scopes import TENANT

FIRST, END = map(int, os.environ.get("TILLSYNC_TEST_SCHEDULES", "0-60").split("-"))
# Those that ended otherwise once, in every run.
SCHEDULES = sorted({*range(FIRST, END), 918, 919})
STEPS = 45
IDS = [f"r{n}" for n in range(5)]
# Everything of sync that a backup of the database holds.
BACKED_UP = (
    "tenant_head",
    "collection",
    "record",
    "record_digest",
    "mutation",
    "mutation_progress",
    "conflict",
)


class SimulatedTill:
    """A replica on disk, and what an agent does with it over a network that fails."""

    def __init__(self, world: "World", device, folder: Path) -> None:
        self.world = world
        self.device = device
        self.path = folder / f"{device.device_id}.db"
        self.replica = Replica.open(self.path)
        self.reload: list[str] = []

    def crash(self) -> None:
        """Loses what was in memory. What was in a transaction is on the disk or is not."""
        self.replica.close()
        self.replica = Replica.open(self.path)
        self.reload = []

    def edit(self, chance: random.Random) -> None:
        number = chance.randrange(100)
        record_id = chance.choice(IDS)
        scope = chance.choice(["shown", "store", "tenant"])
        try:
            match chance.randrange(6):
                case 0:
                    self.replica.put("customer", record_id, {"n": number}, scope=scope)
                case 1:
                    self.replica.patch("customer", record_id, {f"f{number % 3}": number})
                case 2:
                    self.replica.delete("customer", record_id)
                case 3:
                    self.replica.patch("price", record_id, {"minor": number}, scope=scope)
                case _:
                    delta = number - 50
                    self.replica.add("stock", record_id, {"n": delta}, scope="tenant")
                    self.world.moved[record_id] += delta
        except (RecordMissing, CollectionUnknown, EditRefused):
            pass  # nothing was written

    async def pull(self, messages: int) -> bool:
        """Up to so many messages of one stream; whether a checkpoint was reached."""
        of = self.replica.checkpoint_cursor if self.reload else self.replica.resume_cursor
        raw, reload = of(), tuple(self.reload)
        try:
            cursor = cursors.decoded(self.device.tenant_id, raw)
            for _ in range(messages):
                step = await self.world.reads.step(self.device, cursor, reload)
                cursor, reload = step.cursor, ()
                message = wire.pull_response(self.device.tenant_id, step, utc_now())
                received = self.replica.receive(
                    pb.PullResponse.FromString(message.SerializeToString())
                )
                self.must_be_whole()
                if received.applied is not None:
                    self.reload = received.applied.mismatched
                    self.world.mismatches += len(self.reload)
                    return True
        except ServiceError as error:
            self.decide(error)
        return False

    async def push(self, *, answer_lost: bool = False, limit: int = 3) -> bool:
        """Some edits; whether any were left."""
        epoch, waiting = self.replica.edits_to_push(limit)
        if not waiting:
            return False
        request = pb.PushRequest(epoch=epoch, mutations=waiting)
        try:
            edits = mutations.edits_of(request)
            receipt = await self.world.edits.push(self.device, epoch, edits)
        except ServiceError as error:
            self.decide(error)
            return True
        if not answer_lost:
            answer = wire.push_response(edits[0].sequence, receipt)
            self.replica.answered(list(answer.results), answer.next_sequence)
        return True

    def decide(self, error: ServiceError) -> None:
        """What the agent decides, it does."""
        failure = Failure(error.code.name, str(error), reason_name(error.reason))
        decision = sync_decisions.of_failure(failure, token_is_new=False)
        match decision.next:
            case Next.RENUMBER:
                self.replica.renumber()
            case Next.FORGET_CURSOR:
                self.replica.forget_cursor()
            case _:
                raise AssertionError(f"nothing was decided about {failure}")

    def must_be_whole(self) -> None:
        """I6: the two halves of a change are there together, or neither is."""
        left = self.replica.lookup("price", "left")
        right = self.replica.lookup("price", "right")
        assert (left and left.fields) == (right and right.fields)

    def copy(self) -> dict[tuple[str, str, str], str]:
        rows = self.replica._read(
            "SELECT p.collection, p.store_id, r.record_id, r.body FROM part p"
            " JOIN record r USING (part_id) WHERE p.state = 'visible'"
        )
        return {tuple(row[:3]): row[3] for row in rows}


class World:
    """One tenant with two stores, three tills and a chance that decides what happens next."""

    def __init__(self, seed, database, migrator, devices, folder) -> None:
        self.chance = random.Random(seed)
        self.happened: Counter[str] = Counter()
        self.migrator = migrator
        self.reads = ReadStore(database, page_records=self.chance.choice([1, 2, 5]))
        self.edits = EditStore(database, lambda _: None)
        self.office = HeadOffice(database, migrator, devices[0].tenant_id)
        self.stores = [device.store_id for device in devices]
        self.tills = [SimulatedTill(self, device, folder) for device in devices]
        self.images: dict[int, Path] = {}
        self.moved: Counter[str] = Counter()
        self.mismatches = 0
        self.backup = None

    async def happens(self) -> None:
        """One of the things that happen, the usual ones more often."""
        chance, till = self.chance, self.chance.choice(self.tills)
        events = {
            lambda: self.head_office_writes(complete=chance.random() < 0.2): 4,
            lambda: till.edit(chance): 4,
            lambda: till.pull(chance.randrange(1, 8)): 3,
            lambda: till.push(answer_lost=chance.random() < 0.4): 3,
            till.crash: 2,
            lambda: self.office.move(till.device, chance.choice(self.stores)): 1,
            self.office.forget_deletions: 1,
            self.backed_up_or_restored: 1,
            self.redefine: 1,
        }
        (event,) = chance.choices(list(events), weights=events.values())
        done = event()
        if done is not None:
            await done

    async def redefine(self) -> None:
        name = self.chance.choice(["price", "customer"])
        keys = tuple(self.chance.sample(["n", "minor"], self.chance.randrange(3)))
        await self.office.define(name, POLICIES[name], keys=keys)

    async def backed_up_or_restored(self) -> None:
        if self.backup is None:
            self.backup = await self.backed_up()
        else:
            await self.restore(self.backup)
            self.backup = None

    async def head_office_writes(self, *, complete: bool = False) -> None:
        chance = self.chance
        both = {"minor": chance.randrange(1000)}
        scope = chance.choice([TENANT, *self.stores])
        some = {
            record_id: None if chance.random() < 0.3 else {"minor": chance.randrange(100)}
            for record_id in chance.sample(IDS, 2)
        }
        await self.office.write(
            "price", {"left": both, "right": both, **some}, scope=scope, complete=complete
        )
        await self.office.write("customer", {chance.choice(IDS): {"n": chance.randrange(100)}})

    async def backed_up(self):
        tenant_id = self.office.tenant_id
        return {
            name: await self.migrator.fetch(
                f"SELECT * FROM tillsync.{name} WHERE tenant_id = $1", tenant_id
            )
            for name in BACKED_UP
        }

    async def restore(self, backup) -> None:
        """The database is set back, and the operator says so."""
        for name, rows in backup.items():
            await self.migrator.execute(
                f"DELETE FROM tillsync.{name} WHERE tenant_id = $1", self.office.tenant_id
            )
            await self.migrator.copy_records_to_table(name, records=rows, schema_name="tillsync")
        await self.office.restored()

    async def heals(self) -> None:
        """The links are up and nobody writes any more: everything is pushed and pulled."""
        for _ in range(3):
            for till in self.tills:
                # What a copy is told last may be what it lacks first: the service was set back.
                for _ in range(2):
                    while not await till.pull(1_000) or till.reload:
                        pass
                    while await till.push(limit=50):
                        pass

    async def must_be_equal(self) -> None:
        for till in self.tills:
            store_id = await self.migrator.fetchval(
                "SELECT store_id FROM tillsync.device WHERE device_id = $1", till.device.device_id
            )
            assert till.copy() == await self.office.records(store_id)
            assert till.replica.verify() == []
            assert [edit for edit in till.replica.edits() if edit.shown] == []
        stock = {
            record_id: json.loads(body)["n"]
            for (name, _, record_id), body in (await self.office.records()).items()
            if name == "stock"
        }
        assert stock == dict(self.moved)
        assert self.mismatches == 0


POLICIES = {"price": "server_wins", "customer": "arrival_wins", "stock": "server_wins"}


@pytest.mark.parametrize("seed", SCHEDULES)
async def test_i6_i7_i11_any_schedule_ends_equal(seed, database, migrator, books, tmp_path):
    """Whatever was cut, lost, killed, moved, forgotten or set back: no till ever shows half a price
    change, every till ends with what head office has, and no movement of stock is lost or doubled.
    """
    first = await books.enrol()
    devices = [first, await books.enrol(first.tenant_id), await books.enrol(first.tenant_id)]
    world = World(seed, database, migrator, devices, tmp_path)
    for name, policy in POLICIES.items():
        await world.office.define(name, policy)

    for _ in range(STEPS):
        await world.happens()
    await world.heals()

    await world.must_be_equal()


async def test_a_till_set_back_to_an_old_disk_image_loses_no_new_edit(
    database, migrator, books, tmp_path
):
    """A technician puts last week's disk image into a till: the edits that it makes from then on
    have numbers that were used, and all count."""
    device = await books.enrol()
    world = World(1, database, migrator, [device], tmp_path)
    for name, policy in POLICIES.items():
        await world.office.define(name, policy)
    (till,) = world.tills
    await till.pull(100)
    till.replica.close()
    shutil.copy(till.path, tmp_path / "image.db")
    till.crash()
    till.replica.add("stock", "r0", {"n": -1}, scope="tenant")
    await till.push()
    till.replica.close()
    shutil.copy(tmp_path / "image.db", till.path)
    till.crash()

    till.replica.add("stock", "r0", {"n": -1}, scope="tenant")
    await world.heals()

    assert (await world.office.records())["stock", "", "r0"] == '{"n":-2}'
    assert till.copy() == await world.office.records()
