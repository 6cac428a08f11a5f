"""Small files that must be whole after a power cut and readable by their owner only, and what to
say about a folder where none can be."""

import os
from contextlib import suppress
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """Replaces `path` with `content`, durably: after a crash it holds the old bytes or the new.

    The file is created with mode 0600. (Windows ignores the mode; there the file inherits the
    access list of its folder, by default one in the user's profile.) Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def unusable(folder: Path, error: OSError) -> str:
    """One line for the person who can help: which folder, why, and what to do."""
    where = f": {error.filename}" if error.filename else ""
    return (
        f"the state folder {folder} cannot be opened ({error.strerror or error}{where}): let "
        "this account read and write there, or name another one with --state-dir or "
        "TILLSYNC_AGENT_STATE_DIR"
    )


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
