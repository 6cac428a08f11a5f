"""An operator asks at a shell which sales had the key of another one."""

from uuid import UUID

import pytest

from support.builders import BUSINESS_DAY, an_event
from support.fleet import Till
from support.reconciling import ReconcilingTill
from tillsync.v1 import admin_service_pb2 as pb
from tillsync_service.foundation.identity import Device
from tillsync_service.operator.client import Service, Target

NOBODY = "018f2a5e-7c3b-7d10-8a4e-3b1c9d2e5f60"


@pytest.fixture
async def till(shell, place):
    code = (await shell.run("enrolment-code", "-q", "--tenant", place[0], "--store", place[1])).out
    async with Service(Target(shell.address)) as service:
        till = Till(service.device)
        identity = await till.enrol(code.strip(), "till 1")
        token = (await till.issue()).access_token
    device = Device(*map(UUID, (*place, identity.device_id)))
    async with ReconcilingTill(shell.address, device, token) as till:
        yield till


async def test_a_sale_with_anothers_key_is_found_and_shown_beside_it(shell, place, till):
    """Two tills numbered their receipts alike: the operator finds the sale that does not count, and
    reads what it was, and what has its number."""
    await till.offer(an_event("r-1", receipt="first", number=1))
    await till.offer(an_event("r-1", receipt="second", number=2))
    tenant, store = place

    listed = await shell.run("quarantine", "list", "--tenant", tenant, "--store", store)
    shown = (await shell.run("quarantine", "show", "r-1", "--tenant", tenant, "--json")).json

    ((key, digest, *where),) = listed.lines
    assert (key, where[:2]) == ("r-1", [store, str(till.device.device_id)])
    assert (shown["key"], shown["digest"], shown["held_position"]) == ("r-1", digest, "1")
    assert (shown["sequence"], shown["held_sequence"]) == (2, 1)
    assert shown["business_day"] == shown["held_business_day"] == BUSINESS_DAY
    assert shown["amounts"] == shown["held_amounts"] == ["USD=1250"]
    assert '"second"' in shown["body"]
    assert '"first"' in shown["held_body"]
    assert shown["held_device_id"] == str(till.device.device_id)


async def test_of_several_with_one_key_each_can_be_shown(shell, place, till):
    """Three sales have one key: the operator names the one that he means as it is listed."""
    for receipt in ("first", "second", "third"):
        await till.offer(an_event("r-1", receipt=receipt))
    tenant = place[0]

    listed = (await shell.run("quarantine", "list", "--tenant", tenant)).lines
    bodies = set()
    for line in listed:
        show = ("quarantine", "show", "r-1", "--tenant", tenant, "--digest", line[1], "--json")
        bodies.add((await shell.run(*show)).json["body"].count("second"))

    assert len(listed) == 2
    assert bodies == {0, 1}


async def test_a_day_that_was_not_declared_and_a_body_of_ones_own_are_shown(shell, place, till):
    """What the service does not understand is shown as it is."""
    vendors = {"type_url": "vendor.example/Thing", "value": b"\x00\xff"}
    await till.offer(an_event("r-1", body=vendors, business_day="", amounts=[]))
    await till.offer(an_event("r-1"))

    shown = (await shell.run("quarantine", "show", "r-1", "--tenant", place[0], "--json")).json

    assert (shown["held_type_url"], shown["held_body"]) == ("vendor.example/Thing", "AP8=")
    assert (shown["held_business_day"], shown["held_amounts"]) == ("", [])


async def test_a_long_quarantine_is_whole(shell, place, till):
    """A chain whose tills number alike has more of them than a page: each is listed once."""
    keys = [f"r-{number}" for number in range(5)]
    await till.offer(*(an_event(key, receipt="first") for key in keys))
    await till.offer(*(an_event(key, receipt="second") for key in keys))
    found, pages, token = [], 0, ""
    async with Service(Target(shell.address, token=shell.token)) as service:
        while token or not pages:
            request = pb.ListQuarantineRequest(tenant_id=place[0], page_size=2, page_token=token)
            page = await service.operate(service.admin.ListQuarantine, request)
            found += [one.key for one in page.quarantined]
            pages, token = pages + 1, page.next_page_token

    assert (found, pages) == (keys, 3)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("show", "nowhere"), 1, "There is no such event in quarantine. (NOT_FOUND)"),
        (("show", "k" * 201), 1, "key: 1 to 200 characters"),
        (("show", "r-1", "--digest", "12"), 2, "--digest 12: 32 digits, as listed."),
        (("list", "--store", NOBODY), 1, "There is no such store. (NOT_FOUND)"),
    ],
)
async def test_what_is_not_there_is_one_line(shell, place, arguments, status, words):
    """The operator mistypes something: one line says what."""
    ended = await shell.run("quarantine", *arguments, "--tenant", place[0])

    assert (ended.status, ended.out) == (status, "")
    assert words in ended.err
