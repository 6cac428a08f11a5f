"""The command line, as a person or a shell script at the till meets it."""

import asyncio
import json
import signal
import struct
import sys
import zlib
from pathlib import Path

import grpc
import pytest

from support.agentshell import Shell
from support.scripted_service import DEVICE_ID, STORE_ID, ScriptedService, fails
from support.till import until
from tillsync.v1 import event_pb2, retail_pb2

SALE = b'{"receiptNumber": "1", "currency": "USD", "totalMinor": 1250}'


@pytest.fixture
async def service():
    async with ScriptedService() as running:
        yield running


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path / "state")


async def enrolled(shell: Shell, service: ScriptedService) -> dict[str, str]:
    arguments = ("--service", service.address, "--code", "AB-CD", "--name", "till 3")
    code, out, err = await shell("enroll", *arguments)
    assert code == 0, err
    return json.loads(out)


async def test_a_first_day(shell, service):
    """The shopkeeper's technician enrols a till, records a sale, drains, and asks for the state:
    each command says what it did, and the sale is at head office."""
    assert await enrolled(shell, service) == {
        "device_id": DEVICE_ID,
        "store_id": STORE_ID,
        "tenant_id": "0191d0a0-0000-7000-8000-00000000a001",
        "store_name": "Harbour",
    }
    options = ("--amount", "USD=1250", "--business-day", "2026-11-22", "--key", "receipt-1")
    code, out, _ = await shell("record", *options, given=SALE)
    assert (code, json.loads(out)["key"], json.loads(out)["sequence"]) == (0, "receipt-1", 1)

    code, out, _ = await shell("status", "--json")
    before = json.loads(out)
    assert (code, before["waiting"], before["money_waiting"]) == (1, 1, {"USD": 1250})

    assert (await shell("drain"))[:2] == (0, "nothing waits\n")
    code, out, _ = await shell("status", "--json")
    after = json.loads(out)
    assert (code, after["waiting"], after["problems"]) == (0, 0, [])
    assert after["link"]["last_acknowledged_at"]
    assert list(service.stored) == ["receipt-1"]


async def test_a_drain_with_nothing_to_send_forgets_nothing(shell, service):
    """The technician drains a till twice and asks when head office last acknowledged a sale: the
    second drain had nothing to send, and the answer is still the first one's."""
    await enrolled(shell, service)
    await shell("record", "--amount", "USD=1250", "--key", "receipt-1", given=SALE)
    await shell("drain")
    first = json.loads((await shell("status", "--json"))[1])["link"]

    assert (await shell("drain"))[:2] == (0, "nothing waits\n")

    again = json.loads((await shell("status", "--json"))[1])["link"]
    assert again["last_contact_at"] >= first["last_contact_at"] > ""
    assert again["last_acknowledged_at"] == first["last_acknowledged_at"] > ""
    assert again["history_id"] == first["history_id"] > ""


async def test_an_outbox_that_went_bad_needs_a_person(shell, service):
    """Lightning destroys the till's outbox with a sale in it that was never sent. Selling goes on,
    and status does not say that all is well: it names the file, until somebody has moved it."""
    await enrolled(shell, service)
    await shell("record", "--amount", "USD=1250", "--key", "lost", given=SALE)
    (shell.folder / "outbox.db").write_bytes(b"\xa5" * 10_000)
    await shell("drain")

    code, out, _ = await shell("status", "--json")
    told = json.loads(out)
    _, for_a_person, _ = await shell("status")

    (aside,) = told["set_aside"]
    assert (code, told["waiting"]) == (1, 0)
    assert aside in told["problems"][0]
    assert f"ATTENTION          {told['problems'][0]}" in for_a_person
    for part in shell.folder.glob("outbox.db.set-aside-*"):
        part.unlink()
    assert (await shell("status"))[0] == 0


async def test_enrolling_twice_with_one_code_gives_the_same_till(shell, service):
    """The answer to the enrolment was lost and the technician types the code again: the device
    shows the same secret, so that it is the same till and not a second one."""
    service.script.clear()
    await enrolled(shell, service)
    first = set(service.secrets)
    secret_file = shell.folder / "refresh-secret.json"
    secret_file.write_text(json.dumps({}))
    (shell.folder / "agent.json").unlink()
    service.port_was = service.port

    arguments = ("--service", "127.0.0.1:1", "--code", "ab cd", "--name", "t")
    code, _, err = await shell("enroll", *arguments)
    assert code == 4
    assert "No Tillsync service answers at 127.0.0.1:1. Does it run there" in err
    assert err.count("\n") == 1
    minted = json.loads(secret_file.read_text())["enrolling"]
    await enrolled(shell, service)

    assert json.loads(secret_file.read_text())["current"] == minted
    assert len(service.secrets - first) == 1


