"""Callers of one tenant share a transaction, and nothing else."""

import asyncio
from uuid import UUID, uuid4

import pytest

from support.builders import a_device, an_event, examined, rows, some_events
from support.polling import eventually
from support.service import names
from tillsync_service.foundation.db import DataRefused
from tillsync_service.foundation.errors import Overloaded, Unavailable
from tillsync_service.ingest.batch import Batch
from tillsync_service.ingest.group_commit import GroupCommit
from tillsync_service.ingest.store import Receipt
from tillsync_service.ingest.verdicts import ACCEPTED, REJECTED, Verdicts

TENANT = uuid4()


class SlowStore:
    """Notes each group, waits at the door while it is closed, and refuses keys like Postgres."""

    def __init__(self, *, refuses: frozenset[str] = frozenset()) -> None:
        self.groups: list[tuple[UUID, list[str]]] = []
        self.stored: list[str] = []
        self.inside = 0
        self.most_inside = 0
        self.fails: Exception | None = None
        self.sqlstate = "22021"
        self._refuses = refuses
        self._door = asyncio.Event()
        self._door.set()

    def close_door(self) -> None:
        self._door.clear()

    def open_door(self) -> None:
        self._door.set()

    async def commit(self, tenant_id: UUID, batches: list[Batch]) -> list[Receipt]:
        keys = [row.key for batch in batches for row in rows(batch) if not row.refusal]
        self.groups.append((tenant_id, keys))
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            await self._door.wait()
            if self.fails:
                raise self.fails
            if self._refuses & {*keys}:
                raise DataRefused(self.sqlstate, None)
        finally:
            self.inside -= 1
        return [Receipt("history", self._verdicts(batch)) for batch in batches]

    def _verdicts(self, batch: Batch) -> Verdicts:
        verdicts = Verdicts([], [], [0] * len(batch), batch.refusals)
        for key, refusal in zip(batch.keys, batch.refusals, strict=True):
            if not refusal:
                self.stored.append(key)
            verdicts.outcomes.append(REJECTED if refusal else ACCEPTED)
            verdicts.positions.append(0 if refusal else len(self.stored))
        return verdicts


def a_batch(*keys: str) -> Batch:
    return examined(a_device(TENANT), *(an_event(key) for key in keys))


def submit(group_commit: GroupCommit, batch: Batch, tenant_id: UUID = TENANT) -> asyncio.Task:
    return asyncio.create_task(group_commit.submit(tenant_id, batch))


async def a_busy_lane(store: SlowStore, group_commit: GroupCommit, *batches: Batch) -> list:
    """One batch on its way and `batches` waiting behind it."""
    store.close_door()
    first = submit(group_commit, a_batch("first"))
    await eventually(lambda: store.inside)
    waiting = [submit(group_commit, batch) for batch in batches]
    await asyncio.sleep(0)
    return [first, *waiting]


async def test_what_comes_while_one_is_on_its_way_goes_together():
    """On a Saturday, a hundred tills of one chain cost one transaction and not a hundred."""
    store = SlowStore()
    group_commit = GroupCommit(store)
    calls = await a_busy_lane(store, group_commit, *(a_batch(f"k{n}") for n in range(100)))

    store.open_door()
    await asyncio.gather(*calls)

    assert [len(keys) for _, keys in store.groups] == [1, 100]


async def test_each_caller_hears_of_its_own_sales_only():
    """Two tills in one transaction each hear what became of their own sales, in their order."""
    store = SlowStore()
    group_commit = GroupCommit(store)
    calls = await a_busy_lane(store, group_commit, a_batch("a", "b"), a_batch("c"))

    store.open_door()
    receipts = await asyncio.gather(*calls)

    positions = [receipt.verdicts.positions for receipt in receipts]
    assert positions == [[1], [2, 3], [4]]
    assert {receipt.history_id for receipt in receipts} == {"history"}


