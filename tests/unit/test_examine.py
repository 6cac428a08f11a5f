"""Which events can be stored, and how: what happened at the counter is not ours to refuse."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from support.builders import NOW, a_body, a_device, an_event, examined, rows
from tillsync.v1.event_pb2 import Event, EventFlag
from tillsync_service.foundation import limits
from tillsync_service.foundation.identity import Device
from tillsync_service.ingest.batch import Batch, Refusal
from tillsync_service.ingest.examine import UNDECLARED_DAY, _begun_with, digest, examine
from tillsync_service.ingest.wire import flags_of

INT64_MAX = 2**63 - 1


def stored(event: Event, device: Device | None = None) -> SimpleNamespace:
    (row,) = rows(examined(device or a_device(), event))
    assert row.refusal is None
    return row


def refused(event: Event) -> SimpleNamespace:
    (row,) = rows(examined(a_device(), event))
    assert isinstance(row.refusal, Refusal)
    return row


def flags(event: Event, device: Device | None = None) -> list[str]:
    return [
        EventFlag.Name(flag).removeprefix("EVENT_FLAG_")
        for flag in flags_of(stored(event, device).flags)
    ]


def test_an_ordinary_sale_is_stored_as_it_came():
    """The shopkeeper's sale arrives with all that the till wrote down, and nothing is remarked."""
    device = a_device()
    event = an_event("key", number=4, clock_offset_ms=-250, traceparent="00-ab-cd-01")

    row = stored(event, device)

    assert (row.key, row.sequence, row.epoch, row.device) == ("key", 4, 7, device)
    assert (row.second, row.nano, row.offset_ms) == (NOW.timestamp(), 0, -250)
    assert (row.day, row.amounts) == ("2026-11-22", {"USD": 1250})
    assert (row.type, row.body) == (event.body.type_url, event.body.value)
    assert row.traceparent == "00-ab-cd-01"
    assert row.flags == 0


