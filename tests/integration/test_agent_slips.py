"""A technician's slips at the till, and the sentence that the agent answers each of them with."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from tillsync_agent import config, link
from tillsync_agent.cli import main
from tillsync_agent.errors import AddressUnusable, NotEnrolled
from tillsync_agent.export import write_export
from tillsync_agent.gateway import Gateway
from tillsync_agent.outbox import Outbox


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """Runs tillsync-agent in this process, for one state folder."""
    monkeypatch.setenv("TILLSYNC_AGENT_STATE_DIR", str(tmp_path / "state"))
    return lambda *arguments: CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ("127.0.0.1:70700", "port from 1 to 65535"),
        ("127.0.0.1:0", "port from 1 to 65535"),
        ("127.0.0.1:\N{SUPERSCRIPT TWO}", "HOST:PORT"),
        ("sync.example.com", "HOST:PORT"),
        ("http://127.0.0.1:7070/", "without http://, like sync.example.com:443; write '127.0.0.1"),
        ("https://sync.example.com", "HOST:PORT without https://"),
    ],
)
def test_a_mistyped_address_reaches_no_stranger(agent, service, words):
    """The shopkeeper's sales go to no other port or program than the one that was meant: the
    address is named, with how to write it."""
    result = agent("enroll", "--service", service, "--code", "A", "--name", "till 3")

    assert result.exit_code == 2
    assert words in result.stderr
    assert repr(service) in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("service", ["127.0.0.1:1", "localhost:65535", "[::1]:7070"])
async def test_every_real_port_can_be_used(tmp_path, service):
    """A shop whose service listens at an unusual port is served like any other."""
    await link.open_channel(config.load(tmp_path, {}, service=service)).close()


async def test_a_gateway_port_that_cannot_be_is_named(agent, tmp_path):
    """The shopkeeper's till program finds the gateway where it was told to, or nowhere: no port is
    listened at that nobody wrote."""
    result = agent("run", "--gateway-port", "70700")
    assert result.exit_code == 2
    assert "gateway_port must lie between 0 and 65535, not 70700" in result.stderr

    with (
        Outbox.open(tmp_path / "outbox.db", ballast_bytes=0) as outbox,
        pytest.raises(AddressUnusable, match=":70700: write a port from 1 to 65535"),
    ):
        await Gateway(outbox, tmp_path / "token").start(70_700)


def test_a_till_without_identity_exports_nothing(agent, tmp_path):
    """The shopkeeper carries no file to head office that nobody there could take: the till is to
    be enrolled first, and the sales go on waiting."""
    with Outbox.open(tmp_path / "state" / "outbox.db", ballast_bytes=0) as outbox:
        outbox.record(("vendor.example/Thing", b"x"))

    result = agent("export", str(tmp_path / "stick"))

    assert result.exit_code == 4
    assert "tillsync-agent enroll" in result.stderr
    assert list(tmp_path.glob("stick*")) == []
    with pytest.raises(NotEnrolled):
        write_export(
            tmp_path / "stick",
            [],
            replace(config.load(tmp_path, {}), store_id="s"),
            exported_at=datetime.now(UTC),
        )


def test_an_unknown_log_level_is_refused_with_the_known_ones(agent):
    """The shopkeeper's technician reads which levels there are, and no traceback."""
    result = agent("run", "--log-level", "loud")

    assert result.exit_code == 2
    assert "'debug', 'info', 'warning'" in result.stderr
    assert agent("run", "--log-level", "debug").exit_code == 4  # taken; not enrolled


def test_no_dead_letters_is_said(agent, tmp_path):
    """The shopkeeper who asks what was refused reads that nothing was; a program reads no line."""
    Outbox.open(tmp_path / "state" / "outbox.db", ballast_bytes=0).close()

    assert agent("dead-letters").stdout == "no dead letters\n"
    assert agent("dead-letters", "--json").stdout == ""


def test_a_misspelt_setting_in_the_file_is_named_as_the_file_writes_it(agent, tmp_path):
    """The shopkeeper's technician copies the name that is meant, as it stands in agent.json."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "agent.json").write_text('{"batch_event": 5}')

    assert "did you mean batch_events?" in agent("status").stderr


@pytest.mark.parametrize("command", [(), ("run",), ("record",)])
def test_help_has_its_short_name_too(agent, command):
    """Whoever helps the shopkeeper types -h and reads the help."""
    assert agent(*command, "-h").stdout == agent(*command, "--help").stdout
    assert agent(*command, "-h").exit_code == 0
