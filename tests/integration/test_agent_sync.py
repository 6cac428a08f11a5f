"""A till's agent and the real service: prices come, edits go, and both end equal."""

from time import monotonic
from uuid import UUID

import pytest

from support.agentshell import Shell
from support.fleet import app_served
from support.polling import eventually
from support.sync import HeadOffice
from support.synctill import SyncTill
from support.till import a_sale, until
from tillsync_agent import puller
from tillsync_agent.errors import OutboxFull
from tillsync_agent.replica import Replica


@pytest.fixture
async def fleet(database_url, tmp_path):
    async with app_served(database_url, tmp_path) as fleet:
        yield fleet


@pytest.fixture
async def store(fleet):
    return await fleet.a_store()


@pytest.fixture
async def office(database, migrator, store):
    office = HeadOffice(database, migrator, UUID(store.tenant_id))
    await office.define("product", keys=("barcode",))
    await office.define("stock", "server_wins")
    await office.define("customer", "arrival_wins")
    return office


@pytest.fixture
async def till(fleet, store, tmp_path):
    code = (await fleet.operator().stub.CreateEnrolmentCode(store)).code
    till = await SyncTill.enrolled(fleet, tmp_path / "till", code)
    yield till
    till.close()


async def test_prices_come_to_a_till_and_follow_every_change(office, till):
    """A new till loads what there is, and then hears of each change while it is connected."""
    await office.write("product", {"1": {"barcode": "40", "price": 100}})
    async with till.agent():
        await till.has(await office.records())
        await office.write("product", {"1": {"barcode": "41", "price": 90}, "2": {"price": 5}})
        await till.has(await office.records())

    assert till.replica.lookup("product", "1").fields["price"] == 90
    assert [record.record_id for record in till.replica.find("product", barcode=41)] == ["1"]
    assert till.replica.find("product", barcode="40") == []


async def test_an_edit_made_offline_comes_home_once(office, till):
    """A till moves stock while it has no link; the program sees it at once, and head office has it
    once when the link is back."""
    await office.write("stock", {"4711": {"on_hand": 10}})
    async with till.agent():
        await till.has(await office.records())
    till.replica.add("stock", "4711", {"on_hand": -2})
    till.replica.add("stock", "4711", {"on_hand": -1})
    seen = till.replica.lookup("stock", "4711")
    assert (seen.fields, seen.pending) == ({"on_hand": 7}, True)

    async with till.agent():
        await until(lambda: till.copy()["stock", "", "4711"] == '{"on_hand":7}')
        await until(lambda: not till.replica.lookup("stock", "4711").pending)

    assert await office.records() == till.copy()
    assert till.replica.lookup("stock", "4711").fields == {"on_hand": 7}


async def test_large_edits_come_home_too(office, till):
    """A till was offline while its program wrote more than a request may hold: all of it comes
    home, and sales are not held up by pushes that fail."""
    await office.write("product", {"0": {"price": 1}})
    async with till.agent():
        await till.has(await office.records())
    for number in range(100):
        till.replica.put("product", str(number), {"photo": "x" * 60_000}, scope="tenant")

    async with till.agent():
        await until(lambda: not till.replica.summary().edits_shown)

    assert len(await office.records()) == 100


async def test_a_full_disk_does_not_use_up_the_link(office, till, monkeypatch):
    """A till's disk has no room for the catalogue: the till does not download it again every
    second, and goes on selling."""
    await office.write("product", {"0": {"price": 1}})
    monkeypatch.setattr(puller, "DISK_AGAIN_SECONDS", 0.02)
    opened = []

    def full(_replica, *_messages):
        opened.append(monotonic())
        raise OutboxFull("the disk is full")

    monkeypatch.setattr(Replica, "receive", full)
    async with till.agent():
        await until(lambda: len(opened) == 6)
        till.outbox.record(a_sale(1), amounts={"USD": 1250})
        await until(lambda: not till.outbox.backlog()[0])

    assert opened[5] - opened[4] >= 0.02 * 2**4


