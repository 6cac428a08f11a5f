"""Whether the link to the service is worth trying now. Pure; clock and randomness are handed in.

    closed ──failed──▶ open ──its wait is over──▶ half-open ──succeeded──▶ closed
                        ▲                            │
                        └───────────failed───────────┘

The uploader and everything else that talks to the service share one of these, so that a dead link
is probed by one of them and not by all, and one success lets all of them go on.
"""

from collections.abc import Callable
from enum import StrEnum

from tillsync_agent.backoff import Backoff

# How long the others wait before they ask again while one of them probes.
ASK_AGAIN_SECONDS = 0.5


class Link(StrEnum):
    """What is known about the link."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class LinkState:
    """One link's state. Not thread-safe: it belongs to one event loop."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float],
        luck: Callable[[], float],
        backoff: Backoff,
        probe_seconds: float,
    ) -> None:
        """`luck` gives numbers from [0, 1); a probe silent for `probe_seconds` is over."""
        self._monotonic = monotonic
        self._luck = luck
        self._backoff = backoff
        self._probe_seconds = probe_seconds
        self._failures = 0
        self._not_before = 0.0
        self._state = Link.CLOSED
        self._answered_at = float("-inf")

    @property
    def state(self) -> Link:
        return self._state

    @property
    def failures(self) -> int:
        """How many tries failed since the last success."""
        return self._failures

    @property
    def answered_at(self) -> float:
        """When the service last answered anything, on the monotonic clock; -inf: never."""
        return self._answered_at

    def admit(self) -> float:
        """0.0: go. Else the seconds after which to ask again; asking commits to nothing.

        Whoever is admitted to an open link is its probe, and must report `succeeded` or `failed`.
        """
        if self._state is Link.CLOSED:
            return 0.0
        wait = self._not_before - self._monotonic()
        if wait > 0:
            return wait if self._state is Link.OPEN else min(wait, ASK_AGAIN_SECONDS)
        self._state = Link.HALF_OPEN
        self._not_before = self._monotonic() + self._probe_seconds
        return 0.0

    def heard(self) -> None:
        """The service answered, be it with a refusal."""
        self._answered_at = self._monotonic()

    def succeeded(self) -> None:
        """The service answered as one that works: everybody may go on."""
        self.heard()
        self._failures = 0
        self._state = Link.CLOSED

    def failed(self, *, floor_seconds: float = 0.0) -> float:
        """A try failed. Returns the seconds until the next is admitted. Of several that were under
        way when the link went down, the first counts."""
        left = self._not_before - self._monotonic()
        if self._state is Link.OPEN and left > floor_seconds:
            return left
        wait = self._backoff.delay_seconds(
            self._failures, luck=self._luck(), floor_seconds=floor_seconds
        )
        self._failures += 1
        self._state = Link.OPEN
        self._not_before = self._monotonic() + wait
        return wait
