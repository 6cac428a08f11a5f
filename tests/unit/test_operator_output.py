"""What an operator's commands print."""

import io
import json
import subprocess
import sys

import pytest

from tillsync.v1 import admin_service_pb2 as pb
from tillsync_service.operator import output
from tillsync_service.operator.client import OperatorError, Target


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def at_a_terminal(monkeypatch, columns: int) -> Terminal:
    """Standard output as a terminal. Called by the test itself: pytest puts its own in place when
    the test begins."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    return terminal


A_DEVICE = pb.Device(device_id="0191d0a0-0000-7000-8000-00000000d001", name="till 1")


def test_a_pipe_gets_one_line_of_tab_separated_values_each(capsys):
    """A script reads a list with `cut`: no heading, one line a device, absent times empty."""
    rows = [output.row_of(A_DEVICE)]

    output.show_rows(output.columns_of(pb.Device), rows, as_json=False)

    assert capsys.readouterr().out == f"{A_DEVICE.device_id}\t\ttill 1\t\t\t\n"


def test_json_has_every_field(capsys):
    """A program reads a list as JSON: a device that was never revoked has revoked_at null."""
    output.show_rows((), [output.row_of(A_DEVICE)], as_json=True)

    (device,) = json.loads(capsys.readouterr().out)
    assert list(device) == [field.name for field in pb.Device.DESCRIPTOR.fields]
    assert device["revoked_at"] is None


def test_a_terminal_gets_a_table(monkeypatch):
    """An operator reads a table with headings, and the shop called [red] is not painted."""
    terminal = at_a_terminal(monkeypatch, 200)
    row = output.row_of(pb.Store(store_id="1", name="[red]Main street"))

    output.show_rows(output.columns_of(pb.Store), [row], as_json=False)

    assert "store_id" in terminal.getvalue()
    assert "[red]Main street" in terminal.getvalue()


def test_a_narrow_terminal_cuts_no_identifier_off(monkeypatch):
    """On a small screen the operator can still copy the whole id."""
    terminal = at_a_terminal(monkeypatch, 40)

    output.show_rows(output.columns_of(pb.Device), [output.row_of(A_DEVICE)], as_json=False)

    assert A_DEVICE.device_id in terminal.getvalue()


@pytest.mark.parametrize("evil", ["two\tcells", "two\nlines", "\x1b[2Jcleared"])
def test_a_name_cannot_steer_the_terminal(capsys, evil):
    """A till that somebody named with control characters is one line and three cells, still."""
    output.show_rows(("name", "id"), [{"name": evil, "id": "1"}], as_json=False)

    printed = capsys.readouterr().out
    assert printed.count("\t") == 1
    assert printed.count("\n") == 1
    assert "\x1b" not in printed


def test_an_old_terminal_prints_without_an_error(monkeypatch):
    """On a terminal that knows ASCII only, a shop's name has question marks and the command
    ends well."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))

    output.say("Café")
    sys.stdout.flush()

    assert raw.getvalue() == b"Caf?\n"


@pytest.mark.parametrize("address", ["shop", "shop:", ":7070", "shop:http"])
def test_an_address_without_a_port_is_named(address):
    """A mistyped address is refused in a line that names the setting."""
    with pytest.raises(OperatorError, match="TILLSYNC_SERVICE_ADDRESS"):
        Target(address).open_channel()


def test_a_token_is_not_in_the_targets_text():
    """Nobody reads a token out of a log."""
    assert "secret" not in repr(Target("127.0.0.1:7070", token="secret"))


def test_help_does_not_wait_for_the_database_libraries():
    """An operator who asks for help has it at once: what only the server needs stays unread."""
    program = (
        "import sys; from tillsync_service.cli import main;"
        "main(['--help'], standalone_mode=False);"
        "assert not {'alembic', 'sqlalchemy', 'asyncpg', 'grpc', 'rich'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
