"""The device's refresh secret and its rotation without a lock-out.

The file holds the current secret and the next one. The next is on disk before the service hears of
it, the current one stays in use until an answer has come, and the service keeps both until the next
is used: whichever of us crashes in between, one of the two secrets still opens the door.

Former secrets stay too: a service that was restored from a backup knows the secret of that day,
and the till must get in to put back what the backup lacks. One is tried only after the service said
that it does not know the present one, so that no retired secret is shown to a service that would
see a clone in it. Rotating once a day, thirty of them reach back a month.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from logging import getLogger
from pathlib import Path

from tillsync_agent.errors import NotEnrolled
from tillsync_agent.files import write_private

_log = getLogger(__name__)

SECRET_BYTES = 32
FORMER_KEPT = 30
ROTATE_AFTER_SECONDS = 86_400


def hash_of(secret: bytes) -> bytes:
    """What the service keeps of a secret: its SHA-256, 32 bytes."""
    return hashlib.sha256(secret).digest()


@dataclass(frozen=True, slots=True)
class _Held:
    """The file's content; secrets in hexadecimal, empty where there is none."""

    current: str = ""
    next: str = ""
    former: list[str] = field(default_factory=list)
    rotated_at: float = 0.0
    code: str = ""
    enrolling: str = ""


class RefreshSecret:
    """The secrets in one file. What a method gives to be shown is in the file on its return."""

    def __init__(
        self,
        path: Path,
        *,
        mint: Callable[[int], bytes] = secrets.token_bytes,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._mint = mint
        self._wall = wall
        self._unknown = 0  # how many secrets, newest first, the service said it does not know

    def for_code(self, code: str) -> bytes:
        """The secret to enrol with; the same for the same code, so a lost answer costs nothing."""
        wanted = hash_of("".join(c for c in code.upper() if c.isalnum()).encode()).hex()
        try:
            held = self._read()
        except NotEnrolled:
            held = _Held()  # a damaged file is what a new enrolment repairs
        if held.code != wanted or not held.enrolling:
            held = replace(held, code=wanted, enrolling=self._mint(SECRET_BYTES).hex())
            self._write(held)
        return bytes.fromhex(held.enrolling)

    def enrolled(self) -> None:
        """The service took the secret of `for_code`: from now on it is the current one."""
        self._write(_Held(current=self._read().enrolling, rotated_at=self._wall()))
        self._unknown = 0

    def to_show(self) -> tuple[bytes, bytes]:
        """The secret to show, and the one to propose, empty while the present one is young or where
        the next one cannot be kept.

        Raises NotEnrolled without an identity, OSError where the file cannot be read.
        """
        held = self._read()
        if not held.current:
            raise NotEnrolled(f"this device is not enrolled: {self._path} holds no secret")
        known = [held.current, *held.former]
        shown = bytes.fromhex(known[self._unknown % len(known)])
        # A clock that jumps, either way, rotates once too often at worst.
        if abs(self._wall() - held.rotated_at) < ROTATE_AFTER_SECONDS and not self._unknown:
            return shown, b""
        if not held.next:
            held = replace(held, next=self._mint(SECRET_BYTES).hex())
            if not self._wrote(held):
                return shown, b""
        return shown, bytes.fromhex(held.next)

    def unknown(self) -> None:
        """The service does not know the secret that was shown: the next try shows an older one."""
        self._unknown += 1

    def accepted(self, shown: bytes, proposed: bytes) -> None:
        """The service answered with a token, and took the proposal if there was one."""
        if not proposed:
            return
        held = self._read()
        former = [s for s in (shown.hex(), held.current, *held.former) if s != proposed.hex()]
        kept = list(dict.fromkeys(former))[:FORMER_KEPT]
        # Where this cannot be kept, all is as after a crash here: both secrets open the door.
        if self._wrote(_Held(proposed.hex(), former=kept, rotated_at=self._wall())):
            self._unknown = 0

    def _read(self) -> _Held:
        try:
            return _Held(**json.loads(self._path.read_text("utf-8")))
        except FileNotFoundError:
            return _Held()
        except (ValueError, TypeError):
            raise NotEnrolled(f"{self._path} is damaged; enrol this device again") from None

    def _wrote(self, held: _Held) -> bool:
        """Whether there was room for it: on a full disk a secret that works is not to be given up,
        nor the sales kept in, because it cannot be rotated."""
        try:
            self._write(held)
        except OSError as error:
            _log.warning("the refresh secret is not rotated now: %s", error)
            return False
        return True

    def _write(self, held: _Held) -> None:
        write_private(self._path, json.dumps(asdict(held)).encode())
