"""What a till says of its books, what is held against it, and what an operator is shown."""

from dataclasses import replace
from datetime import UTC, date, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillsync.v1 import reconcile_service_pb2 as pb
from tillsync.v1.books_service_pb2 import DayState
from tillsync_service.books import claims
from tillsync_service.books.claims import DIGEST_MODULUS, UNDECLARED_DAY, Book, Day
from tillsync_service.books.comparison import Content, Held, compared, content
from tillsync_service.books.missing import Found, by_device, day_state, lacking
from tillsync_service.foundation.errors import InvalidRequest

DAY = date(2026, 11, 22)
BOOKS = {"USD": Book(2, 2500, 17)}
HEARD = datetime(2026, 11, 22, 9, tzinfo=UTC)
CLOSED = Held(BOOKS, 1, content(BOOKS))
REOPENED = Held(BOOKS, 1, Content(1, 5))
OPEN = Held(BOOKS)
EMPTY = Held({})


def a_day(books=BOOKS, *, close=True):
    return Day("2026-11-22", books, close)


def test_a_day_is_read_as_it_was_said():
    """A till's day comes through to the cent and the digest; one that declared no date has none."""
    book = pb.DayBook(
        currency="USD", event_count=2, amount_minor="-2500", digest=(17).to_bytes(16, "big")
    )
    request = pb.ReconcileRequest(days=[pb.DayClaim(books=[book], close=True)])

    (day,) = claims.claims_of(request).days

    assert day == Day(UNDECLARED_DAY, {"USD": Book(2, -2500, 17)}, close=True)


def test_a_currency_that_comes_to_nothing_is_left_out():
    """A till that names a currency it took no money in is not unequal for it."""
    nothing = pb.DayBook(currency="EUR", amount_minor="0", digest=bytes(16))

    (day,) = claims.claims_of(pb.ReconcileRequest(days=[pb.DayClaim(books=[nothing])])).days

    assert day.books == {}


@pytest.mark.parametrize("text", ["", "1.5", "+1", "1e3", " 1", "1\n", "--1", "\u0661", "9" * 39])
def test_money_that_is_no_whole_number_is_refused(text):
    """A broken till's "12.50" never becomes 12 or 1250: the field is named."""
    book = pb.DayBook(currency="USD", amount_minor=text, digest=bytes(16))
    with pytest.raises(InvalidRequest) as refusal:
        claims.claims_of(pb.ReconcileRequest(days=[pb.DayClaim(books=[book])]))
    assert refusal.value.field == "days[0].books[0].amount_minor"


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, DIGEST_MODULUS - 1))))
def test_what_a_closing_remembers_fits_its_columns(books):
    """However many currencies a day has, its digest is one number below 2^128."""
    days = {f"{n}": Book(count, 0, digest) for n, (count, digest) in enumerate(books)}
    assert 0 <= content(days).digest_sum < DIGEST_MODULUS


@pytest.mark.parametrize(
    ("day", "held", "whole", "revisions"),
    [
        (a_day(), OPEN, True, [1]),
        (a_day(), REOPENED, True, [2]),
        (a_day({}), EMPTY, True, [1]),
        (a_day(), CLOSED, True, []),
        (a_day(), OPEN, False, []),
        (a_day(close=False), OPEN, True, []),
        (a_day({}), OPEN, True, []),
    ],
    ids=["open", "reopened", "empty", "closed", "a number is missing", "not asked", "unequal"],
)
def test_a_day_is_closed_when_all_of_it_is_here(day, held, whole, revisions):
    """A shop's day is closed when it asks for it, all is equal and no number is missing; one that
    is closed and unchanged is not closed again."""
    (found,), closings = compared([day], [held], whole=whole)

    assert [closing.revision for closing in closings] == revisions
    assert found.held.closed == (bool(revisions) or held is CLOSED)
    assert found.equal == (day.books == held.books)


@pytest.mark.parametrize(
    ("held", "claimed", "waived", "state"),
    [
        (CLOSED, True, True, "CLOSED"),
        (OPEN, True, True, "WAIVED"),
        (EMPTY, False, True, "WAIVED"),
        (REOPENED, True, False, "REOPENED"),
        (OPEN, False, False, "OPEN"),
        (EMPTY, True, False, "OPEN"),
        (EMPTY, False, False, "SILENT"),
    ],
)
def test_how_a_till_stands_on_a_day(held, claimed, waived, state):
    """The operator reads of each till what matters most: closed, waived, reopened, open, silent."""
    found = day_state(replace(held, waived=waived), claimed=claimed)
    assert DayState.Name(found) == f"DAY_STATE_{state}"


def found(device_id, *, heard=HEARD, holes=(), differences=(), waivers=(), forks=()):
    """What the statements say of one device."""
    rows = ([{"last_heard_at": heard}], holes, differences, waivers, forks)
    return Found(*(by_device({**row, "device_id": device_id} for row in each) for each in rows))


def hole(missing_events=3):
    return {"epoch": 7, "first": 2, "last": 4, "missing_events": missing_events}


def waived(business_day=None):
    return {"business_day": business_day}


def differs(business_day, currency="USD"):
    return {"business_day": business_day, "currency": currency}


DEVICE = {"device_id": uuid4()}


def shown(since=None, **rows):
    (one,) = lacking([DEVICE], found(DEVICE["device_id"], **rows), since) or [None]
    return one


def test_a_till_that_has_everything_is_left_out():
    """The operator reads of trouble only."""
    assert shown() is None
    assert shown(heard=None) is None


def test_a_waived_day_is_no_difference_any_more():
    """What was waived is shown as waived, and a waiver that concerns nothing is not shown."""
    one = shown(differences=[differs(DAY), differs(None)], waivers=[waived(DAY)])
    nothing = shown(waivers=[waived(DAY)])

    assert [row["business_day"] for row in one.differences] == [None]
    assert len(one.waivers) == 1
    assert nothing is None


def test_a_till_with_nothing_but_waivers_is_shown():
    """Everybody can read what was waived, as long as it is not here."""
    assert shown(waivers=[waived()]).missing_events == 0


@pytest.mark.parametrize(
    ("heard", "is_shown"),
    [
        (datetime(2026, 11, 22, tzinfo=UTC), True),
        (datetime(2026, 11, 21, 23, 59, 59, tzinfo=UTC), False),
        (None, False),
    ],
)
def test_holes_are_as_old_as_their_till(heard, is_shown):
    """Asked since a day, the holes and waived numbers of tills not heard of since stay away."""
    one = shown(since=DAY, heard=heard, holes=[hole()], waivers=[waived()])
    assert (one is not None) == is_shown


def test_days_come_in_their_order():
    """The operator reads a till's days from the oldest, those without a date first."""
    days = [differs(DAY, "USD"), differs(DAY, "EUR"), differs(None), differs(date(2026, 1, 2))]

    ordered = [
        (row["business_day"], row["currency"]) for row in shown(differences=days).differences
    ]

    assert ordered == [(None, "USD"), (date(2026, 1, 2), "USD"), (DAY, "EUR"), (DAY, "USD")]
