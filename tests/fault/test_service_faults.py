"""The service against the accidents of a data centre: processes die, freeze and stop answering."""

import asyncio
import random
import sys
from time import monotonic
from uuid import UUID

import asyncpg
import grpc
import psutil
import pytest

from support.books import Books, CommitGate
from support.builders import an_event, examined
from support.faultproxy import FaultProxy
from support.polling import eventually
from support.service import (
    Caller,
    Failure,
    ServiceProcess,
    failure_of,
    ids_as_token,
    ingest_served,
    names,
)
from tillsync.v1.ingest_service_pb2 import IngestStreamRequest
from tillsync_service import app
from tillsync_service.foundation import limits
from tillsync_service.foundation.db import Database
from tillsync_service.foundation.errors import Unavailable
from tillsync_service.foundation.identity import Device
from tillsync_service.ingest.store import IngestStore

embedded = pytest.importorskip("tillsync_service.foundation.embedded")
if sys.platform == "win32":
    pytest.skip("needs signals", allow_module_level=True)

Code = grpc.StatusCode


@pytest.fixture
async def my_till(my_database, my_device):
    async with (
        ingest_served(my_database) as served,
        Caller(served.address, ids_as_token(my_device)) as caller,
    ):
        yield caller


async def keys_after_all(url: str, tenant_id: UUID) -> tuple[list[str], set[str]]:
    """The keys of the history and of the ledger."""
    connection = await asyncpg.connect(url)
    books = Books(connection)
    try:
        return await books.keys(tenant_id), {*await books.ledger(tenant_id)}
    finally:
        await connection.close()


class Load:
    """Tills that sell as fast as they can, note what was acknowledged, and never give up."""

    def __init__(self, seed: int) -> None:
        self.acknowledged: set[str] = set()
        self.waits_for_answer: set[str] = set()
        self.failures: list[Failure] = []
        self._dice = random.Random(seed)
        self._is_over = False
        self._tills: list[asyncio.Task[None]] = []

    def begin(self, service: ServiceProcess, device: Device, tills: int = 6) -> None:
        self._tills = [
            asyncio.create_task(self._sell(service, device, till)) for till in range(tills)
        ]

    async def end(self) -> None:
        """Lets every till bring its last batch home."""
        self._is_over = True
        await asyncio.gather(*self._tills)

    async def _sell(self, service: ServiceProcess, device: Device, till: int) -> None:
        number = 0
        while not self._is_over:
            batch = []
            for _ in range(self._dice.randrange(1, 60)):
                number += 1
                batch.append(an_event(f"{till}-{number}", number=number, epoch=till + 1))
            await self._bring_home(service, device, batch)

    async def _bring_home(self, service: ServiceProcess, device: Device, batch: list) -> None:
        while True:
            async with service.caller(device) as caller:
                try:
                    verdicts = await caller.offer(*batch)
                except grpc.aio.AioRpcError as error:
                    self.failures.append(Failure.of(error))
                    await asyncio.sleep(0.02)
                    continue
            assert {*names(verdicts)} <= {"ACCEPTED", "DUPLICATE"}
            self.acknowledged.update(event.key for event in batch)
            return

    async def acknowledges(self, more: int) -> None:
        goal = len(self.acknowledged) + more
        await eventually(lambda: len(self.acknowledged) >= goal, within_seconds=60)


async def test_i1_what_was_acknowledged_survives_every_crash(
    postgres_of_my_own, my_device, tmp_path
):
    """The service is killed, Postgres is killed, again and again while six tills sell. Every sale
    that a till was told is safe is there in the end, once, in a history without a hole."""
    load = Load(seed=7)
    async with ServiceProcess(postgres_of_my_own.serving_url, tmp_path) as service:
        load.begin(service, my_device)
        for victim in ("service", "postgres", "service", "postgres"):
            await load.acknowledges(more=400)
            if victim == "service":
                await service.kill()
                await service.start()
            else:
                await postgres_of_my_own.kill()
                await postgres_of_my_own.start()
        await load.acknowledges(more=400)
        await load.end()

    history, ledger = await keys_after_all(postgres_of_my_own.admin_url, my_device.tenant_id)
    assert load.acknowledged - {*history} == set()
    assert len(history) == len({*history})
    assert ledger == {*history}
    assert load.failures


