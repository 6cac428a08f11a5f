"""How the agent is kept running on a till."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.commandlines import said_in_shell, trouble_of
from support.operated import read, unknown_settings

UNIT = "deploy/systemd/tillsync-agent.service"
WINDOWS = "deploy/windows/README.md"


def test_the_unit_runs_what_there_is():
    """A till's agent starts with its machine: the unit's command and settings exist, and what its
    comment says to type does too."""
    text = read(UNIT)
    (command,) = re.findall(r"^ExecStart=\S*/(tillsync-agent .*)$", text, re.MULTILINE)
    comments = "\n".join(re.findall(r"^#(.*)$", text, re.MULTILINE))
    said = list(said_in_shell(comments))

    assert trouble_of(command.split()) == ""
    assert unknown_settings(text) == set()
    assert ("tillsync-agent", "--state-dir", "/var/lib/tillsync-agent", "enroll") in [
        line.argv[:4] for line in said
    ]
    assert [line.trouble for line in said if line.trouble] == []
    state = re.findall(r"^StateDirectory=(.*)$", text, re.MULTILINE)
    assert f"Environment=TILLSYNC_AGENT_STATE_DIR=/var/lib/{state[0]}" in text


@pytest.fixture
def unit(tmp_path):
    """The unit for this machine: it has another program, and another account."""
    program = Path(sys.executable).with_name("tillsync-agent")
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={program}", read(UNIT), flags=re.MULTILINE)
    text = re.sub(r"^(User|Group)=.*$", r"\1=root", text, flags=re.MULTILINE)
    unit = tmp_path / "tillsync-agent.service"
    unit.write_text(text)
    return unit


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_understands_the_unit(unit):
    """systemd passes over what it does not know: it knows every line."""
    answer = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )

    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_the_agent_may_do_little(unit):
    """Who breaks into the agent has not broken into the till: systemd calls its exposure low."""
    answer = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in answer.stderr:
        pytest.skip("this systemd judges no unit that is not loaded")

    assert answer.returncode == 0, answer.stdout[-500:]


def test_the_task_of_windows_runs_what_there_is():
    """A person pastes the recipe: the task's arguments, the enrolment and the status are commands
    that there are, and the variables settings."""
    text = read(WINDOWS)
    (argument,) = re.findall(r"tillsync-agent\.exe' -Argument '([^']+)'", text)
    said = [line.argv[1] for line in said_in_shell(text)]

    assert trouble_of(["tillsync-agent", *argument.split()]) == ""
    assert {"enroll", "status"} <= set(said)
    assert [line.trouble for line in said_in_shell(text) if line.trouble] == []
    assert unknown_settings(text) == set()
