"""What is decided about an event before Postgres is asked."""

from uuid import uuid4

import pytest

from tillsync.v1 import projection_service_pb2 as pb
from tillsync_service.foundation.db import DataRefused
from tillsync_service.projections.enrich import enrich, message_of
from tillsync_service.projections.halving import Stride
from tillsync_service.projections.reasons import Reason
from tillsync_service.projections.rows import Recorded, Rows
from tillsync_service.projections.voids import Target, Voiding, judge

TENANT = uuid4()


def an_event(position: int, type_url: str = "tillsync.v1.Sale", body: bytes = b"") -> Recorded:
    return Recorded(position, f"k{position}", TENANT, TENANT, "-infinity", None, type_url, body)


def test_every_reason_is_in_the_contract():
    """Whatever the operator's program is told has a name that it knows."""
    names = {name.removeprefix("DEAD_LETTER_REASON_") for name in pb.DeadLetterReason.keys()}  # noqa: SIM118

    assert names - {"UNSPECIFIED"} == set(Reason)


@pytest.mark.parametrize(
    "type_url",
    [
        "tillsync.v1.Void",
        "type.googleapis.com/tillsync.v1.Void",
        "/tillsync.v1.Void",
        "a/b/tillsync.v1.Void",
    ],
)
def test_a_type_is_what_stands_after_the_last_slash(type_url):
    """A till of another make writes another host before the type: it is the same document."""
    rows = Rows()
    enrich([an_event(1, type_url)], rows)

    assert [event.position for event, _ in rows.voids] == [1]


@pytest.mark.parametrize("type_url", ["", "/", "Void", "tillsync.v1.SaleLine", "example.com/Other"])
def test_an_unknown_type_is_nobodys_mistake(type_url):
    """A newer till sends what this service does not know yet: it is passed over, and not put aside
    for a person to look at."""
    rows = Rows()
    enrich([an_event(1, type_url, b"\xff")], rows)

    assert (rows.skipped, rows.dead) == ([1], [])
    assert message_of(type_url, b"") is None


VOIDS = {
    "known": ({"k": Target(1, None)}, False, [], "voided"),
    "unknown": ({}, True, [], Reason.VOID_UNKNOWN),
    "taken back by another": ({"k": Target(1, 3)}, True, [], Reason.VOID_REPEATED),
    "still to come": ({"k": Target(9, None)}, False, [], Reason.VOID_UNKNOWN),
    "still to come, replayed": ({"k": Target(9, None)}, True, [], "voided"),
    "still to come, and it was so": ({"k": Target(9, None)}, False, [Voiding(5, 9)], "voided"),
    "itself": ({"k": Target(5, None)}, False, [], Reason.VOID_UNKNOWN),
}


@pytest.mark.parametrize("name", VOIDS)
def test_what_a_void_takes_back(name):
    """A receipt is voided once, and only if there is one."""
    targets, anywhere, held, expected = VOIDS[name]

    voidings, dead = judge([(an_event(5), "k")], targets, anywhere=anywhere, held=held)

    reasons = [why.reason for _, why in dead]
    assert (reasons or ["voided"]) == [expected]
    assert voidings == ([Voiding(5, targets["k"].position)] if expected == "voided" else [])


def test_two_voids_of_one_page_are_one():
    """The second of two voids of a receipt is shown, however close they came."""
    events = [(an_event(5), "k"), (an_event(6), "k")]

    voidings, dead = judge(events, {"k": Target(1, None)}, anywhere=False)

    assert voidings == [Voiding(5, 1)]
    assert [(one.event.position, one.why.reason) for one in dead] == [(6, Reason.VOID_REPEATED)]


class Refusing:
    """Events by number, some of which Postgres refuses."""

    def __init__(self, count: int, refused: set[int]) -> None:
        self.left = list(range(count))
        self.refused = refused
        self.stored: list[int] = []
        self.buried: list[int] = []
        self.transactions = 0

    async def __call__(self, most: int, refusal: DataRefused | None) -> bool:
        self.transactions += 1
        page = self.left[:most]
        if refusal is not None:
            assert len(page) == 1
            self.buried += page
        elif self.refused & {*page}:
            raise DataRefused("22000", None)
        else:
            self.stored += page
        self.left = self.left[len(page) :]
        return bool(self.left)


@pytest.mark.parametrize(
    ("refused", "at_most"),
    [(set(), 2), ({0}, 30), ({999}, 30), ({500}, 30), (set(range(100, 200)), 500)],
)
async def test_what_is_refused_is_found_by_halves(refused, at_most):
    """One bad event among a thousand is found within some tens of transactions, and a hundred in a
    row within some hundreds: everything else is stored, in its order."""
    events = Refusing(1000, refused)
    stride = Stride(500)
    while await stride.step(events):
        pass

    assert events.stored == [n for n in range(1000) if n not in refused]
    assert events.buried == sorted(refused)
    assert events.transactions <= at_most