async def test_i9_one_refused_event_delays_no_other():
    """One sale that the database cannot hold is named to its till; the other tills in the same
    transaction, and the other sales of the same batch, are stored."""
    store = SlowStore(refuses=frozenset({"bad"}))
    group_commit = GroupCommit(store)
    keys = [f"k{n}" for n in range(99)]
    calls = await a_busy_lane(
        store, group_commit, a_batch("a"), a_batch(*keys[:50], "bad", *keys[50:]), a_batch("b")
    )

    store.open_door()
    _, before, mixed, after = await asyncio.gather(*calls)

    assert names(before.verdicts) == names(after.verdicts) == ["ACCEPTED"]
    assert names(mixed.verdicts) == ["ACCEPTED"] * 50 + ["REJECTED"] + ["ACCEPTED"] * 49
    assert mixed.verdicts.refusals[50].reason == "EVENT_NOT_STORABLE"
    assert store.stored == ["first", "a", *keys, "b"]


async def test_the_lone_culprit_is_found_in_few_transactions():
    """A poisoned batch of a thousand costs some twenty transactions and not a thousand."""
    store = SlowStore(refuses=frozenset({"bad"}))
    keys = [f"k{n}" for n in range(999)]

    receipt = await GroupCommit(store).submit(TENANT, a_batch(*keys, "bad"))

    assert names(receipt.verdicts) == ["ACCEPTED"] * 999 + ["REJECTED"]
    assert len(store.groups) < 30


async def test_an_outage_is_everybodys_and_no_verdict():
    """While the database is away each till hears that it shall send again, and none is told that
    its sale was refused."""
    store = SlowStore()
    group_commit = GroupCommit(store)
    calls = await a_busy_lane(store, group_commit, a_batch("a"), a_batch("b"))
    store.fails = Unavailable("away")

    store.open_door()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    assert store.stored == []


async def test_an_outage_while_the_culprit_is_sought_fails_the_caller():
    """The database goes away in the middle of a poisoned batch: the till sends it all again."""

    class Failing(SlowStore):
        async def commit(self, tenant_id, batches):
            if len(self.groups) == 3:
                self.fails = Unavailable("away")
            return await super().commit(tenant_id, batches)

    store = Failing(refuses=frozenset({"bad"}))

    with pytest.raises(Unavailable):
        await GroupCommit(store).submit(TENANT, a_batch("a", "b", "c", "bad"))


async def test_after_an_outage_the_lane_goes_on():
    """When the database is back the next sale is stored; nothing has to be restarted."""
    store = SlowStore()
    group_commit = GroupCommit(store)
    store.fails = Unavailable("away")
    with pytest.raises(Unavailable):
        await group_commit.submit(TENANT, a_batch("a"))
    store.fails = None

    assert names((await group_commit.submit(TENANT, a_batch("a"))).verdicts) == ["ACCEPTED"]


@pytest.mark.parametrize("who", [0, 1])
async def test_a_till_that_hangs_up_takes_nobody_with_it(who):
    """One till is switched off while its batch is on its way or waits: the other tills' sales of
    the same transaction are stored and answered, and so is its own, for when it comes back."""
    store = SlowStore()
    group_commit = GroupCommit(store)
    calls = await a_busy_lane(store, group_commit, a_batch("a"), a_batch("b"))

    calls.pop(who).cancel()
    store.open_door()
    receipts = await asyncio.gather(*calls)
    await group_commit.drain()

    assert all(names(receipt.verdicts) == ["ACCEPTED"] for receipt in receipts)
    assert store.stored == ["first", "a", "b"]


async def test_too_much_waiting_is_refused_at_once():
    """A flood is told to come back in a moment; what waits already keeps its place."""
    store = SlowStore()
    group_commit = GroupCommit(store, max_waiting_events=10)
    calls = await a_busy_lane(store, group_commit, a_batch(*"abcdefgh"))

    with pytest.raises(Overloaded):
        await group_commit.submit(TENANT, a_batch("x", "y", "z"))
    calls.append(submit(group_commit, a_batch("i", "j")))
    store.open_door()
    await asyncio.gather(*calls)

    assert store.stored == ["first", *"abcdefghij"]
    assert names((await group_commit.submit(TENANT, a_batch(*"xyz"))).verdicts) == ["ACCEPTED"] * 3


async def test_one_tenant_holds_few_connections():
    """A chain with a thousand tills online leaves the other chains their connections."""
    store = SlowStore()
    group_commit = GroupCommit(store, max_group_events=2, max_groups_per_tenant=2)
    calls = await a_busy_lane(store, group_commit, *(a_batch(f"k{n}") for n in range(50)))

    store.open_door()
    await asyncio.gather(*calls)

    assert store.most_inside == 2
    assert max(len(keys) for _, keys in store.groups) == 2
    assert sorted(store.stored) == sorted(["first", *(f"k{n}" for n in range(50))])


