"""Why an event cannot be projected. Pure."""

from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """The names of DeadLetterReason's values, without their prefix."""

    BODY_UNREADABLE = "BODY_UNREADABLE"
    TOTAL_WRONG = "TOTAL_WRONG"
    CURRENCY_INVALID = "CURRENCY_INVALID"
    MONEY_TOO_LARGE = "MONEY_TOO_LARGE"
    DECIMAL_INVALID = "DECIMAL_INVALID"
    TEXT_INVALID = "TEXT_INVALID"
    DAY_INVALID = "DAY_INVALID"
    TOO_MANY_LINES = "TOO_MANY_LINES"
    VOID_UNKNOWN = "VOID_UNKNOWN"
    VOID_REPEATED = "VOID_REPEATED"
    DATABASE_REFUSED = "DATABASE_REFUSED"
    PROJECTION_FAILED = "PROJECTION_FAILED"
    EVENT_PRUNED = "EVENT_PRUNED"


class Why(NamedTuple):
    """The cause of a dead letter: for programs, the field at fault, and for a person."""

    reason: Reason
    field: str
    description: str


class Unprojectable(Exception):
    """Ends the projection of one event."""

    def __init__(self, reason: Reason, field: str, description: str) -> None:
        super().__init__(description)
        self.why = Why(reason, field, description)
