"""An operator looks at a feed from a shell, and gives a program a token for it."""

import asyncio
import json
import signal

import pytest
from google.protobuf.any_pb2 import Any

from support.builders import an_event
from support.feed import Reader
from support.operators import shell_at
from support.polling import eventually
from support.service import ServiceProcess

COUNTED = "type.example.com/stock.Counted"


@pytest.fixture
async def service(database_url, tmp_path):
    async with ServiceProcess(database_url, tmp_path) as service:
        yield service


@pytest.fixture
def shell(service):
    return shell_at(service)


async def sell(service, device, *events):
    async with service.caller(device) as till:
        await till.offer(*events)


async def test_a_program_reads_with_the_token_that_it_was_given(service, shell, device):
    """The operator makes a token on the service's machine: it opens the feed of that tenant."""
    shell.settings["TILLSYNC_SIGNING_KEYS"] = str(service.keys)
    await sell(service, device, an_event("a sale"))

    made = await shell.run(
        "integrator-token", "--tenant", str(device.tenant_id), "--name", "erp", "--days", "7"
    )

    async with Reader(service.address, made.out.strip()) as reader:
        assert await reader.keys() == ["a sale"]


async def test_an_operator_sees_who_reads_and_forgets_who_does_not(service, shell, device):
    """The operator lists the consumers with their lag, and deletes the one that was switched off; a
    name that is none is one line."""
    tenant = ("--tenant", str(device.tenant_id))
    await sell(service, device, *(an_event() for _ in range(3)))
    async with Reader(service.address, shell.token) as reader:
        pages = await reader.read(tenant_id=str(device.tenant_id), page_size=1)
        for name, page in (("erp", pages[0]), ("old", pages[2])):
            await reader.commit(name, page.cursor, tenant_id=str(device.tenant_id))

    listed = await shell.run("feed", "consumers", *tenant)
    deleted = await shell.run("feed", "delete-consumer", "old", *tenant)
    again = await shell.run("feed", "delete-consumer", "old", *tenant)
    left = await shell.run("feed", "consumers", *tenant, "--json")

    assert [line[:3] for line in listed.lines] == [["erp", "1", "2"], ["old", "3", "0"]]
    assert (deleted.status, deleted.out) == (0, "")
    assert again.status == 1
    assert "NOT_FOUND" in again.err
    assert [consumer["name"] for consumer in left.json] == ["erp"]


async def test_an_operator_looks_at_events(service, shell, device):
    """What a till sent is a line each, readable where its kind is known, whatever its bytes are."""
    tenant = ("--tenant", str(device.tenant_id))
    strange = Any(type_url=COUNTED, value=b"\xff\0")
    torn = Any(type_url="type.googleapis.com/tillsync.v1.Sale", value=b"\xff")
    await sell(
        service,
        device,
        an_event("a", receipt="4711"),
        an_event("b", body=strange, occurred_at=None),
        an_event("c", body=torn),
    )

    every = await shell.run("feed", "tail", *tenant)
    some = await shell.run("feed", "tail", *tenant, "--type", COUNTED)
    here = await shell.run("feed", "tail", *tenant, "--store", str(device.store_id))
    future = await shell.run("feed", "tail", *tenant, "--since", "2999-01-01")
    new = await shell.run("feed", "tail", *tenant, "--new")

    first, second, third = map(json.loads, every.out.splitlines())
    assert (first["position"], first["event"]["key"]) == (1, "a")
    assert first["store_id"] == str(device.store_id)
    assert first["event"]["amounts"] == [{"currency": "USD", "minor_units": "1250"}]
    assert first["event"]["body"]["value"]["receipt_number"] == "4711"
    assert second["event"]["body"] == {"type_url": COUNTED, "base64": "/wA="}
    assert second["flags"] == ["clock_absent"]
    assert third["event"]["body"]["base64"] == "/w=="
    assert [json.loads(line)["event"]["key"] for line in some.out.splitlines()] == ["b"]
    assert len(here.out.splitlines()) == 3
    assert (future.out, new.out) == ("", "")


async def test_an_operator_follows_events_until_it_is_enough(service, shell, device):
    """The operator watches sales come in, and ends it with Ctrl-C."""
    tenant = ("--tenant", str(device.tenant_id))
    await sell(service, device, an_event("before"))
    following = await shell.start("feed", "tail", *tenant, "--new", "--follow")
    lines = following._process.stdout
    seen = asyncio.create_task(lines.readline())

    async def sold_until_seen():
        # Until its stream is open, what is sold is not new to it.
        await sell(service, device, an_event())
        return seen.done()

    await eventually(sold_until_seen, within_seconds=30)
    following.signal(signal.SIGINT)
    ended = await following.ended()

    assert json.loads(seen.result())["position"] > 1
    assert ended.status == 130


async def test_an_operator_without_the_right_hears_so(service, device):
    """A token for another tenant lists nothing of this one."""
    stranger = shell_at(service, "018f2a5e-7c3b-7d10-8a4e-3b1c9d2e5f60")

    for command in (("consumers",), ("tail",), ("delete-consumer", "erp")):
        ended = await stranger.run("feed", *command, "--tenant", str(device.tenant_id))
        assert ended.status == 1
        assert "PERMISSION_DENIED" in ended.err
