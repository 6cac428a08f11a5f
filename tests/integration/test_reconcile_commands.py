"""reconcile and close-day, as a person or a shell script at the till meets them."""

import asyncio
import json
import sys

import grpc
import pytest

from support.agentshell import Shell
from support.scripted_service import ScriptedService, fails
from support.till import until
from tillsync_agent.daybooks import DayBook
from tillsync_agent.outbox import Outbox

DAY, NEXT_DAY = "2026-11-22", "2026-11-23"


@pytest.fixture
async def service():
    async with ScriptedService() as running:
        yield running


@pytest.fixture
async def shell(tmp_path, service):
    """An enrolled till."""
    shell = Shell(tmp_path / "state")
    arguments = ("--service", service.address, "--code", "AB-CD", "--name", "till 3")
    code, _, err = await shell("enroll", *arguments)
    assert code == 0, err
    return shell


async def sell(shell: Shell, *keys: str, day: str = DAY, total: int = 1250) -> None:
    with Outbox.open(shell.folder / "outbox.db", ballast_bytes=0) as outbox:
        for key in keys:
            body = ("example.com/sale", f"{key} {total}".encode())
            outbox.record(body, key=key, business_day=day, amounts={"USD": total})


async def test_a_day_is_closed(shell, service):
    """The shopkeeper closes the day: what waits is sent first, and what the day came to is printed
    with its revision. To close it again changes nothing; a late sale makes it the next one."""
    await sell(shell, "1", "2")
    await sell(shell, "3", day=NEXT_DAY)

    first = await shell("close-day", DAY)
    again = await shell("close-day", DAY, "--json")
    await sell(shell, "late")
    late = await shell("close-day", DAY)

    closed = f"business day {DAY} is closed, revision"
    assert first == (0, f"{closed} 1: 2 events, 2500 USD\n", first[2])
    assert (again[0], json.loads(again[1])["revision"]) == (0, 1)
    assert json.loads(again[1])["comes_to"] == {"USD": [2, 2500]}
    assert late[:2] == (0, f"{closed} 2: 3 events, 3750 USD\n")
    assert not service.books.closings.get(NEXT_DAY)


async def test_a_day_that_an_older_outbox_keeps_open_says_who_can_help(shell, service):
    """The till's file broke a week ago and head office misses numbers of it: the day is equal and
    is not closed, and the shopkeeper reads why, and who can do something about it."""
    await sell(shell, "1")
    service.books.lacks_elsewhere = True

    code, _, err = await shell("close-day", DAY)

    assert code == 1
    assert "head office misses numbers of an outbox of this device that is not here" in err
    assert "`tillsync-service missing`" in err


async def test_a_day_without_a_sale_is_closed(shell):
    """The shop was shut: the day is closed all the same."""
    code, out, _ = await shell("close-day", DAY)

    assert (code, out) == (0, f"business day {DAY} is closed, revision 1: no events\n")


async def test_a_refused_sale_is_named_when_the_day_is_closed(shell):
    """One sale is in quarantine at head office: the day is closed without it, and it is named."""
    await sell(shell, "1")
    assert (await shell("drain"))[0] == 0
    await sell(shell, "1", total=7)

    code, out, _ = await shell("close-day", DAY)

    assert code == 0
    assert f"refused: number 2 of business day {DAY}, conflict KEY_CONFLICT key" in out


async def test_a_day_cannot_be_closed_without_a_line(shell, service):
    """Head office is out of reach: how many sales wait and the link's error, within the time
    given, and exit code 1."""
    await sell(shell, "1", "2")
    service.always = fails(grpc.StatusCode.UNAVAILABLE, "no database")

    code, out, err = await shell("close-day", DAY, "--timeout", "1")

    assert (code, out) == (1, "")
    assert err.splitlines()[-2:] == [
        f"business day {DAY} is not closed:",
        "  2 events wait: UNAVAILABLE: no database",
    ]


async def test_a_line_that_breaks_after_the_last_sale_is_named(shell, service):
    """All is sent and head office is gone since: nothing waits, and the day is not closed."""
    await sell(shell, "1")
    assert (await shell("drain"))[0] == 0
    service.reconcile_failures.extend([(grpc.StatusCode.UNAVAILABLE, "gone")] * 100)

    code, _, err = await shell("close-day", DAY, "--timeout", "1")

    assert code == 1
    assert "  UNAVAILABLE: gone" in err.splitlines()


async def test_a_difference_is_said_in_events_and_money(shell, service):
    """Head office counts less than the till: which day, how much less, and why; until it is put
    right, status says so too."""
    await sell(shell, "1", "2")
    assert (await shell("reconcile"))[:2] == (0, "1 business days are equal\n")
    service.books.off[DAY, "USD"] = DayBook(0, -50, 0)

    closing = await shell("close-day", DAY)
    code, _, err = await shell("reconcile")
    status = await shell("status")

    balance = (
        f"  business day {DAY}, USD: here 2 events and 2500, at head office 2 and 2450 "
        "(minor units), which is +0 and -50"
    )
    why = f"business day {DAY} differs from head office's: the events are the same and their money"
    assert (closing[0], code, status[0]) == (1, 1, 1)
    assert balance in closing[2].splitlines()
    assert balance in err.splitlines()
    assert f"  {why} is not" in err.splitlines()
    assert why in status[1]
    service.books.off.clear()
    assert (await shell("reconcile"))[0] == 0
    assert json.loads((await shell("status", "--json"))[1])["problems"] == []


