"""A state folder that cannot be used, and the line that says so."""

import asyncio
import os
import sys

import pytest

from support.agentshell import Shell, program_of
from support.operators import reachable_folder
from support.scripted_service import ScriptedService
from support.till import Till

SALE = b'{"receiptNumber": "1", "currency": "USD", "totalMinor": 1250}'
ENROLL = ("enroll", "--replace", "--service", "127.0.0.1:1", "--code", "A", "--name", "till 3")
COMMANDS = {
    "record": ("record",),
    "run": ("run",),
    "drain": ("drain", "--timeout", "5"),
    "status": ("status",),
    "enroll": ENROLL,
    "dead-letters": ("dead-letters",),
    "export": ("export", os.devnull),
}
NOBODYS = program_of(65534, 65534)


async def wrong_ends(shell: Shell) -> dict[str, str]:
    """What the commands answered that did not end in one line with the folder and what to do."""
    ends = await asyncio.gather(*(shell(*words, given=SALE) for words in COMMANDS.values()))
    return {
        name: f"exit code {code}: {err}"
        for name, (code, _, err) in zip(COMMANDS, ends, strict=True)
        if code not in {2, 3, 4}
        or err.count("\n") != 1
        or not err.startswith("tillsync-agent: ")
        or str(shell.folder) not in err
        or "TILLSYNC_AGENT_STATE_DIR" not in err
    }


async def test_a_file_in_the_folders_place_is_named_by_every_command(tmp_path):
    """The shopkeeper's technician names a file where the state folder should be: each command says
    so in one line that holds the name and the setting, and no sale is believed to be safe."""
    (tmp_path / "state").write_text("somebody's notes")

    assert await wrong_ends(Shell(tmp_path / "state")) == {}


async def test_a_folder_below_a_file_is_named_by_every_command(tmp_path):
    """The shopkeeper's technician names a folder that nobody can ever make: the same."""
    (tmp_path / "notes").write_text("somebody's notes")

    assert await wrong_ends(Shell(tmp_path / "notes" / "state")) == {}


async def test_a_file_named_as_an_argument_is_one_line_too(tmp_path):
    """The shopkeeper's technician writes the wrong folder on the command line: one line too."""
    (tmp_path / "notes").write_text("somebody's notes")
    shell = Shell(tmp_path / "state")

    code, _, err = await shell("--state-dir", str(tmp_path / "notes"), "status")

    assert code == 2
    assert err.count("\n") == 1
    assert str(tmp_path / "notes") in err


@pytest.fixture
def stranger():
    """A shell in a folder that is not for the account that uses it."""
    if sys.platform == "win32":
        pytest.skip("Windows has no modes to take away")
    with reachable_folder() as folder:
        (folder / "state").mkdir()
        # Modes stop everybody but root.
        shell = Shell(folder / "state", *([NOBODYS] if os.geteuid() == 0 else []))
        yield shell
        shell.folder.chmod(0o755)


async def test_a_folder_for_reading_only_is_named_by_every_command(stranger):
    """The agent was installed as another account and may not write: the shopkeeper reads which
    folder it is and what to do, and no traceback."""
    stranger.folder.chmod(0o555)

    assert await wrong_ends(stranger) == {}


async def test_a_tills_folder_of_another_account_is_named_by_every_command(stranger):
    """The till is enrolled and has sales, and somebody asks as another account: the shopkeeper
    reads which folder it is and what to do, and nothing is changed."""
    till = Till(stranger.folder, ScriptedService(port=1), device_id="d", store_id="s")
    till.record()
    till.close()
    before = {path.name: path.read_bytes() for path in stranger.folder.iterdir()}
    stranger.folder.chmod(0o000)

    ends = await wrong_ends(stranger)

    stranger.folder.chmod(0o755)
    assert ends == {}
    assert {path.name: path.read_bytes() for path in stranger.folder.iterdir()} == before
