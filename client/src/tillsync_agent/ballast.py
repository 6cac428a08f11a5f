"""Room on the disk that is kept for the worst day.

On a full disk SQLite can neither update nor delete nor checkpoint. What the service has
acknowledged could then not be marked as such, and the outbox would never get smaller. So a file
of real bytes lies beside it and is given up when that happens.
"""

import contextlib
import logging
import os
import shutil
from pathlib import Path

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 20


class Ballast:
    """A file of `size_bytes`; 0 turns it off."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self.size_bytes = size_bytes

    def fill(self) -> None:
        """Creates the file where there is room for it, and for as much again."""
        if self.is_released() and free_bytes(self._path.parent) > 2 * self.size_bytes:
            try:
                self._write()
            except OSError as error:
                _log.warning("no ballast beside the outbox: %s", error)
                self.release()

    def release(self) -> bool:
        """Gives the room up; False if there was none left to give."""
        with contextlib.suppress(OSError):
            self._path.unlink()
            _log.warning("the disk is full: released the ballast %s", self._path)
            return True
        return False

    def is_released(self) -> bool:
        """Whether there is less ballast than there should be."""
        try:
            return self._path.stat().st_size < self.size_bytes
        except OSError:
            return self.size_bytes > 0

    def _write(self) -> None:
        with self._path.open("wb") as file:
            for start in range(0, self.size_bytes, _CHUNK_BYTES):
                # Random, because a file system may store zeros without using any room.
                file.write(os.urandom(min(_CHUNK_BYTES, self.size_bytes - start)))
            file.flush()
            os.fsync(file.fileno())


def free_bytes(folder: Path) -> int:
    """What this user may still write there; 0 if nobody can say."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
