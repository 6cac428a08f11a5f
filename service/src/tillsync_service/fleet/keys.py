"""The signing keys: a JWKS file with private Ed25519 keys, kept by the operator.

The first key signs, every key in it verifies. The file is read again when it changes, so keys
rotate without a restart: add a key in front, wait until what the old one signed has run out, and
take the old one away. What was signed by a key that is taken away is refused from then on.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Literal

import structlog
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

log = structlog.get_logger(__name__)

_CURVE: Literal["Ed25519"] = "Ed25519"
_OWNER_ONLY = 0o600


class KeyFileError(RuntimeError):
    """The key file cannot be used; the text is one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one state of the file."""

    signing_kid: str
    by_kid: Mapping[str, OKPKey]

    @property
    def signing(self) -> OKPKey:
        return self.by_kid[self.signing_kid]


@dataclass(frozen=True, slots=True)
class _Stamp:
    """Tells one state of the file from the next, also after a rename within one clock tick."""

    modified_ns: int
    inode: int
    size: int


class KeyFile:
    """The keys in the file at `path`, as of now. Raises KeyFileError when it cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: _Stamp | None
        self._stamp, self._keys = _read(path)

    def keys(self) -> Keys:
        """The keys as they stand in the file now: the same object as long as it did not change.

        A file that cannot be used any more leaves the keys as they were, and an error in the log:
        a slip while rotating must not stop every till."""
        try:
            stamp = _stamp(os.stat(self._path))  # noqa: PTH116  # once per call of a device
        except OSError:
            stamp = None
        if stamp != self._stamp:
            self._reload(stamp)
        return self._keys

    def _reload(self, stamp: _Stamp | None) -> None:
        self._stamp = stamp
        try:
            self._stamp, self._keys = _read(self._path)
        except KeyFileError as error:
            log.error("signing_keys_not_reloaded", cause=str(error))  # noqa: TRY400  # one line
        else:
            log.info("signing_keys_reloaded", keys=len(self._keys.by_kid))


def create_key_file(path: Path) -> None:
    """Makes a file with one new key, readable by its owner only. Raises KeyFileError when there
    is a file already: its keys may be in use."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    except FileExistsError as error:
        raise KeyFileError(
            f"{path} exists and stays as it is; for a new key: `tillsync-service keys rotate "
            f"{path}`."
        ) from error
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}.") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        _write(file, [_new_key()])


def add_key(path: Path) -> None:
    """Puts a new key in front of the others: it signs from now on, and they go on verifying. The
    file is replaced in one step, so a reader sees the old or the new one. Raises KeyFileError."""
    _, keys = _read(path)
    target = path.resolve()
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, prefix=target.name, delete=False
        ) as file:
            _write(file, [_new_key(), *keys.by_kid.values()])
            _give_to_same_readers(file, target.stat())
        Path(file.name).replace(target)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}.") from error


def _give_to_same_readers(file: IO[str], before: os.stat_result) -> None:
    # An operator who rotates as root must not take the file away from the service.
    if os.name == "posix":
        os.fchown(file.fileno(), before.st_uid, before.st_gid)
        os.fchmod(file.fileno(), before.st_mode)


def _new_key() -> OKPKey:
    return OKPKey.generate_key(_CURVE, auto_kid=True)


def _write(file: IO[str], keys: list[OKPKey]) -> None:
    json.dump({"keys": [key.as_dict(private=True) for key in keys]}, file, indent=2)
    file.flush()
    os.fsync(file.fileno())


def _read(path: Path) -> tuple[_Stamp, Keys]:
    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            _must_be_private(path, status)
            content = json.load(file)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise KeyFileError(f"{path} is not a JWKS file: it is no JSON.") from error
    return _stamp(status), _parse(path, content)


def _stamp(status: os.stat_result) -> _Stamp:
    return _Stamp(status.st_mtime_ns, status.st_ino, status.st_size)


def _must_be_private(path: Path, status: os.stat_result) -> None:
    """The rule that Postgres has for its own key: nobody but the owner; a file of another owner
    (root, in a container's secrets) may also be read by the group that we must be in then."""
    if os.name != "posix":
        return
    forbidden = 0o077 if status.st_uid == os.geteuid() else 0o037
    if status.st_mode & forbidden:
        raise KeyFileError(f"{path} can be read by others; run: chmod 600 {path}")


def _parse(path: Path, content: object) -> Keys:
    try:
        keys = [OKPKey.import_key(key) for key in content["keys"]]  # type: ignore[index]
    except (JoseError, ValueError, TypeError, KeyError) as error:
        # Without the library's text: it may quote the key.
        raise KeyFileError(f"{path} is not a JWKS file with Ed25519 keys.") from error
    if not keys or not all(key.curve_name == _CURVE and key.is_private for key in keys):
        raise KeyFileError(f"{path} must hold private Ed25519 keys, one at least, and no others.")
    by_kid = {_kid(key): key for key in keys}
    return Keys(_kid(keys[0]), MappingProxyType(by_kid))


def _kid(key: OKPKey) -> str:
    key.ensure_kid()
    return str(key.kid)