@pytest.mark.parametrize(
    ("field", "event"),
    [
        ("key", an_event("")),
        ("key", an_event("k" * 201)),
        ("key", an_event("a\0b")),
        ("body.type_url", an_event(body=None)),
        ("body.type_url", an_event(body={"type_url": "t" * 201})),
        ("body.type_url", an_event(body={"type_url": "a\0b"})),
        ("body.value", an_event(body={"type_url": "t", "value": bytes(1024 * 1024 + 1)})),
        ("amounts.currency", an_event(amounts=[("", 1)])),
        ("amounts.currency", an_event(amounts=[("THIRTEEN-LONG", 1)])),
        ("amounts.currency", an_event(amounts=[("U\0D", 1)])),
        ("amounts", an_event(amounts=[("USD", 1)] * 17)),
        ("business_day", an_event(business_day="22.11.2026")),
        ("business_day", an_event(business_day="2026-02-30")),
        ("business_day", an_event(business_day="20261122")),
        ("business_day", an_event(business_day="2026-W47-7")),
        ("business_day", an_event(business_day="2026-11-22T00:00")),
        ("business_day", an_event(business_day="\0")),
        ("device_sequence", an_event(number=0)),
        ("device_sequence", an_event(number=-1)),
        ("device_sequence", an_event(number=1, epoch=0)),
        ("device_sequence", an_event(number=1, epoch=-7)),
        ("device_sequence", an_event(number=INT64_MAX)),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_field(field, event):
    """A till with a bug is told which field is wrong, so that its maker can mend it."""
    refusal = refused(event).refusal

    assert refusal.field == field
    assert refusal.reason == ("EVENT_TOO_LARGE" if field == "body.value" else "EVENT_NOT_STORABLE")
    assert refusal.description


@pytest.mark.parametrize(
    "event",
    [
        an_event("k" * 200),
        an_event("ключ-🛒" * 20),
        an_event(body={"type_url": "t" * 200}),
        an_event(body={"type_url": "x/of.a.newer.Agent", "value": b"\xff\xfe not protobuf"}),
        an_event(body={"type_url": "t", "value": bytes(limits.MAX_BODY_BYTES)}),
        an_event(amounts=[]),
        an_event(amounts=[(f"C{number}", 1) for number in range(16)]),
        an_event(amounts=[("TWELVE-CHARS", 1)]),
        an_event(business_day="0001-01-01"),
        an_event(business_day="9999-12-31"),
        an_event(number=INT64_MAX - 1, epoch=INT64_MAX),
    ],
)
def test_what_is_odd_but_storable_is_stored(event):
    """A sale at the edge of what is allowed, or of a kind nobody here knows, still counts."""
    assert stored(event).key == event.key


def test_a_refused_event_keeps_its_number():
    """The operator who sees a hole in a till's numbers finds the refusal that explains it."""
    row = refused(an_event("", number=9, epoch=3))

    assert (row.epoch, row.sequence) == (3, 9)


@pytest.mark.parametrize(("number", "epoch"), [(-1, 7), (5, 0), (INT64_MAX, 7)])
def test_a_number_that_cannot_be_stored_explains_no_hole(number, epoch):
    """A till with nonsense numbers gets its refusal, and no row that Postgres would choke on."""
    row = refused(an_event(number=number, epoch=epoch))

    assert (row.epoch, row.sequence) == (0, 0)


@pytest.mark.parametrize(
    ("seconds", "flag", "is_kept"),
    [
        (0, "CLOCK_IMPLAUSIBLE", True),  # 1970: a dead battery
        (4_102_444_800, "CLOCK_IMPLAUSIBLE", True),  # 2100
        (-1, "CLOCK_IMPLAUSIBLE", True),
        (-62_135_596_799, "CLOCK_IMPLAUSIBLE", True),
        (253_402_300_798, "CLOCK_IMPLAUSIBLE", True),
        (-62_135_596_800, "CLOCK_UNREADABLE", False),  # what some programs send for "no time"
        (253_402_300_799, "CLOCK_UNREADABLE", False),
        (253_402_300_800, "CLOCK_UNREADABLE", False),  # the year 10000
        (-62_135_596_801, "CLOCK_UNREADABLE", False),
        (INT64_MAX, "CLOCK_UNREADABLE", False),
        (-(2**63), "CLOCK_UNREADABLE", False),
    ],
)
def test_i10_a_wrong_clock_is_flagged_and_refuses_no_sale(seconds, flag, is_kept):
    """A till whose battery died sells on: its sales are stored with the date it believes in."""
    event = an_event(occurred_at=Timestamp(seconds=seconds))

    assert flags(event) == [flag]
    assert (stored(event).second is not None) == is_kept


@pytest.mark.parametrize("nanos", [-1, 10**9, -(2**31), 2**31 - 1])
def test_i10_nonsense_nanoseconds_are_flagged(nanos):
    """A broken clock chip costs the time of the sale, not the sale."""
    event = an_event(occurred_at=Timestamp(seconds=1_764_000_000, nanos=nanos))

    assert flags(event) == ["CLOCK_UNREADABLE"]


def test_i10_no_clock_is_flagged():
    """A till without a clock sells too."""
    event = an_event()
    event.ClearField("occurred_at")

    assert flags(event) == ["CLOCK_ABSENT"]


def test_a_clock_within_a_year_is_plausible():
    """A till that was off over the winter brings its old sales without a remark."""
    last_winter = datetime(2025, 12, 1, tzinfo=UTC)

    assert flags(an_event(occurred_at=last_winter)) == []


def test_an_absent_clock_offset_is_not_zero():
    """A till that never measured its clock is told apart from one whose clock is right."""
    assert stored(an_event()).offset_ms is None
    assert stored(an_event(clock_offset_ms=0)).offset_ms == 0


def test_an_undeclared_day_is_flagged():
    """A sale without a business day counts on a day of its own, and the operator sees it."""
    event = an_event(business_day="")

    assert flags(event) == ["DAY_UNDECLARED"]
    assert stored(event).day is UNDECLARED_DAY


def test_a_suspect_devices_sales_are_marked():
    """A shop whose till was cloned sells on, and its sales can be told apart."""
    assert flags(an_event(), a_device(suspect=True)) == ["SUSPECT"]


def test_amounts_of_one_currency_are_added_exactly():
    """A receipt with several payments in one currency comes to their sum, past 64 bits too."""
    event = an_event(amounts=[("USD", INT64_MAX), ("EUR", -5), ("USD", INT64_MAX)])

    assert stored(event).amounts == {"USD": 2 * INT64_MAX, "EUR": -5}


@pytest.mark.parametrize("traceparent", ["x" * 56, "a\0b"])
def test_a_bad_traceparent_is_dropped(traceparent):
    """A fault in tracing costs nobody a sale."""
    assert stored(an_event(traceparent=traceparent)).traceparent == ""


def test_the_digest_tells_type_and_body_apart():
    """Two sales that differ in type or content differ in digest, wherever one ends."""
    digests = {digest("ab", b"c"), digest("a", b"bc"), digest("abc", b""), digest("ab", b"d")}

    assert len(digests) == 4
    assert {len(found) for found in digests} == {16}


def test_the_digest_is_of_the_body_alone():
    """A till that sends a sale again with a corrected clock sends the same sale."""
    body = a_body("17")
    first = stored(an_event("k", body=body, amounts=[("USD", 1)]))
    again = stored(an_event("k", body=body, amounts=[("USD", 2)], business_day=""))

    assert first.digest == again.digest


any_event = st.builds(
    Event,
    key=st.text(max_size=210),
    outbox_epoch=st.integers(-(2**63), INT64_MAX),
    device_sequence=st.integers(-(2**63), INT64_MAX),
    business_day=st.text(max_size=12) | st.dates().map(str),
    clock_offset_ms=st.none() | st.integers(-(2**63), INT64_MAX),
    traceparent=st.text(max_size=60),
    occurred_at=st.none()
    | st.builds(
        Timestamp,
        seconds=st.integers(-(2**63), INT64_MAX) | st.integers(-(2**38), 2**38),
        nanos=st.integers(-(2**31), 2**31 - 1) | st.integers(0, 10**9),
    ),
)


@given(any_event)
def test_no_event_makes_the_service_stumble(event):
    """Whatever a till sends, the answer is a verdict and never a crash that stops the batch."""
    event.body.type_url = "t"

    (row,) = rows(examined(a_device(), event))

    assert row.key == event.key


def test_bad_events_are_refused_in_their_places():
    """A bad sale among good ones is known by its place in the batch, whatever is wrong with it."""
    bad = [an_event(""), an_event(number=-1), an_event(amounts=[("", 1)]), an_event("a\0b")]
    good = [an_event(f"good-{n}", number=n + 1) for n in range(len(bad))]
    pairs = zip(good, bad, strict=True)

    batch = examined(a_device(), *(event for pair in pairs for event in pair))

    assert [refusal and refusal.field for refusal in batch.refusals[::2]] == [None] * 4
    assert [refusal.field for refusal in batch.refusals[1::2]] == [
        "key",
        "device_sequence",
        "amounts.currency",
        "key",
    ]
    assert batch.sequences[::2] == [1, 2, 3, 4]
    assert batch.sequences[1::2] == [0, 0, 0, 0]


def test_a_batch_is_the_same_examined_whole_or_in_parts():
    """How the service divides its work changes nothing of what is stored."""
    device = a_device()
    events = [
        an_event("" if n == 3 else f"k{n}", number=n + 1, receipt=str(n), amounts=[("USD", n)] * n)
        for n in range(6)
    ]
    whole = examine(events, device, NOW)

    parts = [examine(events, device, NOW, places) for places in (range(4), range(4, 6))]

    assert Batch.joined(parts) == whole
    assert Batch.joined([whole.part(0, 2), whole.part(2, 6)]) == whole


def test_a_selection_of_a_batch_is_as_if_only_these_had_come():
    """When some of a till's sales are stored and others are not, the books count just those."""
    device = a_device()
    events = [an_event(number=n + 1, amounts=[("USD", n), ("EUR", 1)][: n % 3]) for n in range(6)]

    chosen = examine(events, device, NOW).only([1, 2, 5])

    alone = examine([events[1], events[2], events[5]], device, NOW)
    assert rows(chosen) == rows(alone)
    assert chosen.totals == alone.totals


def test_a_refused_type_is_not_remembered():
    """A broken till sends types of megabytes, each another one: they are refused, and none of them
    stays in the service's memory."""
    _begun_with.cache_clear()

    assert refused(an_event(body={"type_url": "t" * 1_000_000})).refusal.field == "body.type_url"

    assert _begun_with.cache_info().currsize == 0
