"""Records sales durably on a store device, and brings each of them to head office exactly once.

with Outbox.open() as outbox:
    outbox.record(sale, business_day="2026-11-22", amounts={"USD": 1250})

with Replica.open() as replica:         # head office's records, this till's own edits over them
    replica.find("product", barcode="4006381333931")
    replica.add("stock", "4711", {"on_hand": -2})

async with Agent(config.load()):        # or Agent(config.load()).run(), or `tillsync-agent run`
    ...                                 # what is recorded is on its way
"""

from typing import TYPE_CHECKING

from tillsync_agent.errors import (
    AddressUnusable,
    AgentError,
    CollectionUnknown,
    EditRefused,
    EnrolmentRefused,
    EventNotRecordable,
    JoinRefused,
    NotEnrolled,
    OutboxBusy,
    OutboxFull,
    OutboxInUse,
    OutboxTooNew,
    OutboxUnavailable,
    RecordMissing,
    SettingInvalid,
)
from tillsync_agent.outbox import Outbox, Receipt
from tillsync_agent.overlay import Record
from tillsync_agent.replica import Replica

if TYPE_CHECKING:
    from tillsync_agent.agent import Agent
    from tillsync_agent.config import Settings

__all__ = [
    "AddressUnusable",
    "Agent",
    "AgentError",
    "CollectionUnknown",
    "EditRefused",
    "EnrolmentRefused",
    "EventNotRecordable",
    "JoinRefused",
    "NotEnrolled",
    "Outbox",
    "OutboxBusy",
    "OutboxFull",
    "OutboxInUse",
    "OutboxTooNew",
    "OutboxUnavailable",
    "Receipt",
    "Record",
    "RecordMissing",
    "Replica",
    "SettingInvalid",
    "Settings",
]


def __getattr__(name: str) -> object:
    """Agent and Settings at their first use: a till's program that only records loads no gRPC."""
    if name == "Agent":
        from tillsync_agent.agent import Agent  # noqa: PLC0415

        return Agent
    if name == "Settings":
        from tillsync_agent.config import Settings  # noqa: PLC0415

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