async def test_what_was_lost_at_head_office_is_given_back(shell, service):
    """Head office was set back: the technician asks, and reads how many sales were given back."""
    await sell(shell, "1", "2", "3")
    assert (await shell("drain"))[0] == 0
    service.lose("2", "3")

    code, out, _ = await shell("reconcile")

    assert code == 0
    assert out.startswith("1 business days are equal")
    assert sorted(service.stored) == ["1", "2", "3"]


async def test_numbers_that_are_gone_for_good_are_named(shell, service):
    """Head office lost sales that the till has pruned: the numbers and the money are named, the
    day is not closed, and status goes on saying so."""
    await sell(shell, "1", "2")
    assert (await shell("drain"))[0] == 0
    with Outbox.open(shell.folder / "outbox.db", ballast_bytes=0) as outbox:
        outbox.prune(0)
        epoch = outbox.epoch
    service.lose("2")

    code, out, _ = await shell("close-day", DAY, "--json")
    err = (await shell("reconcile"))[2]

    told = json.loads(out)
    assert (code, told["closed"], told["gone_count"]) == (1, False, 1)
    assert told["gone"] == [{"epoch": epoch, "first": 2, "last": 2}]
    assert told["differing"][0]["here"] == {"USD": [2, 2500]}
    assert "1 numbers never reached head office and are not kept here any more: 2 to 2" in err
    assert "1 numbers never reached" in (await shell("status"))[1]


async def test_what_head_office_waived_is_not_waited_for(shell, service):
    """Head office lost a sale that the till has pruned, and its operator says that it will not
    come: the shopkeeper reads so, the till's script ends with 0, and status has no complaint."""
    await sell(shell, "1", "2")
    assert (await shell("drain"))[0] == 0
    with Outbox.open(shell.folder / "outbox.db", ballast_bytes=0) as outbox:
        outbox.prune(0)
        epoch = outbox.epoch
    await sell(shell, "3")
    service.lose("2")
    before = (await shell("reconcile"))[0]
    service.books.waived.add((epoch, 2))
    numbers = await shell("reconcile")
    service.books.days_waived.add(DAY)

    code, out, _ = await shell("reconcile")
    told = json.loads((await shell("reconcile", "--json"))[1])
    problems = json.loads((await shell("status", "--json"))[1])["problems"]

    assert (before, numbers[0], code) == (1, 1, 0)
    assert "numbers never reached" not in numbers[2]
    assert out.splitlines() == [
        "0 business days are equal",
        "  1 numbers are gone, and head office does not wait for them",
        f"  business day {DAY} differs, and head office does not wait for the rest",
    ]
    assert (told["gone_count"], told["waived_count"], told["days_waived"]) == (0, 1, [DAY])
    assert (told["days_equal"], told["days_differing"], problems) == (0, 0, [])


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM to send")
async def test_beside_a_running_agent_it_is_the_agent_that_asks(shell, service):
    """The till's agent runs, and the shopkeeper closes the day in another window: the agent does
    it, over its own connection, and no second token is asked for."""
    await sell(shell, "1")
    agent = await shell.start("run")
    await until(lambda: service.stored and service.reconciled)
    await sell(shell, "2")

    closed = await shell("close-day", DAY)
    service.lose("1")
    compared = await shell("reconcile")
    tokens = len(service.tokens)
    agent.terminate()
    await asyncio.wait_for(agent.communicate(), 20)

    assert (closed[0], compared[0]) == (0, 0)
    assert "1 events were given back" in compared[1]
    assert sorted(service.stored) == ["1", "2"]
    assert tokens == 1


async def test_status_shows_the_last_comparison(shell, service):
    """A person asks the till how it stands: when it was last compared with head office and what
    came of it, also when that has not been possible since."""
    await sell(shell, "1")
    before = json.loads((await shell("status", "--json"))[1])["reconciliation"]
    await shell("reconcile")
    text = (await shell("status"))[1]

    assert before["at"] == ""
    assert "1 days equal, 0 differ, 0 events given back" in text


@pytest.mark.parametrize("day", ["yesterday", "2026-13-01", "20261122", ""])
async def test_a_day_that_is_none_is_a_slip(shell, day):
    """The shopkeeper mistypes the day: exit code 2, and how it is written."""
    code, _, err = await shell("close-day", day)

    assert code == 2
    assert "is no day like 2026-11-22" in err


async def test_a_till_without_an_identity_closes_nothing(tmp_path):
    """Nobody enrolled the till: exit code 4, like every command that needs head office."""
    code, _, err = await Shell(tmp_path / "new")("close-day", DAY)

    assert code == 4
    assert "tillsync-agent enroll" in err
