"""A drain waits for everything that a till has to say, and tells what does not get through."""

import asyncio
import json
from uuid import UUID

import grpc
import pytest

from support.agentshell import Shell
from support.copies import STORE, a_block, a_load
from support.fleet import app_served
from support.polling import eventually
from support.scripted_service import ScriptedService, fails
from support.sync import HeadOffice
from support.synctill import SyncTill
from tillsync_agent import Replica
from tillsync_agent.draining import Drained

SALE = b'{"receiptNumber": "1"}'
NO_DATABASE = fails(grpc.StatusCode.UNAVAILABLE, "no database", reason="DATABASE_UNAVAILABLE")


@pytest.fixture
async def service():
    async with ScriptedService() as running:
        yield running


@pytest.fixture
async def shell(tmp_path, service):
    """At a till that is enrolled."""
    shell = Shell(tmp_path / "state")
    arguments = ("--service", service.address, "--code", "AB-CD", "--name", "till 3")
    assert (await shell("enroll", *arguments))[0] == 0
    return shell


@pytest.fixture
def edited(shell):
    """With two edits that head office has not answered."""
    with Replica.open(shell.folder / "replica.db") as replica:
        replica.checkpoint_cursor()
        replica.receive(a_load([a_block("stock", {"s": {"n": 5}}, STORE)]))
        for _ in range(2):
            replica.add("stock", "s", {"n": -1})


async def link_line(shell):
    _, out, _ = await shell("status")
    return next(line.split(maxsplit=1)[1] for line in out.splitlines() if line.startswith("link"))


@pytest.mark.usefixtures("edited")
async def test_a_drain_waits_for_edits_and_says_why_they_stay(shell):
    """The shopkeeper drains a till before it is taken away: all sales are sent, and two edits of
    the stock are not taken. It does not say that nothing waits, but what does, and why."""
    await shell("record", given=SALE)

    code, out, err = await shell("drain", "--timeout", "1")

    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "2 edits still wait: UNIMPLEMENTED: Method not found!"
    _, out, _ = await shell("status")
    assert "2 wait, 2 over the copy; not pushed: UNIMPLEMENTED" in out


async def test_edits_that_get_through_end_a_drain(database_url, database, migrator, tmp_path):
    """A till is drained that has nothing but edits to send: the drain ends when they are in."""
    async with app_served(database_url, tmp_path) as fleet:
        store = await fleet.a_store()
        office = HeadOffice(database, migrator, UUID(store.tenant_id))
        await office.define("stock", "server_wins")
        await office.write("stock", {"4711": {"on_hand": 10}})
        code = (await fleet.operator().stub.CreateEnrolmentCode(store)).code
        till = await SyncTill.enrolled(fleet, tmp_path / "till", code)
        async with till.agent():
            await till.has(await office.records())
        till.replica.add("stock", "4711", {"on_hand": -2})

        async with till.agent() as agent:
            assert await agent.drain(20) == Drained(0, "")

        assert await office.records() == {("stock", "", "4711"): '{"on_hand":8}'}
        till.close()


@pytest.mark.usefixtures("edited")
async def test_a_drain_beside_an_agent_says_why_things_wait(shell, service):
    """The till's agent runs as a service and head office has no database: whoever drains beside it
    reads what waits and the reason that the agent has."""
    service.always = NO_DATABASE
    await shell("record", given=SALE)
    agent = await shell.start("run")

    async def is_known():
        return json.loads((await shell("status", "--json"))[1])["link"]["last_error"]

    await eventually(is_known, within_seconds=20)
    code, _, err = await shell("drain", "--timeout", "0")
    agent.terminate()
    await asyncio.wait_for(agent.communicate(), 20)

    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith("1 events and 2 edits still wait: DATABASE_UNAVAILABLE: no database (at")


async def test_any_answer_of_head_office_is_contact(shell, service):
    """A till that sold nothing yet has compared its days with head office: status says when, and
    says of a till that never tried that it did not."""
    assert await link_line(shell) == "not tried yet"

    await shell("reconcile")

    assert (await link_line(shell)).startswith("up, last contact 20")


async def test_a_refusal_is_contact(shell, service):
    """Head office answers that it has no database: it is there, and status does not say never."""
    service.always = NO_DATABASE
    await shell("record", given=SALE)

    await shell("drain", "--timeout", "0.5")

    assert (await link_line(shell)).startswith("down, last contact 20")


async def test_a_till_that_was_never_enrolled_has_no_link(tmp_path):
    """Somebody sells before the technician came: status does not claim a link that is up."""
    shell = Shell(tmp_path / "state")
    await shell("record", given=SALE)

    assert await link_line(shell) == "none, this device is not enrolled"


async def test_a_link_that_only_pulls_finds_dead_is_down(shell, service):
    """No sale waits and head office is gone: what the pull finds out, status says."""
    await service.__aexit__()
    agent = await shell.start("run")

    async def is_noticed():
        told = json.loads((await shell("status", "--json"))[1])["link"]
        return told["link"] == "open" and told["records_error"].startswith("UNAVAILABLE")

    await eventually(is_noticed, within_seconds=20)
    agent.terminate()
    await asyncio.wait_for(agent.communicate(), 20)

    assert await link_line(shell) == "down, last contact never"
