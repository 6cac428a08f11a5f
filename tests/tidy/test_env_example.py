"""The example of an environment file."""

import subprocess
import sys

from support.operated import AGENT_SETTINGS, ROOT, SETTINGS, read


def test_the_example_names_every_setting_as_it_is():
    """An operator looks a setting up in .env.example: it is written by the settings themselves, and
    this is how they are now."""
    answer = subprocess.run(
        [sys.executable, ROOT / "tools" / "env_example.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    named = {
        line.lstrip("#").partition("=")[0]
        for line in read(".env.example").splitlines()
        if "=" in line and not line.startswith("# ")
    }

    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert named >= SETTINGS | AGENT_SETTINGS