async def test_a_used_code_is_said_in_words(shell, service):
    """The code was used for another till: exit code 4, one line, and nothing is changed here."""
    arguments = ("--service", service.address, "--code", "USED", "--name", "till 3")

    code, out, err = await shell("enroll", *arguments)

    assert (code, out) == (4, "")
    assert "CODE_USED" in err
    assert err.count("\n") == 1
    assert not (shell.folder / "agent.json").exists()


@pytest.mark.parametrize(
    ("name", "words"), [("", "--name: 1 to 100 characters"), ("x" * 101, "--name")]
)
async def test_a_till_without_a_name_is_not_enrolled(shell, service, name, words):
    """The technician forgets the till's name, or pastes a letter into it: the option is named, and
    the code is still good."""
    arguments = ("--service", service.address, "--code", "AB-CD", "--name", name)

    code, out, err = await shell("enroll", *arguments)

    assert (code, out) == (2, "")
    assert words in err
    assert service.secrets == set()


async def test_a_file_that_is_no_certificate_is_said_to_be_none(shell, service, tmp_path):
    """The technician names the wrong file as the chain's certificate: one line says so, instead of
    that nobody answers."""
    (tmp_path / "ca.pem").write_text("no certificate")
    arguments = ("--service", service.address, "--code", "AB-CD", "--name", "till 3")

    code, out, err = await shell("enroll", *arguments, "--ca-file", str(tmp_path / "ca.pem"))

    assert (code, out) == (2, "")
    assert err == f"tillsync-agent: ca_file {tmp_path / 'ca.pem'} is no certificate in PEM\n"


async def test_an_enrolled_till_is_not_replaced_by_accident(shell, service):
    """Somebody runs enroll on a till that has an identity: it is kept unless they insist."""
    await enrolled(shell, service)

    code, _, err = await shell(
        "enroll", "--service", service.address, "--code", "X", "--name", "other"
    )

    assert code == 2
    assert "--replace" in err


async def test_a_sale_is_recorded_before_the_till_is_enrolled(shell):
    """The shop opens before the technician came: sales are recorded all the same."""
    code, out, _ = await shell("record", given=SALE)

    assert code == 0
    assert json.loads(out)["sequence"] == 1


@pytest.mark.parametrize(
    ("arguments", "given", "words"),
    [
        (("--amount", "USD=12.50"), SALE, "USD=1250 for 12.50"),
        (("--amount", "1250"), SALE, "minor units"),
        (("--business-day", "yesterday"), SALE, "business_day"),
        (("--key", "k" * 201), SALE, "key"),
        ((), b"<sale/>", "no Sale in JSON"),
        (("--type", "Sael"), SALE, "body: 'Sael' is none of the types Decimal, Sale,"),
    ],
)
async def test_a_wrong_sale_is_explained_and_not_recorded(shell, arguments, given, words):
    """A program's author mistypes something: exit code 2 and the word at fault."""
    code, out, err = await shell("record", *arguments, given=given)

    assert (code, out) == (2, "")
    assert words in err


async def test_a_body_of_another_type_is_kept_byte_for_byte(shell, service, tmp_path):
    """A vendor's own message from a file: the bytes arrive as they are."""
    await enrolled(shell, service)
    (tmp_path / "body").write_bytes(b"\x00\xffraw")
    await shell("record", "--type", "vendor.example/Thing", "--body-file", str(tmp_path / "body"))

    await shell("export", str(tmp_path / "stick"))

    event = read_export(tmp_path / "stick")[1][0]
    assert (event.body.type_url, event.body.value) == ("vendor.example/Thing", b"\x00\xffraw")


async def test_a_drain_that_cannot_finish_says_what_waits_and_why(shell, service):
    """Head office is down: exit code 1, how much waits and the reason, within the time given."""
    await enrolled(shell, service)
    await shell("record", given=SALE)
    service.always = fails(
        grpc.StatusCode.UNAVAILABLE, "no database", reason="DATABASE_UNAVAILABLE"
    )

    code, _, err = await shell("drain", "--timeout", "1")

    assert code == 1
    assert "1 events still wait: DATABASE_UNAVAILABLE: no database" in err


async def test_refused_sales_are_listed_with_their_reasons(shell, service):
    """Two tills numbered their receipts alike: the shopkeeper sees which sale it is, and why."""
    await enrolled(shell, service)
    for total in (b"1", b"2"):
        await shell("record", "--key", "receipt-1", given=b'{"totalMinor": %s}' % total)
    await shell("drain")

    code, out, _ = await shell("dead-letters", "--json")
    text = await shell("dead-letters")

    letter = json.loads(out)
    assert code == 0
    assert (letter["key"], letter["outcome"], letter["reason"]) == (
        "receipt-1",
        "conflict",
        "KEY_CONFLICT",
    )
    assert "KEY_CONFLICT" in text[1]


