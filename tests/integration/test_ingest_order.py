"""The order rule: a reader that remembers one number misses nothing, whatever was in flight."""

import asyncio
import random

import pytest

from support.books import CommitGate
from support.builders import an_event, examined, rows
from support.polling import eventually
from support.service import names
from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Database
from tillsync_service.foundation.errors import Unavailable
from tillsync_service.ingest.store import IngestStore


class Reader:
    """An integrator's side: `position > cursor`, and nothing else."""

    def __init__(self, connection, tenant_id) -> None:
        self._connection = connection
        self._tenant_id = tenant_id
        self.cursor = 0
        self.read: list[str] = []
        self.positions: list[int] = []

    async def poll(self) -> None:
        rows = await self._connection.fetch(
            "SELECT position, key FROM tillsync.event WHERE tenant_id = $1 AND position > $2"
            " ORDER BY position",
            self._tenant_id,
            self.cursor,
        )
        for row in rows:
            self.read.append(row["key"])
            self.positions.append(row["position"])
            self.cursor = row["position"]


@pytest.fixture
async def reader(books, device):
    return Reader(books.connection, device.tenant_id)


@pytest.fixture
async def replicas(database_url):
    """Two stores with pools of their own, as two replicas have."""
    pools = [await Database.connect(database_url) for _ in range(2)]
    yield [IngestStore(pool) for pool in pools]
    for pool in pools:
        await pool.close()


async def commit(store, device, *keys):
    (receipt,) = await store.commit(
        device.tenant_id, [examined(device, *(an_event(key) for key in keys))]
    )
    return rows(receipt.verdicts)


async def locked_out(books) -> list:
    return await books.connection.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND wait_event <> 'advisory'"
    )


async def test_i5_a_slow_transaction_is_never_passed(replicas, device, books, reader):
    """F1: one replica is slow to commit while the other is quick. The quick one's sale waits for
    its turn, so that whoever reads on never misses the slow one's."""
    gate = CommitGate(books.connection)
    await gate.build()
    await gate.close()

    slow = asyncio.create_task(commit(replicas[0], device, "slow"))
    await eventually(gate.waiting)
    quick = asyncio.create_task(commit(replicas[1], device, "quick"))
    await eventually(lambda: locked_out(books))
    await reader.poll()
    assert reader.read == []

    await gate.open()
    await asyncio.gather(slow, quick)
    await reader.poll()
    assert reader.read == ["slow", "quick"]
    assert reader.positions == [1, 2]


async def test_i5_a_transaction_that_is_open_too_long_delays_and_hides_nothing(
    database_url, device, books, reader, monkeypatch
):
    """F2: a transaction hangs longer than any timeout. The sales behind it are told to come again;
    nobody reads past it, and its own sale is not skipped when it ends at last."""
    gate = CommitGate(books.connection)
    await gate.build()
    await gate.close()
    patient = await Database.connect(database_url)
    monkeypatch.setattr(limits, "LOCK_TIMEOUT_MS", 200)
    database = await Database.connect(database_url)
    store = IngestStore(database)
    slow = asyncio.create_task(commit(IngestStore(patient), device, "slow"))
    await eventually(gate.waiting)

    for _ in range(2):
        with pytest.raises(Unavailable):
            await commit(store, device, "quick")
    await reader.poll()
    assert reader.read == []

    await gate.open()
    await slow
    await reader.poll()
    await commit(store, device, "quick")
    await reader.poll()
    assert reader.read == ["slow", "quick"]
    await database.close()
    await patient.close()


async def test_i5_a_rollback_takes_no_position(replicas, device, books):
    """A transaction that fails leaves no hole that a reader would wait for."""
    await books.refuse_key("bad", "40001")
    await commit(replicas[0], device, "a")

    with pytest.raises(Unavailable):
        await commit(replicas[0], device, "b", "bad", "c")
    (verdict,) = await commit(replicas[1], device, "d")

    assert verdict.position == 2
    assert await books.positions(device.tenant_id) == [1, 2]
    assert await books.head(device.tenant_id) == 2


async def test_i5_a_retry_of_stored_sales_stands_in_line_too(replicas, device, books):
    """A retry that will find only duplicates waits for the transaction before it: it acknowledges
    nothing that is not yet as safe as a sale has to be."""
    await commit(replicas[0], device, "a")
    gate = CommitGate(books.connection)
    await gate.build()
    await gate.close()
    slow = asyncio.create_task(commit(replicas[0], device, "b"))
    await eventually(gate.waiting)

    retry = asyncio.create_task(commit(replicas[1], device, "a", "b"))
    await eventually(lambda: locked_out(books))
    assert not retry.done()

    await gate.open()
    await slow
    assert names(await retry) == ["DUPLICATE", "DUPLICATE"]


async def test_i5_batches_with_the_same_keys_in_any_order_do_not_deadlock(replicas, device, books):
    """Two replicas get the same backlog, one of them backwards: both are answered, no sale counts
    twice, and none has to be sent again."""
    keys = [f"k{number}" for number in range(200)]

    for _ in range(5):
        there, back = await asyncio.gather(
            commit(replicas[0], device, *keys), commit(replicas[1], device, *reversed(keys))
        )
        assert len(there) == len(back) == 200

    assert await books.positions(device.tenant_id) == [*range(1, 201)]


@pytest.mark.parametrize("seed", range(3))
async def test_i5_a_reader_sees_every_sale_once_and_in_order(replicas, device, books, reader, seed):
    """F1, F3: two replicas write, transactions fail halfway, retries run into each other, and an
    integrator reads on all the while. Each sale reaches it exactly once, in one gapless order."""
    dice = random.Random(seed)
    await books.refuse_key("bad", "40001")
    acknowledged: set[str] = set()

    async def write(writer: int) -> None:
        for number in range(25):
            keys = {f"{writer}-{number}-{n}" for n in range(dice.randrange(1, 20))}
            keys |= {f"shared-{dice.randrange(30)}"}
            if dice.random() < 0.2:
                with pytest.raises(Unavailable):
                    await commit(dice.choice(replicas), device, *keys, "bad")
            if dice.random() < 0.8:
                await commit(dice.choice(replicas), device, *keys)
                acknowledged.update(keys)

    writers = asyncio.gather(*(write(writer) for writer in range(4)))
    while not writers.done():
        await reader.poll()
        await asyncio.sleep(0)
    await writers
    await reader.poll()

    assert reader.positions == [*range(1, len(reader.positions) + 1)]
    assert sorted(reader.read) == sorted(acknowledged)
    assert reader.read == await books.keys(device.tenant_id)
