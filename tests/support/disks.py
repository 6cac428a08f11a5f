"""Small disks, for real: a file system of a few MiB, which another program may fill."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """A file system of its own in `folder`. Skips the test where none can be mounted."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("needs root on Linux, to mount a small file system")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_with_a_log(disk: Path, chunk_bytes: int = 512) -> Path:
    """Another program's log eats what is left. Returns the log."""
    log = disk / "other.log"
    with contextlib.suppress(OSError), log.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(chunk_bytes))
    return log
