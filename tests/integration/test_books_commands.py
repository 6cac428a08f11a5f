"""An operator asks at a shell what is missing, and says what will not come."""

from uuid import UUID

import pytest

from support.builders import BUSINESS_DAY, an_event
from support.fleet import Till
from support.operators import shell_at
from support.reconciling import EPOCH, ReconcilingTill, a_book, a_day
from tillsync_service.foundation.identity import Device
from tillsync_service.operator.client import Service, Target

NOBODY = "018f2a5e-7c3b-7d10-8a4e-3b1c9d2e5f60"
NEXT_DAY = "2026-11-23"


async def a_till(shell, place, name="till 1"):
    """An enrolled till that can send and ask."""
    tenant, store = place
    code = (await shell.run("enrolment-code", "-q", "--tenant", tenant, "--store", store)).out
    async with Service(Target(shell.address)) as service:
        till = Till(service.device)
        identity = await till.enrol(code.strip(), name)
        token = (await till.issue()).access_token
    device = Device(*map(UUID, (tenant, store, identity.device_id)))
    return ReconcilingTill(shell.address, device, token)


@pytest.fixture
async def till(shell, place):
    async with await a_till(shell, place) as till:
        yield till


def sales(*numbers, **fields):
    return [an_event(number=n, receipt=f"{n}", **fields) for n in numbers]


async def loses(till, *lost, of):
    """The till sold `of` sales of which those never came, and says so."""
    events = sales(*range(1, of + 1))
    await till.offer(*(event for event in events if event.device_sequence not in lost))
    await till.reconcile(last=of, days=[a_day(*events)])


async def test_nothing_missing_is_status_0(shell, place, till):
    """A script that watches the shops hears that everything is here."""
    await loses(till, of=2)

    plain = await shell.run("missing", "--tenant", place[0])
    as_json = await shell.run("missing", "--tenant", place[0], "--json")

    assert (plain.status, plain.out, plain.err) == (0, "", "")
    assert (as_json.status, as_json.json) == (0, [])


async def test_something_missing_is_status_1_and_named(shell, place, till):
    """Three sales never came: the operator reads the store, the till, when it was last heard of,
    the numbers, the day and the money, and the script ends with 1."""
    await loses(till, 2, 3, 6, of=6)
    tenant, store = place

    plain = await shell.run("missing", "--tenant", tenant, "--store", store)
    as_json = await shell.run("missing", "--tenant", tenant, "--json")

    assert (plain.status, as_json.status) == (1, 1)
    till_id = str(till.device.device_id)
    assert [line[:3] for line in plain.lines] == [["1", "till 1", till_id]] * 3
    assert [line[4:7] for line in plain.lines] == [
        [f"numbers {EPOCH}:2-3", "2", ""],
        [f"numbers {EPOCH}:6-6", "1", ""],
        [f"day {BUSINESS_DAY}", "3", "3750 USD"],
    ]
    assert all(line[3] for line in plain.lines)
    (device,) = as_json.json
    assert (device["device_id"], device["missing_events"]) == (till_id, "3")


async def test_more_holes_than_a_list_shows_are_counted(shell, place, till):
    """A till that lost every other sale: a hundred spans are shown, and how many numbers are
    missing beyond them."""
    await till.offer(*sales(*range(2, 205, 2)))

    ended = await shell.run("missing", "--tenant", place[0])

    assert len(ended.lines) == 101
    assert ended.lines[-1][4:6] == ["further numbers", "2"]


async def test_missing_looks_from_a_day_on(shell, place, till):
    """An operator looks at the days from a date on."""
    await till.reconcile(days=[a_day(*sales(1)), a_day(*sales(2), day=NEXT_DAY)])

    ended = await shell.run("missing", "--tenant", place[0], "--since", NEXT_DAY)

    assert [line[4] for line in ended.lines] == [f"day {NEXT_DAY}"]


async def test_waived_days_hide_no_other_day(shell, place, till):
    """A till was broken for two months, day by day waived, in two currencies: a day before that, of
    which money is missing, is listed, and the script ends with 1."""
    await till.reconcile(days=[a_day(*sales(1), day="2026-01-01")])
    days = [f"2026-0{month}-{day:02}" for month in (2, 3) for day in range(1, 29)]
    claims = [a_day(*sales(1), day=day) for day in days]
    for claim in claims:
        claim.books.append(a_book(*sales(2, amounts=(("EUR", 5),)), currency="EUR"))
    await till.reconcile(days=claims)
    waive = ("waive", "--tenant", place[0], "--device", str(till.device.device_id))
    for day in days:
        await shell.run(*waive, "--reason", "broken", "--day", day)

    ended = await shell.run("missing", "--tenant", place[0])

    listed = [line[4] for line in ended.lines if not line[4].startswith("waived")]
    assert (ended.status, listed) == (1, ["day 2026-01-01"])


async def test_what_will_not_come_is_waived(shell, place, till):
    """The operator copies what `missing` shows into `waive`: it is shown as waived, with the
    reason and who said it, and nothing is missing any more."""
    await loses(till, 2, 3, of=3)
    which = ("--tenant", place[0], "--device", str(till.device.device_id), "--reason", "disk broke")
    listed = await shell.run("missing", "--tenant", place[0])
    (numbers,) = [line[4].removeprefix("numbers ") for line in listed.lines if "numbers" in line[4]]

    waived = await shell.run("waive", *which, "--numbers", numbers, "--json")
    still = await shell.run("missing", "--tenant", place[0])
    await shell.run("waive", *which, "--day", BUSINESS_DAY)
    ended = await shell.run("missing", "--tenant", place[0])

    assert (waived.status, waived.json["waived_by"]) == (0, "test")
    assert (waived.json["first"], waived.json["last"]) == ("2", "3")
    assert (still.status, ended.status) == (1, 0)
    assert [(line[4], line[8]) for line in ended.lines] == [
        (f"waived: numbers {EPOCH}:2-3", "disk broke (test)"),
        (f"waived: day {BUSINESS_DAY}", "disk broke (test)"),
    ]


