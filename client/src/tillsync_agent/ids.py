"""Identifiers that a device mints by itself. Pure, but for the default clock and randomness."""

import secrets
import threading
import time
from collections.abc import Callable
from uuid import UUID

_RANDOM_BITS = 74  # what RFC 9562 leaves after 48 bits of time, the version and the variant


class KeyMint:
    """Mints UUIDv7 keys that ascend within a process, also when the clock is set back."""

    def __init__(
        self,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        random_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        self._clock_ms = clock_ms
        self._random_bits = random_bits
        self._lock = threading.Lock()
        self._last = 0

    def __call__(self) -> str:
        fresh = (max(0, self._clock_ms()) % 2**48) << _RANDOM_BITS | self._random_bits(_RANDOM_BITS)
        with self._lock:
            # A clock behind the last key counts up from that key by a random step: other
            # processes may stand at the same millisecond.
            step = 1 + self._random_bits(32)
            self._last = fresh if fresh > self._last else self._last + step
            value = self._last
        high, low = value >> 62, value & (2**62 - 1)
        time_ms, middle = high >> 12, high & 0xFFF
        return str(UUID(int=time_ms << 80 | 7 << 76 | middle << 64 | 0b10 << 62 | low))


mint_key = KeyMint()


def mint_epoch() -> int:
    """A random number from 1 to 2**62: no two outboxes number their events alike."""
    return 1 + secrets.randbits(62)