def read_export(path: Path) -> tuple[dict[str, object], list[event_pb2.Event]]:
    """A reader by the words of export.py's docstring."""
    data = path.read_bytes()
    line, rest = data.split(b"\n", 1)
    events = []
    while True:
        length, crc = struct.unpack(">II", rest[:8])
        if length == 0:
            assert zlib.crc32(rest[8:]) == crc
            assert struct.unpack(">Q", rest[8:]) == (len(events),)
            return json.loads(line), events
        message, rest = rest[8 : 8 + length], rest[8 + length :]
        assert zlib.crc32(message) == crc
        events.append(event_pb2.Event.FromString(message))


async def test_the_backlog_fits_on_a_usb_stick(shell, service, tmp_path):
    """The line is dead for good: the backlog goes to a file, whole and checked, and still waits
    on the till. No half file is left under the name."""
    await enrolled(shell, service)
    for number in range(3):
        await shell("record", given=b'{"receiptNumber": "%d"}' % number)

    code, out, _ = await shell("export", str(tmp_path / "stick.tillsync"))

    header, events = read_export(tmp_path / "stick.tillsync")
    sales = [retail_pb2.Sale.FromString(event.body.value) for event in events]
    assert code == 0
    assert "3 events" in out
    assert (header["format"], header["version"], header["device_id"]) == (
        "tillsync-export",
        1,
        DEVICE_ID,
    )
    assert [sale.receipt_number for sale in sales] == ["0", "1", "2"]
    assert json.loads((await shell("status", "--json"))[1])["waiting"] == 3
    assert [path.name for path in tmp_path.glob("stick*")] == ["stick.tillsync"]


async def test_a_stick_that_cannot_be_written_is_said_to_be_it(shell, service, tmp_path):
    """The stick is not in, or is another thing: the file is named and not the outbox, which goes on
    holding what waits."""
    await enrolled(shell, service)
    await shell("record", given=SALE)

    not_in = await shell("export", str(tmp_path / "stick" / "till-3"))
    no_file = await shell("export", "/proc/till-3")

    assert not_in[:2] == (2, "")
    assert f"there is no folder {tmp_path / 'stick'}" in not_in[2]
    assert no_file[:2] == (1, "")
    assert no_file[2].startswith("tillsync-agent: /proc/till-3 cannot be written: ")
    assert json.loads((await shell("status", "--json"))[1])["waiting"] == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM to send")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_agent_runs_and_stops_in_order(shell, service, number):
    """The till is shut down: the agent ends by itself with exit code 0. While it runs, drain
    watches it and status sees it."""
    await enrolled(shell, service)
    agent = await shell.start("run")
    await shell("record", given=SALE)
    await until(lambda: service.stored)

    assert (await shell("drain"))[0] == 0
    assert json.loads((await shell("status", "--json"))[1])["agent_running"] is True
    agent.send_signal(number)
    _, err = await asyncio.wait_for(agent.communicate(), 20)

    assert agent.returncode == 0
    outbox = (shell.folder / "outbox.db").resolve()
    assert f"INFO sending to {service.address} from {outbox}" in err.decode()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TILLSYNC_AGENT_MAX_WAIT", "5", "did you mean TILLSYNC_AGENT_MAX_WAIT_SECONDS?"),
        ("TILLSYNC_AGENT_MAX_WAIT_SECONDS", "soon", "must be a float, not 'soon'"),
        ("TILLSYNC_AGENT_BATCH_EVENTS", "5000", "between 1 and 1000"),
    ],
)
async def test_a_wrong_setting_is_one_line_that_names_it(shell, name, value, words):
    """A setting was misspelt: it is said at once and by name, not found out during an outage."""
    shell.env[name] = value

    code, _, err = await shell("status")

    assert code == 2
    assert name in err
    assert words in err
    assert err.count("\n") == 1


async def test_asking_for_the_state_creates_nothing(shell):
    """Somebody mistypes the state folder: status says that nothing is there and leaves it so."""
    code, _, err = await shell("status")

    assert code == 3
    assert "nothing was ever recorded here" in err
    assert not shell.folder.exists()


async def test_running_without_an_identity_is_exit_code_4(shell):
    """The agent was installed and nobody enrolled the till: a service manager sees a clear code."""
    code, _, err = await shell("run")

    assert code == 4
    assert "tillsync-agent enroll" in err


async def test_recording_loads_no_grpc():
    """A small till's program that only records pays nothing for the network it does not use."""
    program = "import sys, tillsync_agent; sys.exit('grpc' in sys.modules)"

    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)

    assert await process.wait() == 0
