"""Between the contract's messages and what ingest works with. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from tillsync.v1.event_pb2 import Event
from tillsync.v1.ingest_service_pb2 import (
    IngestRequest,
    IngestResponse,
    IngestStreamRequest,
    IngestStreamResponse,
)
from tillsync_service.foundation import limits
from tillsync_service.foundation.errors import InvalidRequest
from tillsync_service.foundation.eventflags import flags_of
from tillsync_service.ingest.store import Receipt

# IngestStream answers a batch with the very fields of Ingest, under a name of its own.
Response = TypeVar("Response", IngestResponse, IngestStreamResponse)


def events_of(request: IngestRequest | IngestStreamRequest) -> Sequence[Event]:
    """The batch's events. Raises InvalidRequest for an empty or oversize one."""
    events = request.events
    if not 0 < len(events) <= limits.MAX_BATCH_EVENTS:
        raise InvalidRequest(
            "events", f"A batch has 1 to {limits.MAX_BATCH_EVENTS:,} events, not {len(events):,}."
        )
    return events


def fill(response: Response, receipt: Receipt, now: datetime) -> Response:
    """The receipt in a response message."""
    response.history_id = receipt.history_id
    response.served_at.FromDatetime(now)
    add = response.verdicts.add
    verdicts = receipt.verdicts
    for outcome, position, flags, refusal in zip(
        verdicts.outcomes, verdicts.positions, verdicts.flags, verdicts.refusals, strict=True
    ):
        message = add(outcome=outcome, position=position)
        if flags:
            message.flags.extend(flags_of(flags))
        if refusal:
            message.refusal.reason, message.refusal.field, message.refusal.description = refusal
    return response
