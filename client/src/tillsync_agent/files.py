"""The files of a state folder: who may read them, whole after a power cut, and what to say about a
folder where none can be.

Secrets are for their owner only, always. Everything else is for its owner, and for a group too
where the folder was set up for one: `chmod 2770`, that is setgid and writable by the group. What
the umask says is not asked. Windows has no such modes; there a file inherits the access list of
its folder, by default one in the user's profile.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

import platformdirs

_OWNERS, _GROUPS = 0o600, 0o660


def default_path() -> Path:
    """`outbox.db` in TILLSYNC_AGENT_STATE_DIR, or in this user's data folder."""
    folder = os.environ.get("TILLSYNC_AGENT_STATE_DIR")
    return (Path(folder) if folder else platformdirs.user_data_path("tillsync")) / "outbox.db"


def write_private(path: Path, content: bytes) -> None:
    """Replaces `path` with a secret, durably: after a crash it holds the old bytes or the new.

    One process at a time. Raises OSError.
    """
    _write(path, content, is_secret=True)


def write_shared(path: Path, content: bytes) -> None:
    """The same with what is no secret, for those whom the folder is for."""
    _write(path, content, is_secret=False)


def create(path: Path) -> None:
    """Creates an empty file for those whom the folder is for; one that is there stays as it is.

    Raises OSError.
    """
    with suppress(FileExistsError):
        os.close(_created(path, _mode_in(path.parent)))


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable. Windows has no such call; NTFS journals renames."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems refuse to sync a folder; then there is nothing more to do.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unusable(folder: Path, error: OSError) -> str:
    """One line for the person who can help: which folder, why, and what to do."""
    where = f": {error.filename}" if error.filename else ""
    return (
        f"the state folder {folder} cannot be opened ({error.strerror or error}{where}): let "
        "this account read and write there, or name another one with --state-dir or "
        "TILLSYNC_AGENT_STATE_DIR"
    )


def _write(path: Path, content: bytes, *, is_secret: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = _OWNERS if is_secret else _mode_in(path.parent)
    # One name, so that deaths leave one file at most. A new file, and not one that another account
    # of the group may have put there and holds open.
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(_created(temporary, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def _mode_in(folder: Path) -> int:
    mode = folder.stat().st_mode
    return _GROUPS if mode & stat.S_ISGID and mode & stat.S_IWGRP else _OWNERS


def _created(path: Path, mode: int) -> int:
    """A descriptor of a new file with that mode, whatever the umask."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNERS)
    if mode != _OWNERS:
        os.fchmod(descriptor, mode)
    return descriptor
