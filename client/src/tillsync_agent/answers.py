"""What the service can say, as plain values: the words between link.py and settle.py. Pure."""

from dataclasses import dataclass
from datetime import datetime

_LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one event.

    `outcome` is "accepted", "duplicate", "conflict", "rejected" or "queued", and "unknown" for a
    word that this agent does not know.
    """

    outcome: str
    position: int = 0
    forked: bool = False
    reason: str = ""
    field: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one batch: one verdict per event in order, if the service is sane."""

    verdicts: tuple[Verdict, ...]
    history_id: str
    served_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call gave no answer.

    `code` is a gRPC status name, or GARBAGE for bytes that are no message; `reason` is the
    service's own word (an ErrorReason without its prefix), empty if something between us and the
    service answered.
    """

    code: str
    message: str = ""
    reason: str = ""
    pushback_seconds: float = 0.0

    def __str__(self) -> str:
        """One line for status and log."""
        message = " ".join(self.message.split())[:_LONGEST_MESSAGE]
        return f"{self.reason or self.code}: {message}" if message else self.reason or self.code


class CallFailed(Exception):
    """A call ended without an answer; `failure` says how."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure
