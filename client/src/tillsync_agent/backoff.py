"""How long to wait before the next try: full-jitter exponential. Pure; luck is handed in.

    delay = floor + uniform(0, min(cap, first * 2 ** tries))

The jitter comes after the cap: with the usual order (jitter, then cap) every device of a fleet that
has waited long waits exactly the cap, and after an outage they all knock at once. It is also why a
server's wish ("not before 5 s") is a floor that jitter is added to, and not one side of a maximum.
"""

from dataclasses import dataclass

# A server that asks for more than this is believed this far only: it cannot switch a till off.
LONGEST_FLOOR_SECONDS = 600.0
# 2 ** 32 times any first wait is past any cap; larger exponents would only overflow.
_MOST_DOUBLINGS = 32


@dataclass(frozen=True, slots=True)
class Backoff:
    """The two ends of the waiting times, in seconds."""

    first_seconds: float = 0.5
    cap_seconds: float = 60.0

    def delay_seconds(self, tries: int, *, luck: float, floor_seconds: float = 0.0) -> float:
        """The wait after `tries` failures in a row (0 for the first), with `luck` from [0, 1)."""
        ceiling = min(self.cap_seconds, self.first_seconds * 2.0 ** min(tries, _MOST_DOUBLINGS))
        floor = min(max(0.0, floor_seconds), LONGEST_FLOOR_SECONDS)
        return floor + luck * ceiling
