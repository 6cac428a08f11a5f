"""The arrows between the rooms of the house."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_import_follows_the_arrows():
    """A change stays in its room: the import contracts of pyproject.toml hold."""
    linter = shutil.which("lint-imports", path=str(Path(sys.executable).parent))

    answer = subprocess.run(
        [linter, "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert answer.returncode == 0, answer.stdout + answer.stderr