async def test_i1_a_commit_is_on_disk(my_database, my_device):
    """A power cut a moment after the receipt loses nothing: what is acknowledged was synced."""
    async with my_database.transaction(my_device.tenant_id) as transaction:
        found = {
            setting: (await transaction.fetch_one(f"SHOW {setting}"))[0]
            for setting in ("fsync", "synchronous_commit", "full_page_writes")
        }

    assert found == {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


async def test_i1_nothing_is_acknowledged_before_its_commit(my_till, my_books):
    """While Postgres is still writing, the till waits: a receipt is never ahead of the disk."""
    gate = CommitGate(my_books.connection)
    await gate.build()
    await gate.close()

    call = asyncio.create_task(my_till.offer(an_event()))
    await eventually(gate.waiting)
    done, _ = await asyncio.wait([call], timeout=0.2)
    assert not done

    await gate.open()
    assert names(await call) == ["ACCEPTED"]


async def test_a_stop_under_load_loses_nothing_and_says_how_it_went(
    postgres_of_my_own, my_device, tmp_path
):
    """The operator updates the service at noon: it finishes what it began, exits with 0 and says
    "drained"; streams hear that it is stopping; every acknowledged sale is stored."""
    load = Load(seed=8)
    async with ServiceProcess(postgres_of_my_own.serving_url, tmp_path) as service:
        load.begin(service, my_device)
        async with service.caller(my_device) as caller:
            stream = caller.stream()
            await stream.write(IngestStreamRequest(events=[an_event("streamed")]))
            assert names((await stream.read()).verdicts) == ["ACCEPTED"]
            await load.acknowledges(more=300)

            status = await service.stopped()

            stopping = await failure_of(stream.read())
        words = service.last_words()
        await service.start()
        await load.end()

    assert status == 0
    assert words["outcome"] == "drained"
    assert (stopping.code, stopping.reason) == (Code.UNAVAILABLE, "SHUTTING_DOWN")
    # gRPC itself says CANCELLED to calls that it had not handed over yet.
    assert {failure.code for failure in load.failures} <= {Code.UNAVAILABLE, Code.CANCELLED}
    history, _ = await keys_after_all(postgres_of_my_own.admin_url, my_device.tenant_id)
    assert {"streamed", *load.acknowledged} - {*history} == set()


async def test_an_outage_is_told_within_a_second_and_heals_by_itself(
    postgres_of_my_own, my_till, my_device
):
    """Postgres is stopped for maintenance. Tills hear at once that they shall come again, and the
    first sale after it is back is stored, without anybody restarting anything."""
    await my_till.offer(an_event("before"))
    await postgres_of_my_own.stop()

    for _ in range(3):
        began = monotonic()
        failure = await failure_of(my_till.ingest(an_event("during")))
        assert monotonic() - began < 1
        assert (failure.code, failure.reason) == (Code.UNAVAILABLE, "DATABASE_UNAVAILABLE")
        assert failure.details["RetryInfo"].retry_delay.ToMilliseconds() == 1000
    await postgres_of_my_own.start()

    assert names(await my_till.offer(an_event("during"))) == ["ACCEPTED"]
    history, _ = await keys_after_all(postgres_of_my_own.admin_url, my_device.tenant_id)
    assert history == ["before", "during"]


async def test_a_frozen_database_holds_no_till_for_ever(postgres_of_my_own, my_device, monkeypatch):
    """The database's machine hangs without closing a connection. Tills hear of it in bounded time,
    and when it comes to itself, so does the service."""
    monkeypatch.setattr(limits, "COMMAND_SECONDS", 1.0)
    database = await Database.connect(postgres_of_my_own.serving_url)
    async with (
        ingest_served(database) as served,
        Caller(served.address, ids_as_token(my_device)) as till,
    ):
        await till.offer(an_event("before"))
        postgres_of_my_own.freeze()
        for _ in range(2):
            began = monotonic()
            failure = await failure_of(till.ingest(an_event("during")))
            assert failure.code is Code.UNAVAILABLE
            assert monotonic() - began < 5
        postgres_of_my_own.thaw()

        verdicts = await eventually_stored(till, an_event("during"))

    assert {*names(verdicts)} <= {"ACCEPTED", "DUPLICATE"}
    database.abandon()
    history, _ = await keys_after_all(postgres_of_my_own.admin_url, my_device.tenant_id)
    assert history == ["before", "during"]


async def tried(till: Caller, *events):
    """The verdicts, or None when the till shall come again."""
    try:
        return await till.offer(*events)
    except grpc.aio.AioRpcError as error:
        if error.code() is not Code.UNAVAILABLE:
            raise
        return None


async def eventually_stored(till: Caller, *events):
    return await eventually(lambda: tried(till, *events), within_seconds=20)


class MissingStandby:
    """Every commit waits for a standby that does not exist, until somebody cancels the wait."""

    def __init__(self, books: Books) -> None:
        self._connection = books.connection

    async def begin(self, till: Caller) -> None:
        await self._connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
        await self._connection.execute("SELECT pg_reload_conf()")
        # The reload takes a moment: sell until a commit waits.
        selling = asyncio.create_task(self._sell(till))
        await eventually(self.cancel_waits)
        await selling

    async def end(self) -> None:
        await self._connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await self._connection.execute("SELECT pg_reload_conf()")

    async def cancel_waits(self) -> bool:
        return bool(
            await self._connection.fetch(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            )
        )

    async def _sell(self, till: Caller) -> None:
        while await tried(till, an_event()):
            pass


async def test_a_commit_that_no_standby_has_is_not_acknowledged(my_till, my_books, my_device):
    """The standby is gone and somebody cancels the wait for it: Postgres commits on one machine
    and warns. The till is not told that its sale is safe, now or when it asks again; only once a
    commit is whole again it hears so."""
    await my_till.offer(an_event("a"))
    standby = MissingStandby(my_books)
    await standby.begin(my_till)

    for attempt in (an_event("b"), an_event("b"), an_event("a")):  # new, then only duplicates
        call = asyncio.create_task(failure_of(my_till.ingest(attempt)))
        await eventually(standby.cancel_waits)
        failure = await call
        assert (failure.code, failure.reason) == (Code.UNAVAILABLE, "DATABASE_UNAVAILABLE")

    await standby.end()
    assert (
        names(await eventually_stored(my_till, an_event("a"), an_event("b"))) == ["DUPLICATE"] * 2
    )
    assert {"a", "b"} <= {*await my_books.keys(my_device.tenant_id)}


async def test_a_head_that_somebody_holds_is_unavailable_and_no_hang(
    postgres_of_my_own, my_books, my_device, monkeypatch
):
    """Somebody left a transaction open on the tenant's head. Tills are told to come again, and the
    guard that ends idle transactions frees the way if it was one of ours."""
    monkeypatch.setattr(limits, "LOCK_TIMEOUT_MS", 200)
    monkeypatch.setattr(limits, "IDLE_IN_TRANSACTION_TIMEOUT_MS", 1500)
    database = await Database.connect(postgres_of_my_own.serving_url)
    store = IngestStore(database)
    entered = asyncio.Event()

    async def forget_a_transaction() -> None:
        lock = (
            f"SELECT FROM tillsync.tenant_head WHERE tenant_id = '{my_device.tenant_id}' FOR UPDATE"
        )
        async with database.transaction(my_device.tenant_id, then=lock):
            entered.set()
            await asyncio.Event().wait()

    forgetful = asyncio.create_task(forget_a_transaction())
    await entered.wait()
    began = monotonic()
    with pytest.raises(Unavailable):
        await store.commit(my_device.tenant_id, [examined(my_device, an_event("a"))])
    assert monotonic() - began < 2

    async def stored():
        try:
            return await store.commit(my_device.tenant_id, [examined(my_device, an_event("a"))])
        except Unavailable:
            return None

    (receipt,) = await eventually(stored)
    assert names(receipt.verdicts) == ["ACCEPTED"]
    forgetful.cancel()
    database.abandon()


async def test_a_lost_answer_is_a_duplicate_later(database, books, device):
    """F9: the service stores the sale, the link dies before the answer. The till asks again and
    hears DUPLICATE with the same place."""
    async with ingest_served(database) as served:
        host, _, port = served.address.partition(":")
        async with (
            FaultProxy(host, int(port)) as network,
            Caller(network.address, ids_as_token(device)) as till,
        ):
            await till.offer(an_event("a"))
            network.lose_responses()
            call = asyncio.create_task(failure_of(till.ingest(an_event("b"), an_event("c"))))
            await eventually(lambda: stored_keys(books, device, 3))
            network.pass_on()
            network.cut()
            assert (await call).code is Code.UNAVAILABLE

            verdicts = await eventually_stored(till, an_event("b"), an_event("c"))

    assert names(verdicts) == ["DUPLICATE", "DUPLICATE"]
    assert [verdict.position for verdict in verdicts] == [2, 3]
    assert await books.keys(device.tenant_id) == ["a", "b", "c"]


async def stored_keys(books: Books, device: Device, count: int) -> bool:
    return len(await books.keys(device.tenant_id)) == count


def in_a_hurry(options) -> list[tuple[str, int]]:
    """The options of the real service with half a second where it waits for a silent peer."""
    waits = ("keepalive_time_ms", "timeout_ms")
    return [(name, 500 if name.endswith(waits) else value) for name, value in options]


async def test_a_till_behind_a_dead_link_is_let_go(database, device):
    """F18: a shop's router restarts and tells nobody. The service notices by its keepalive that the
    till is gone, and frees the stream."""
    async with ingest_served(database, options=in_a_hurry(app._SERVER_OPTIONS)) as served:
        host, _, port = served.address.partition(":")
        async with (
            FaultProxy(host, int(port)) as network,
            Caller(network.address, ids_as_token(device)) as till,
        ):
            stream = till.stream()
            await stream.write(IngestStreamRequest(events=[an_event()]))
            await stream.read()
            assert served.doorkeeper._house.inside == 1

            network.drop_silently()

            await eventually(lambda: served.doorkeeper._house.inside == 0, within_seconds=15)
            stream.cancel()


def test_a_dead_link_is_noticed_within_half_a_minute():
    """F18: the keepalive of the service as it is shipped is on, and quick enough."""
    options = dict(app._SERVER_OPTIONS)

    for timeout in ("grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"):
        assert options["grpc.keepalive_time_ms"] + options[timeout] <= 30_000
    assert options["grpc.keepalive_permit_without_calls"] == 1


async def test_tills_that_come_and_go_cost_no_memory(postgres_of_my_own, my_device, tmp_path):
    """F38: on bad links thousands of streams are opened and dropped. The service does not grow."""
    async with (
        ServiceProcess(postgres_of_my_own.serving_url, tmp_path) as service,
        service.caller(my_device) as caller,
    ):
        await come_and_go(caller, 1500)
        before = psutil.Process(service.pid).memory_info().rss

        await come_and_go(caller, 3000)

        after = psutil.Process(service.pid).memory_info().rss
        assert names(await caller.offer(an_event())) == ["ACCEPTED"]
    assert after - before < 8 * 1024 * 1024


async def come_and_go(caller: Caller, streams: int) -> None:
    async def one(number: int) -> None:
        stream = caller.stream()
        if number % 3:
            await stream.write(IngestStreamRequest(events=[an_event(f"m{number % 50}")]))
        if number % 3 == 2:
            await stream.read()
        stream.cancel()

    for first in range(0, streams, 50):
        await asyncio.gather(*(one(number) for number in range(first, first + 50)))
