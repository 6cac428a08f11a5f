"""Between the contract's messages and what ingest works with."""

import pytest

from support.builders import NOW, an_event, some_events
from tillsync.v1.event_pb2 import EventFlag, Outcome
from tillsync.v1.ingest_service_pb2 import (
    IngestRequest,
    IngestResponse,
    IngestStreamRequest,
    IngestStreamResponse,
)
from tillsync_service.foundation.errors import InvalidRequest
from tillsync_service.ingest import wire
from tillsync_service.ingest.batch import Refusal
from tillsync_service.ingest.store import Receipt
from tillsync_service.ingest.verdicts import Verdicts


@pytest.mark.parametrize("request_type", [IngestRequest, IngestStreamRequest])
@pytest.mark.parametrize("count", [0, 1001])
def test_an_empty_or_oversize_batch_names_its_field(request_type, count):
    """A till whose maker misread the contract is told what is wrong, and nothing is stored."""
    request = request_type(events=[an_event("k")] * count)

    with pytest.raises(InvalidRequest) as caught:
        wire.events_of(request)

    assert caught.value.field == "events"
    assert f"{count:,}" in str(caught.value)


@pytest.mark.parametrize("count", [1, 1000])
def test_the_smallest_and_the_largest_batch_are_taken(count):
    """A till may send one sale or a thousand."""
    assert len(wire.events_of(IngestRequest(events=some_events(count)))) == count


@pytest.mark.parametrize("response_type", [IngestResponse, IngestStreamResponse])
def test_the_receipt_says_everything_in_order(response_type):
    """The till hears, sale by sale, what became of it, in which history, and what time it is."""
    receipt = Receipt(
        "history",
        Verdicts(
            [
                Outcome.OUTCOME_ACCEPTED,
                Outcome.OUTCOME_DUPLICATE,
                Outcome.OUTCOME_CONFLICT,
                Outcome.OUTCOME_REJECTED,
            ],
            [7, 3, 2, 0],
            [1 << EventFlag.EVENT_FLAG_FORKED, 0, 0, 0],
            [
                None,
                None,
                Refusal("KEY_CONFLICT", "key", "taken"),
                Refusal("EVENT_NOT_STORABLE", "key", "too long"),
            ],
        ),
    )

    response = wire.fill(response_type(), receipt, NOW)

    accepted, duplicate, conflict, rejected = response.verdicts
    assert (accepted.outcome, accepted.position) == (Outcome.OUTCOME_ACCEPTED, 7)
    assert list(accepted.flags) == [EventFlag.EVENT_FLAG_FORKED]
    assert not accepted.HasField("refusal")
    assert (duplicate.outcome, duplicate.position) == (Outcome.OUTCOME_DUPLICATE, 3)
    assert (conflict.position, conflict.refusal.reason) == (2, "KEY_CONFLICT")
    assert (rejected.refusal.field, rejected.refusal.description) == ("key", "too long")
    assert response.history_id == "history"
    assert response.served_at.ToDatetime(NOW.tzinfo) == NOW


def test_every_flag_survives_the_way_through_the_bits():
    """What was noticed about a sale is what the till is told."""
    every = [flag for flag in EventFlag.values() if flag]

    assert wire.flags_of(sum(1 << flag for flag in every)) == tuple(every)
    assert wire.flags_of(0) == ()