async def test_two_tills_collide_and_both_end_as_head_office(fleet, store, office, till, tmp_path):
    """Two tills change one customer's record offline: the last to arrive wins, the other side is
    kept as a conflict, and both tills show the same in the end."""
    code = (await fleet.operator().stub.CreateEnrolmentCode(store)).code
    other = await SyncTill.enrolled(fleet, tmp_path / "other", code)
    await office.write("customer", {"7": {"name": "Ann"}})
    async with till.agent(), other.agent():
        await till.has(await office.records())
        await other.has(await office.records())
    till.replica.patch("customer", "7", {"phone": "1"})
    other.replica.patch("customer", "7", {"phone": "2"})
    async with till.agent():
        await until(lambda: not till.replica.lookup("customer", "7").pending)
    async with other.agent():
        await until(lambda: not other.replica.lookup("customer", "7").pending)
    async with till.agent():
        await till.has(await office.records())

    assert other.copy() == till.copy() == await office.records()
    assert till.replica.lookup("customer", "7").fields == {"name": "Ann", "phone": "2"}
    count = await office.migrator.fetchval("SELECT count(*) FROM tillsync.conflict")
    assert count == 1
    other.close()


async def test_sales_go_before_the_catalogue(office, till):
    """A till that comes back with sales and an old copy sends its sales first."""
    await office.write("product", {str(n): {"price": n} for n in range(50)})
    for number in range(600):
        till.outbox.record(a_sale(number), amounts={"USD": 1250})
    steps = []
    async with till.agent(on_step=steps.append):
        await till.has(await office.records())

    assert steps.index("open") > max(n for n, step in enumerate(steps) if step == "send")


async def test_a_copy_that_went_bad_heals_itself(office, till, caplog):
    """A record on a till's disk is not what was written: the agent notices at its start, loads that
    collection anew, and counts it."""
    await office.write("product", {"1": {"price": 100}, "2": {"price": 200}})
    async with till.agent():
        await till.has(await office.records())
    till.replica._change("""UPDATE record SET body = '{"price":1}' WHERE record_id = '1'""")

    async with till.agent():
        await till.has(await office.records())

    assert "loaded anew" in caplog.text


async def test_i11_edits_that_a_backup_lacks_are_pushed_again(office, till, migrator):
    """The service is set back to a time before a till's edit: the till, which had its answer long
    ago, brings the edit again, once."""
    await office.write("stock", {"4711": {"on_hand": 10}})
    async with till.agent():
        await till.has(await office.records())
        backup = await tables(migrator)
        till.replica.add("stock", "4711", {"on_hand": -1})
        await until(lambda: till.copy()["stock", "", "4711"] == '{"on_hand":9}')
    await restore(migrator, backup)
    await office.restored()

    async def is_back():
        return await office.records() == till.copy() == {("stock", "", "4711"): '{"on_hand":9}'}

    async with till.agent():
        await until(lambda: till.replica.summary().loads == 2)
        await eventually(is_back, within_seconds=20)


async def test_a_till_that_becomes_another_one_pushes_no_edit_twice(fleet, store, office, till):
    """A till is enrolled anew, as another device: the movements of stock that head office has are
    not counted a second time as the new device's, and the one that waits counts once."""
    await office.write("stock", {"4711": {"on_hand": 10}})
    async with till.agent():
        await till.has(await office.records())
        till.replica.add("stock", "4711", {"on_hand": -1})
        await until(lambda: till.copy()["stock", "", "4711"] == '{"on_hand":9}')
    till.replica.add("stock", "4711", {"on_hand": -3})
    till.close()
    code = (await fleet.operator().stub.CreateEnrolmentCode(store)).code
    shell = Shell(till.settings.state_dir)

    arguments = ("--service", fleet.address, "--code", code, "--name", "new", "--replace")
    enrolled, _, err = await shell("enroll", *arguments)
    drained = await shell("drain", "--timeout", "20")

    assert (enrolled, err) == (0, "")
    assert drained[:2] == (0, "nothing waits\n")
    assert await office.records() == {("stock", "", "4711"): '{"on_hand":6}'}


SYNC_TABLES = ("record", "record_digest", "mutation", "mutation_progress", "tenant_head")


async def tables(migrator):
    return {name: await migrator.fetch(f"SELECT * FROM tillsync.{name}") for name in SYNC_TABLES}


async def restore(migrator, backup):
    for name, rows in backup.items():
        await migrator.execute(f"DELETE FROM tillsync.{name}")
        await migrator.copy_records_to_table(name, records=rows, schema_name="tillsync")