async def test_a_full_group_does_not_wait_for_the_one_before():
    """While one transaction writes, the next full one stands ready at the database."""
    store = SlowStore()
    group_commit = GroupCommit(store, max_group_events=2)
    calls = await a_busy_lane(store, group_commit, a_batch("a"), a_batch("b"))

    await eventually(lambda: store.inside == 2)

    store.open_door()
    await asyncio.gather(*calls)


async def test_a_busy_tenant_starves_no_other():
    """While one chain's backlog pours in, a sale of another chain goes straight through."""
    store = SlowStore()
    group_commit = GroupCommit(store)
    other = uuid4()
    calls = await a_busy_lane(store, group_commit, *(a_batch(f"k{n}") for n in range(50)))

    quick = submit(group_commit, a_batch("other"), other)
    await eventually(lambda: (other, ["other"]) in store.groups)

    store.open_door()
    await asyncio.gather(*calls, quick)


async def test_one_call_of_more_events_than_a_group_takes_is_one_group():
    """The largest batch that the contract allows is stored whole, however small groups are."""
    store = SlowStore()

    receipt = await GroupCommit(store, max_group_events=1).submit(TENANT, a_batch(*"abc"))

    assert names(receipt.verdicts) == ["ACCEPTED"] * 3
    assert len(store.groups) == 1


async def test_off_gives_every_call_its_own_transaction():
    """Whoever measures without grouping measures just that."""
    store = SlowStore()
    group_commit = GroupCommit(store, max_group_events=1, max_groups_per_tenant=5)
    calls = await a_busy_lane(store, group_commit, *(a_batch(f"k{n}") for n in range(9)))

    await eventually(lambda: store.inside == 5)

    store.open_door()
    await asyncio.gather(*calls)
    assert store.most_inside == 5
    assert [len(keys) for _, keys in store.groups] == [1] * 10


async def test_drain_waits_for_what_is_on_its_way():
    """A service that stops has stored what it took on, callers or not."""
    store = SlowStore()
    group_commit = GroupCommit(store)
    calls = await a_busy_lane(store, group_commit, a_batch("a"))
    for call in calls:
        call.cancel()

    draining = asyncio.create_task(group_commit.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    store.open_door()
    await draining

    assert store.stored == ["first", "a"]


async def test_a_quiet_tenant_leaves_nothing_behind():
    """Ten thousand chains that were here once cost a service no memory."""
    group_commit = GroupCommit(SlowStore())

    for _ in range(10):
        tenant_id = uuid4()
        await group_commit.submit(tenant_id, examined(a_device(tenant_id), *some_events(2)))
    await eventually(lambda: not group_commit._lanes)


async def test_a_database_that_contradicts_itself_refuses_no_sale():
    # A head row behind its history (a half restored database): 23505 at every event.
    store = SlowStore(refuses=frozenset({"poison"}))
    store.sqlstate = "23505"

    with pytest.raises(Unavailable):
        await GroupCommit(store).submit(TENANT, a_batch("sale", "poison"))


async def test_large_bodies_fill_a_group():
    store = SlowStore()
    group_commit = GroupCommit(store, max_group_bytes=2_000)
    large = [
        examined(a_device(TENANT), an_event(f"large-{n}", receipt="x" * 1_500)) for n in range(3)
    ]

    tasks = await a_busy_lane(store, group_commit, *large)
    store.open_door()
    await asyncio.gather(*tasks)

    assert [keys for _, keys in store.groups] == [["first"], ["large-0"], ["large-1"], ["large-2"]]


async def test_too_many_waiting_bytes_are_refused_at_once():
    store = SlowStore()
    group_commit = GroupCommit(store, max_waiting_bytes=2_000)
    large = examined(a_device(TENANT), an_event("large", receipt="x" * 1_500))

    tasks = await a_busy_lane(store, group_commit, large)
    with pytest.raises(Overloaded):
        await group_commit.submit(
            TENANT, examined(a_device(TENANT), an_event("second", receipt="x" * 1_500))
        )
    store.open_door()
    await asyncio.gather(*tasks)
