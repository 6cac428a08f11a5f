"""A lock on a file that the operating system lets go of when its holder dies, however it dies."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tillsync_agent import files

if sys.platform == "win32":
    import msvcrt

    _FAR = 1 << 30  # Windows locks are mandatory: lock a byte that nobody reads.

    def _try_lock(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


POLL_SECONDS = 0.01


@contextlib.contextmanager
def held(
    path: Path, *, wait_seconds: float = 0.0, clock: Callable[[], float] = time.monotonic
) -> Iterator[bool]:
    """Gives whether the lock is ours, after at most `wait_seconds`; it is for the block's length.

    The file stays: removing it would let a third party lock another file of the same name.
    """
    deadline = clock() + wait_seconds
    files.create(path)
    descriptor = os.open(path, os.O_RDWR)
    try:
        while not (ours := _locked(descriptor)) and clock() < deadline:
            time.sleep(POLL_SECONDS)
        if ours:
            _write_pid(descriptor)
        yield ours
    finally:
        os.close(descriptor)


def holder(path: Path) -> int | None:
    """The process that holds the lock, as far as it could say so."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _locked(descriptor: int) -> bool:
    try:
        _try_lock(descriptor)
    except OSError:
        return False
    return True


def _write_pid(descriptor: int) -> None:
    # On a full disk the lock still holds; only its holder's name is missing.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
