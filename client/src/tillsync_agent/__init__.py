"""Records sales durably on a store device, and brings each of them to head office exactly once.

with Outbox.open() as outbox:
    outbox.record(sale, business_day="2026-11-22", amounts={"USD": 1250})
"""

from tillsync_agent.errors import (
    AgentError,
    EventNotRecordable,
    JoinRefused,
    OutboxBusy,
    OutboxFull,
    OutboxInUse,
    OutboxTooNew,
    OutboxUnavailable,
)
from tillsync_agent.outbox import Outbox, Receipt

__all__ = [
    "AgentError",
    "EventNotRecordable",
    "JoinRefused",
    "Outbox",
    "OutboxBusy",
    "OutboxFull",
    "OutboxInUse",
    "OutboxTooNew",
    "OutboxUnavailable",
    "Receipt",
]