async def test_f30_a_cloned_till_is_named(shell, place, till):
    """A till's disk was cloned: the operator reads which till's, and a script that watches for what
    is missing hears that nothing is."""
    await till.offer(*sales(1))
    await till.offer(an_event(number=1, key="the clone's"))

    plain = await shell.run("missing", "--tenant", place[0])
    as_json = await shell.run("missing", "--tenant", place[0], "--json")

    (line,) = plain.lines
    assert (plain.status, line[1:3]) == (0, ["till 1", str(till.device.device_id)])
    assert line[4:6] == [f"forked: numbers {EPOCH}:1", "1"]
    assert line[8] == "two sales have one number: the disk was cloned, or restored from a backup"
    assert as_json.json[0]["fork"]["sequence"] == "1"


async def test_what_was_never_counted_cannot_be_waived(shell, place, till):
    """The operator's hand slips, and 3-5 becomes 3-50, or the outbox is another: nothing is waived,
    so that what the till will lose next week is seen, and the operator reads how far it counted."""
    await loses(till, 3, 5, of=5)
    waive = ("waive", "--tenant", place[0], "--device", str(till.device.device_id), "--reason", "x")

    slips = [await shell.run(*waive, "--numbers", n) for n in (f"{EPOCH}:3-50", "8:1-1")]
    await loses(till, 3, 5, 6, of=6)
    ended = await shell.run("missing", "--tenant", place[0])

    assert [slip.status for slip in slips] == [1, 1]
    assert f"span.last: Outbox {EPOCH} of this device counted up to 5 only" in slips[0].err
    assert "counted up to 0 only" in slips[1].err
    assert f"numbers {EPOCH}:5-6" in [line[4] for line in ended.lines]
    assert not [line for line in ended.lines if "waived" in line[4]]


async def test_a_day_shows_how_each_till_stands(shell, place, till):
    """Before the shop is closed for the day, the operator sees who closed it and who is silent."""
    events = sales(1, 2)
    await till.offer(*events)
    await till.reconcile(last=2, days=[a_day(*events, close=True)])
    async with await a_till(shell, place, "till 2"):
        pass
    tenant, store = place

    ended = await shell.run("day", "--tenant", tenant, "--store", store, BUSINESS_DAY)
    as_json = await shell.run("day", "--tenant", tenant, "--store", store, BUSINESS_DAY, "--json")

    assert ended.status == 0
    stands = {line[0]: line[2:6] for line in ended.lines}
    assert stands == {
        "till 1": ["closed", "1", "2 USD", "2500 USD"],
        "till 2": ["silent", "0", "", ""],
    }
    assert {one["state"] for one in as_json.json} == {"DAY_STATE_CLOSED", "DAY_STATE_SILENT"}


async def test_a_restore_is_declared_by_who_says_yes(shell, place, till):
    """Somebody who types `restored` by accident is asked; nothing happens without a yes."""
    before = (await till.reconcile()).history_id

    asked = await shell.run("restored", "--reason", "backup of 03:00")
    unchanged = (await till.reconcile()).history_id
    done = await shell.run("restored", "--reason", "backup of 03:00", "--yes", "--json")

    assert asked.status == 1
    assert "[y/N]" in asked.out
    assert unchanged == before
    assert done.status == 0
    assert done.json["tenants"] >= 1
    assert (await till.reconcile()).history_id != before


async def test_an_operator_of_one_tenant_declares_nothing_for_all(service, place):
    """A retailer's own operator cannot make every till of the others load anew."""
    ended = await shell_at(service, place[0]).run("restored", "--reason", "x", "--yes")

    assert ended.status == 1
    assert "(PERMISSION_DENIED)" in ended.err


async def test_a_question_that_was_not_answered_is_no_answer(shell):
    """A script does not take a service that is away, or a mistyped id, for a shop from which
    something is missing: the status is another one."""
    unknown = await shell.run("missing", "--tenant", NOBODY)
    shell.settings = {"TILLSYNC_SERVICE_ADDRESS": "127.0.0.1:1"}
    away = await shell.run("missing", "--tenant", NOBODY)

    assert (unknown.status, away.status) == (2, 2)
    assert "(NOT_FOUND)" in unknown.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("missing",),
        ("missing", "--tenant", NOBODY, "--since", "22.11.2026"),
        ("day", "--tenant", NOBODY, BUSINESS_DAY),
        ("day", "--tenant", NOBODY, "--store", NOBODY, "20261122"),
        ("waive", "--tenant", NOBODY, "--device", NOBODY, "--reason", "x"),
        ("waive", "--tenant", NOBODY, "--device", NOBODY, "--numbers", "1:1"),
        *(
            ("waive", "--tenant", NOBODY, "--device", NOBODY, "--reason", "x", *more)
            for more in (
                ("--numbers", "1:1", "--day", BUSINESS_DAY),
                ("--numbers", "3-5"),
                ("--numbers", f"1:1-{2**63}"),
            )
        ),
        ("restored", "--yes"),
    ],
)
async def test_wrong_usage_reaches_no_service(shell, arguments):
    """A mistyped command says how it is used, and changes nothing."""
    ended = await shell.run(*arguments)

    assert ended.status == 2
    assert "Usage:" in ended.err
