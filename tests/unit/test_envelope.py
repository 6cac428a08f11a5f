"""What may stand in an event. What the service would refuse for ever is refused at the till."""

import hashlib
from datetime import UTC, date, datetime

import pytest
from google.protobuf.any_pb2 import Any
from hypothesis import given
from hypothesis import strategies as st

from tillsync.v1.event_pb2 import Event
from tillsync.v1.retail_pb2 import Sale
from tillsync_agent import envelope
from tillsync_agent.errors import EventNotRecordable

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SALE = Sale(receipt_number="1", currency="USD", total_minor=1250)


def an_event(**changes):
    fields = {"key": "k", "body": SALE, "occurred_at": NOON}
    return envelope.build(**(fields | changes))


def test_event_says_what_was_sold_when_and_for_how_much():
    """Head office reads from the event what the till knew."""
    event = an_event(business_day=date(2026, 11, 22), amounts={"USD": 1250, "EUR": -5})

    assert event.key == "k"
    assert event.occurred_at.ToDatetime(UTC) == NOON
    assert event.business_day == "2026-11-22"
    assert {amount.currency: amount.minor_units for amount in event.amounts} == {
        "USD": 1250,
        "EUR": -5,
    }
    assert Sale.FromString(event.body.value) == SALE


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(SALE, id="message"),
        pytest.param(
            Any(type_url="type.googleapis.com/tillsync.v1.Sale", value=SALE.SerializeToString()),
            id="any",
        ),
        pytest.param(
            ("type.googleapis.com/tillsync.v1.Sale", SALE.SerializeToString()), id="bytes"
        ),
    ],
)
def test_body_is_the_same_in_each_of_its_forms(body):
    """A point of sale may pass a message, an Any or bytes; head office sees the same sale."""
    event = an_event(body=body)

    assert event.body.type_url == "type.googleapis.com/tillsync.v1.Sale"
    assert Sale.FromString(event.body.value) == SALE


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("key", {"key": ""}),
        ("key", {"key": "k" * 201}),
        ("key", {"key": "a\0b"}),
        ("key", {"key": "\ud800"}),
        ("body", {"body": ("", b"")}),
        ("body", {"body": Any()}),
        ("body", {"body": ("t" * 201, b"")}),
        ("body", {"body": ("t\0", b"")}),
        ("body", {"body": ("t", bytes(envelope.MAX_BODY_BYTES + 1))}),
        ("business_day", {"business_day": "22.11.2026"}),
        ("business_day", {"business_day": "20261122"}),
        ("business_day", {"business_day": "2026-02-30"}),
        ("business_day", {"business_day": NOON}),
        ("amounts", {"amounts": {"": 1}}),
        ("amounts", {"amounts": {"C" * 13: 1}}),
        ("amounts", {"amounts": {"US\0": 1}}),
        ("amounts", {"amounts": {"USD": 2**63}}),
        ("amounts", {"amounts": {"USD": 12.5}}),
        ("amounts", {"amounts": {"USD": True}}),
        ("amounts", {"amounts": {f"C{n}": 1 for n in range(17)}}),
        ("occurred_at", {"occurred_at": datetime(2026, 11, 22)}),  # noqa: DTZ001 -- that is the point
    ],
)
def test_what_head_office_would_refuse_is_refused_at_the_till(field, changes):
    """The program hears at once which field is wrong, while somebody can still correct it."""
    with pytest.raises(EventNotRecordable) as refusal:
        an_event(**changes)

    assert refusal.value.field == field


@pytest.mark.parametrize(
    "changes",
    [
        {"key": "k" * 200},
        {"body": ("t" * 200, bytes(envelope.MAX_BODY_BYTES))},
        {"amounts": {f"C{n}": 1 for n in range(16)}},
        {"amounts": {"C" * 12: -(2**63)}},
        {"amounts": {"USD": 2**63 - 1}},
        {"business_day": None},
        {"occurred_at": datetime(1, 1, 1, tzinfo=UTC)},
        {"occurred_at": datetime(9999, 12, 31, tzinfo=UTC)},
    ],
)
def test_what_is_just_allowed_is_recorded(changes):
    """A sale at the very limit, or by a clock that is centuries off, is a sale."""
    an_event(**changes)


@pytest.mark.parametrize("traceparent", ["x" * 56, "00-é", "\ud800"])
def test_odd_trace_does_not_refuse_a_sale(traceparent):
    """Telemetry of the point of sale is broken: the sale is recorded, without its trace."""
    assert an_event(traceparent=traceparent).traceparent == ""


def test_numbering_keeps_what_another_program_measured():
    """A program behind the gateway measured its own clock; its measurement stands."""
    event = an_event()
    event.clock_offset_ms = -3

    stored = Event.FromString(envelope.number(event, epoch=9, sequence=4, clock_offset_ms=100))

    assert (stored.outbox_epoch, stored.device_sequence, stored.clock_offset_ms) == (9, 4, -3)


@given(st.text(), st.binary())
def test_digest_follows_the_rule_that_the_service_follows(type_url, value):
    """Till and head office agree on whether two sales are the same."""
    expected = hashlib.sha256(type_url.encode() + b"\0" + value).digest()[:16]

    assert envelope.digest(type_url, value) == expected


@pytest.mark.parametrize("body", [None, {"receipt": 1}, "text", ("type", "text"), ("a", b"", b"")])
def test_what_is_no_body_is_said_to_be_none(body):
    """The POS developer passes something else by mistake: the error names the field and the forms
    that it takes."""
    with pytest.raises(EventNotRecordable, match="body: is neither a message nor a pair"):
        an_event(body=body)
