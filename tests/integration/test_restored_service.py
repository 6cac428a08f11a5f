"""A head office that was set back to its backup, on a real PostgreSQL, and the tills that put back
what the backup lacks."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import asyncpg
import grpc
import pytest

from support.agentshell import Shell
from support.books import Books
from support.fleet import Fleet
from support.till import Till, a_sale, until
from tillsync_agent import config, envelope, link
from tillsync_agent.link import Link
from tillsync_agent.reconciliation import NOTE_NAME, Reconciliation
from tillsync_agent.refresh_secret import RefreshSecret
from tillsync_service.app import App
from tillsync_service.config import Settings
from tillsync_service.databases import utc_now
from tillsync_service.fleet.keys import KeyFile, create_key_file
from tillsync_service.fleet.tokens import TokenIssuer

DAY, NEXT_DAY = "2026-11-22", "2026-11-23"
MOST_ROUND_TRIPS = 5
MOST_BYTES = 64 << 10


class HeadOffice:
    """The service at one address, on whichever database it is started; and its backups."""

    def __init__(self, postgres, folder: Path, database_name: str) -> None:
        self._postgres = postgres
        self._keys = folder / "signing-keys.json"
        create_key_file(self._keys)
        self.database_name = database_name
        self.copies: list[str] = []
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.address = f"127.0.0.1:{found.getsockname()[1]}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Fleet]:
        settings = Settings(
            database_url=self._postgres.serving_url(self.database_name),
            signing_keys=self._keys,
            listen=self.address,
            log_level="error",
            stop_grace_seconds=1,
        )
        async with App(settings) as app, grpc.aio.insecure_channel(app.address) as channel:
            yield Fleet(channel, app.address, TokenIssuer(KeyFile(self._keys), utc_now))

    async def backed_up(self) -> str:
        """A copy of the database, while nobody uses it."""
        name = f"{self.database_name}_{len(self.copies)}"
        await self._postgres.administer(f"CREATE DATABASE {name} TEMPLATE {self.database_name}")
        self.copies.append(name)
        return name

    async def restore(self, backup: str, *, told: bool) -> None:
        """Goes on with the backup; `told`: the operator says so, as the handbook wants."""
        self.database_name = backup
        if told:
            await self._postgres.administer(
                "UPDATE tillsync.tenant_head SET history_id = gen_random_uuid()", backup
            )

    async def lose(self, keys: list[str], *, numbers_too: bool) -> None:
        """Events vanish from the disk, with or without what says that their numbers were seen."""
        async with self.looked_into() as books:
            for key in keys:
                event = await books.connection.fetchrow(
                    "DELETE FROM tillsync.event WHERE key = $1 RETURNING *", key
                )
                ledger = await books.connection.fetchrow(
                    "DELETE FROM tillsync.event_key WHERE key = $1 RETURNING *", key
                )
                await books.connection.execute(
                    "UPDATE tillsync.device_day SET event_count = event_count - 1,"
                    " amount_minor = amount_minor - 1250,"
                    " digest_sum = mod(digest_sum + 2::numeric ^ 128 - $1::text::numeric,"
                    " 2::numeric ^ 128)",
                    str(int.from_bytes(ledger["digest"])),
                )
                if numbers_too:
                    number = event["device_sequence"]
                    await books.connection.execute(
                        "UPDATE tillsync.device_progress"
                        " SET sequences = sequences - int8multirange(int8range($1, $1, '[]'))",
                        number,
                    )

    @asynccontextmanager
    async def looked_into(self) -> AsyncIterator[Books]:
        connection = await asyncpg.connect(self._postgres.admin_url(self.database_name))
        try:
            yield Books(connection)
        finally:
            await connection.close()


@pytest.fixture
async def office(postgres, tmp_path):
    database_name = await postgres.make_database()
    office = HeadOffice(postgres, tmp_path, database_name)
    yield office
    for name in (database_name, *office.copies):
        await postgres.drop_database(name)


async def enrolled(office: HeadOffice, folder: Path, code: str) -> Till:
    """A till with an identity of head office, which is open."""
    till = Till(folder, SimpleNamespace(address=office.address, secrets=set()))
    secret = RefreshSecret(till.settings.secret_path)
    identity = await link.enroll(till.settings, secret, code, folder.name)
    till.settings = replace(till.settings, **asdict(identity))
    config.save(till.settings)
    return till


@pytest.fixture
async def tills(office, tmp_path):
    """Two tills of one store, at a head office that is closed again."""
    async with office.open() as fleet:
        store = await fleet.a_store()
        codes = [(await fleet.operator().stub.CreateEnrolmentCode(store)).code for _ in "12"]
        tills = [
            await enrolled(office, tmp_path / f"till {n}", code) for n, code in enumerate(codes)
        ]
    yield tills
    for till in tills:
        till.close()


@pytest.fixture
def till(tills):
    return tills[0]


def noted(till: Till) -> Reconciliation:
    return Reconciliation.parse(till.outbox.notes().get(NOTE_NAME, ""))


async def compared(till: Till) -> Reconciliation:
    """What an agent finds at its start."""
    till.outbox.note(NOTE_NAME, "")
    async with till.agent():
        await until(lambda: noted(till).at, 60)
    return noted(till)


def measured(monkeypatch) -> list[tuple[int, int]]:
    """The bytes of every Reconcile request and of its response, from now on."""
    spoken, reconcile = [], Link.reconcile

    async def counting(link, request):
        response = await reconcile(link, request)
        spoken.append((request.ByteSize(), response.ByteSize()))
        return response

    monkeypatch.setattr(Link, "reconcile", counting)
    return spoken


def record_at_once(till: Till, count: int) -> list[str]:
    """The same as many calls of `record`, in one transaction."""

    def event(number: int):
        return envelope.build(
            key=f"{number:06}",
            body=a_sale(number),
            occurred_at=utc_now(),
            business_day=DAY,
            amounts={"USD": 1250},
        )

    events = [event(number) for number in range(count)]
    return till.outbox._file.run(lambda it: [till.outbox._append(one, it).key for one in events])


async def held_exactly_once(office: HeadOffice, till: Till, keys: list[str]) -> None:
    """Each sale is there once, without a hole in the positions, and the books say the same."""
    tenant_id, device_id = UUID(till.settings.tenant_id), UUID(till.settings.device_id)
    async with office.looked_into() as books:
        assert sorted(await books.keys(tenant_id)) == sorted(keys)
        assert await books.positions(tenant_id) == [*range(1, len(keys) + 1)]
        days = await books.days(tenant_id)
        progress = await books.progress(tenant_id)
    assert sum(count for count, _, _ in days.values()) == len(keys)
    assert sum(money for _, money, _ in days.values()) == 1250 * len(keys)
    assert sum(map(len, progress.values())) == len(keys)
    assert {device for device, _ in progress} == {device_id}


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
async def test_i11_a_restored_service_gets_back_what_its_backup_lacked(office, till, told):
    """Head office is restored from last night's backup, and the operator says so or does not. The
    till has been on all the time: with its next sale it hears of another history, or of a position
    that it heard of before, and gives back every sale that the backup lacks, exactly once, under
    the old keys and numbers."""
    keys = till.record(40, business_day=DAY)
    async with till.agent() as agent:
        async with office.open():
            await agent.drain(20)
            await until(lambda: noted(till).days_equal == 1)
        backup = await office.backed_up()
        async with office.open():
            keys += till.record(30, business_day=DAY)
            keys += till.record(20, business_day=NEXT_DAY)
            await agent.drain(20)
        before = noted(till)
        await office.restore(backup, told=told)
        async with office.open():
            keys += till.record(1, business_day=NEXT_DAY)
            await until(lambda: noted(till).offered_again == 50)
            result = await agent.reconcile(20)

    assert result.is_equal
    assert result.days_equal == 2
    assert (result.history_id != before.history_id) is told
    await held_exactly_once(office, till, keys)


async def test_a_till_that_was_off_gives_back_in_the_morning(office, till):
    """Head office was set back in the night, and nobody says so: the till gives back what is gone
    before the first sale of the day."""
    keys = till.record(40, business_day=DAY)
    async with office.open():
        await till.drained()
    backup = await office.backed_up()
    keys += till.record(50, business_day=DAY)
    async with office.open():
        await till.drained()
    await office.restore(backup, told=False)

    async with office.open():
        result = await compared(till)

    assert (result.offered_again, result.is_equal) == (50, True)
    await held_exactly_once(office, till, keys)


async def test_every_day_of_the_restored_history_can_be_closed(office, till):
    """The day was closed before head office was set back; after the sales came back it is closed
    again, and it comes to the same."""
    till.record(3, business_day=DAY)
    async with office.open(), till.agent() as agent:
        await agent.drain(20)
    backup = await office.backed_up()
    till.record(3, business_day=DAY)
    async with office.open(), till.agent() as agent:
        first = await agent.reconcile(20, DAY, close=True)
        again = await agent.reconcile(20, DAY, close=True)
    await office.restore(backup, told=True)
    async with office.open(), till.agent() as agent:
        after = await agent.reconcile(20, DAY, close=True)

    assert [one.closed for one in (first, again, after)] == [True, True, True]
    assert [one.revision for one in (first, again, after)] == [1, 1, 1]
    assert first.comes_to == after.comes_to == {"USD": (6, 7_500)}


@pytest.mark.parametrize("numbers_too", [True, False], ids=["numbers missing", "numbers known"])
async def test_three_holes_in_ten_thousand_sales(office, till, monkeypatch, caplog, numbers_too):
    """Three of a shop's ten thousand sales are gone from head office's disk, known to be missing or
    believed to be there: few questions find them, they are there again, and nobody speaks of a
    cloned disk."""
    epoch = till.outbox.epoch
    keys = record_at_once(till, 10_000)
    lost = [keys[17], keys[4_999], keys[9_998]]
    spoken = measured(monkeypatch)
    async with office.open():
        await till.drained(60)
        await office.lose(lost, numbers_too=numbers_too)
        spoken.clear()
        result = await compared(till)

    assert (result.offered_again, result.is_equal) == (3, True)
    assert len(spoken[: result.round_trips]) <= MOST_ROUND_TRIPS
    assert sum(map(sum, spoken[: result.round_trips])) <= MOST_BYTES
    assert till.outbox.epoch == epoch
    assert "cloned disk" not in caplog.text
    async with office.looked_into() as books:
        assert sorted(await books.keys(UUID(till.settings.tenant_id))) == keys


async def test_a_day_that_differs_for_its_money_only(office, till):
    """Somebody changed the sum of a day in head office's database: it is named, with the amount,
    and no sale is sent again."""
    till.record(4, business_day=DAY)
    async with office.open():
        await till.drained()
        async with office.looked_into() as books:
            await books.connection.execute(
                "UPDATE tillsync.device_day SET amount_minor = amount_minor - 500"
            )
        result = await compared(till)

    (day,) = result.differing
    assert (day.here, day.there) == ({"USD": (4, 5_000)}, {"USD": (4, 4_500)})
    assert day.why == ["the events are the same and their money is not"]
    assert result.offered_again == 0


async def test_what_was_pruned_counts_and_cannot_be_given_back(office, till):
    """A till with a small disk has pruned its morning: the day is equal and can be closed. Then
    head office loses it: what is gone for good is named, to the number and the cent."""
    till.record(6, business_day=DAY)
    async with office.open():
        await till.drained()
    backup = await office.backed_up()
    keys = till.record(4, business_day=DAY)
    async with office.open():
        await till.drained()
        till.outbox.prune(0)
        till.record(5, business_day=DAY)
        async with till.agent() as agent:
            closed = await agent.reconcile(20, DAY, close=True)
    await office.restore(backup, told=True)
    async with office.open():
        result = await compared(till)

    assert (closed.closed, closed.comes_to) == (True, {"USD": (15, 18_750)})
    (gone,) = result.gone
    (day,) = result.differing
    assert (gone.first, gone.last, result.gone_count) == (7, 10, len(keys))
    assert (day.here["USD"], day.there["USD"]) == ((15, 18_750), (11, 13_750))
    assert "10 of its events were pruned here and cannot be given back" in day.why


async def test_a_refused_and_a_conflicting_sale_are_explained(office, till):
    """Two sales under one key, and a till whose copied disk used the numbers of another one: both
    days are equal, what is in quarantine is named, and both epochs are claimed."""
    old = till.outbox.epoch
    (key, _) = till.record(2, business_day=DAY)
    till.outbox.record(("example.com/other", b"x"), key=key, business_day=DAY)
    async with office.open():
        await till.drained()
        till.outbox._change("UPDATE tillsync_counter SET last_sequence = ?", [(1,)])
        till.record(1, business_day=NEXT_DAY)
        await till.drained()
        till.record(1, business_day=NEXT_DAY)
        result = await compared(till)

    assert till.outbox.epoch != old
    assert (result.days_equal, result.gone_count) == (2, 0)
    assert [(one.sequence, one.reason) for one in result.refused] == [(3, "KEY_CONFLICT")]


async def test_a_till_whose_clock_says_2001_is_compared_like_any_other(office, till):
    """The battery of the till's clock is empty: its days are equal, can be closed, and come back
    after a restore. No clock has a part in it (I10)."""
    till.outbox._clock = lambda: datetime(2001, 1, 1, tzinfo=UTC)
    till.record(3, business_day=DAY)
    async with office.open():
        await till.drained()
    backup = await office.backed_up()
    till.record(2, business_day=DAY)
    async with office.open():
        await till.drained()
    await office.restore(backup, told=True)
    async with office.open(), till.agent() as agent:
        agent._reconciler._clocks.wall = till.outbox._clock
        result = await agent.reconcile(20, DAY, close=True)

    assert (result.closed, result.comes_to) == (True, {"USD": (5, 6_250)})


async def test_a_sale_that_another_till_brought_counts_there(office, tills):
    """The same receipt came from two tills, as after a swapped disk: it counts on the first. The
    second offers it once more, hears so, and its day is equal and can be closed without it."""
    first, second = tills
    for till in tills:
        till.outbox.record(a_sale(1), key="receipt-1", business_day=DAY, amounts={"USD": 1250})
    second.record(2, business_day=DAY)
    async with office.open():
        await first.drained()
        await second.drained()
        result = await compared(second)
        async with second.agent() as agent:
            closed = await agent.reconcile(20, DAY, close=True)
            again = await agent.reconcile(20, DAY, close=True)

    assert (result.offered_again, result.is_equal) == (1, True)
    assert (closed.closed, closed.revision, closed.comes_to) == (True, 1, {"USD": (2, 2_500)})
    assert (again.revision, again.offered_again, again.round_trips) == (1, 0, 1)


async def test_a_till_whose_secret_is_in_two_hands_goes_on_selling(office, till):
    """A clone of the till is about, so head office takes nothing but sales from it: it is not
    compared, says so, and its sales go out as before."""
    till.record(1, business_day=DAY)
    async with office.open():
        async with office.looked_into() as books:
            await books.connection.execute("UPDATE tillsync.device SET suspect_since = now()")
        async with till.agent() as agent:
            await until(lambda: noted(till).error.startswith("DEVICE_SUSPECT"))
            till.record(3, business_day=DAY)
            left = await agent.drain(20)

    assert left.waiting == 0
    assert till.note.link == "closed"


@pytest.mark.parametrize("is_same_tenant", [True, False], ids=["its tenant", "another tenant"])
async def test_a_till_that_the_backup_does_not_know_joins_anew(office, tmp_path, is_same_tenant):
    """A till joined and sold after the backup that head office was restored from: joining once
    more, it sends again what it had delivered, each sale once; but not to another retailer, whose
    it is not."""
    async with office.open() as fleet:
        store = await fleet.a_store()
    backup = await office.backed_up()
    async with office.open() as fleet:
        code = (await fleet.operator().stub.CreateEnrolmentCode(store)).code
        till = await enrolled(office, tmp_path / "till", code)
        keys = till.record(3, business_day=DAY)
        await till.drained()
        keys += till.record(1, business_day=DAY)
        till.close()
    await office.restore(backup, told=True)
    async with office.open() as fleet:
        joined = store if is_same_tenant else await fleet.a_store()
        code = (await fleet.operator().stub.CreateEnrolmentCode(joined)).code
        shell = Shell(tmp_path / "till")
        arguments = ("--service", office.address, "--code", code, "--name", "till 3")
        assert (await shell("enroll", *arguments, "--replace", "--restored"))[0] == 0
        assert (await shell("drain", "--timeout", "20"))[0] == 0
        reconciled = await shell("reconcile", "--timeout", "20")

    assert reconciled[0] == 0, reconciled
    async with office.looked_into() as books:
        stored = await books.keys(UUID(joined.tenant_id))
    assert stored == (keys if is_same_tenant else keys[3:])
