"""The commands of the service's own machine, when something there is not as it should be."""

import json
import socket
import sys
from uuid import uuid4

import pytest

from support.operators import Ended, Shell, reachable_folder
from tillsync_service.config import CLIENT_SETTINGS, Settings
from tillsync_service.foundation.embedded import EmbeddedPostgres


def one_line(ended: Ended) -> str:
    """What a command says that failed as expected."""
    (line,) = ended.err.splitlines()
    assert (ended.status, ended.out) == (1, "")
    assert line.startswith("tillsync-service: ")
    return line


@pytest.fixture
def folder():
    with reachable_folder() as folder:
        yield folder


def shell_in(folder, **settings) -> Shell:
    """A shell on a machine whose data folder is in `folder`, where no service has run yet."""
    return Shell("", "", {"TILLSYNC_DATA_DIR": str(folder / "data"), **settings})


def a_stick(folder):
    """A file of a device, without events."""
    header = {name: str(uuid4()) for name in ("tenant_id", "store_id", "device_id")}
    stick = folder / "till.tillsync"
    stick.write_text(json.dumps({"format": "tillsync-export", "version": 1, **header}) + "\n")
    return str(stick)


async def test_a_port_that_is_taken_is_said_before_anything_is_started(folder):
    """The operator starts a second service by mistake: one line names the setting and the port,
    and no database is made for nothing."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"

        line = one_line(await shell_in(folder, TILLSYNC_LISTEN=address).run("serve"))

    assert "TILLSYNC_LISTEN" in line
    assert address in line
    assert not (folder / "data" / "postgres").exists()


async def test_every_setting_is_listed_with_what_it_is_for(folder):
    """The operator looks a setting up: each is there, under the name that is set, with its default
    and a sentence."""
    listed = await shell_in(folder).run("settings")

    lines = listed.out.splitlines()
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else field.default
        at = lines.index(f"TILLSYNC_{name.upper()} (default: {default})")
        assert lines[at + 1] == f"    {field.description}"
        assert field.description
    for name, description in CLIENT_SETTINGS.items():
        assert lines[lines.index(f"TILLSYNC_{name.upper()}") + 1] == f"    {description}"
    assert (listed.status, listed.err) == (0, "")
    assert len(lines) == 2 * len(Settings.model_fields) + 3 + 2 * len(CLIENT_SETTINGS)
    assert "json for programs, text for people" in listed.out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a file with read errors")
async def test_a_stick_that_cannot_be_read_is_called_so(folder):
    """The USB stick is broken: one line names the file and what the disk said, and the operator
    tries again or takes another stick."""
    stick = folder / "till.tillsync"
    stick.symlink_to("/proc/self/mem")  # it opens, and each read from its start is EIO

    line = one_line(await shell_in(folder).run("ingest-file", str(stick)))

    assert str(stick) in line
    assert "Input/output error" in line


async def test_a_stick_in_the_wrong_machine_makes_no_database(folder):
    """The operator's setting points to the wrong folder: the sales do not vanish in a new, empty
    database that nobody looks into; one line says which settings to set."""
    line = one_line(await shell_in(folder).run("ingest-file", a_stick(folder)))

    assert "TILLSYNC_DATA_DIR" in line
    assert "TILLSYNC_DATABASE_URL" in line
    assert not (folder / "data").exists()


async def test_a_stick_is_taken_to_a_service_that_is_stopped(folder):
    """The service is stopped for the night: its database is there, so it is started for as long as
    the stick needs, which is then found to be another company's."""
    async with EmbeddedPostgres(folder / "data" / "postgres"):
        pass

    line = one_line(await shell_in(folder).run("ingest-file", a_stick(folder)))

    assert "does not know" in line


async def test_no_token_is_made_where_no_service_has_run(folder):
    """The operator asks for a token with the wrong data folder: it would be for no service, so one
    line names the setting, and no key is left there."""
    line = one_line(await shell_in(folder).run("operator-token"))

    assert "TILLSYNC_DATA_DIR" in line
    assert not (folder / "data").exists()
