"""Which sales head office lacks, found out with few questions."""

import random

import pytest

from tillsync_agent import comparison
from tillsync_agent.comparison import Day, Expected, Explained, Snapshot
from tillsync_agent.daybooks import Booked, Counted, DayBook, Numbered, Span

DAY = "2026-11-22"
EPOCH = 7
NO_ONE = frozenset()


def an_event(
    sequence: int, state: str = "accepted", *, epoch: int = EPOCH, day: str = DAY
) -> Booked:
    books = {"USD": DayBook(1, 100, sequence * 1_000)}
    return Booked(sequence, epoch, sequence, state, day, books, "KEY_CONFLICT", "key")


def a_day(*events: Booked) -> Day:
    snapshot = Snapshot(Counted((), 0, {}), {})
    snapshot.add(events, None, {})
    return snapshot.days[DAY]


def expected_of(numbers: range, *, states: dict[int, str] | None = None, but=NO_ONE) -> Expected:
    expected = Expected()
    kept = [Numbered(n, (states or {}).get(n, "accepted"), n * 1_000) for n in numbers]
    expected.add(EPOCH, kept, but)
    return expected


def narrow_down(expected: Expected, held: set[int]) -> tuple[list[Span], int]:
    """What head office is found to lack that holds these numbers, and in how many questions."""
    spans, lacking, questions = expected.spans, [], 0
    while spans:
        questions += 1
        assert questions <= 5
        asked = comparison.parts(spans)
        assert len(asked) <= comparison.MOST_SPANS
        answers = []
        for span in asked:
            there = [n for n in range(span.first, span.last + 1) if n in held]
            answers.append((len(there), sum(there) * 1_000))
        empty, spans = comparison.narrowed(expected, asked, answers)
        lacking += empty
    return lacking, questions


def numbers_of(spans: list[Span]) -> set[int]:
    return {n for span in spans for n in range(span.first, span.last + 1)}


@pytest.mark.parametrize("seed", range(5))
def test_three_lost_sales_are_found_in_two_questions(seed):
    """Three of ten thousand sales are gone, anywhere: two questions name exactly these."""
    lost = set(random.Random(seed).sample(range(1, 10_001), 3))
    numbers = range(1, 10_001)

    lacking, questions = narrow_down(expected_of(numbers), set(numbers) - lost)

    assert numbers_of(lacking) == lost
    assert questions == 2


@pytest.mark.parametrize("lost", [range(1, 501), range(200, 400), range(1, 501, 2)])
def test_many_lost_sales_are_all_found(lost):
    """A night, a part of it or every other sale is gone: each of them is named and no other."""
    numbers = range(1, 501)

    held = set(numbers) - set(lost)
    for _ in range(4):  # with so many, each comparison finds some
        lacking, _ = narrow_down(expected_of(numbers), held)
        assert numbers_of(lacking) <= set(lost) - held
        held |= numbers_of(lacking)

    assert held == set(numbers)


def test_what_waits_was_refused_or_is_explained_is_not_expected():
    """Some of the day's sales wait, are in quarantine, or count on another till: head office is
    right not to have them under these numbers, and nothing is given back."""
    numbers = range(1, 11)
    states = {2: "waiting", 5: "conflict"}

    expected = expected_of(numbers, states=states, but={(EPOCH, 7)})

    assert narrow_down(expected, set(numbers) - {2, 5, 7}) == ([], 1)


def test_head_office_holds_more_than_the_till():
    """A clone's sale has one of the till's numbers: that number alone is looked into."""
    expected = expected_of(range(1, 301))
    asked = [Span(EPOCH, 9, 9), Span(EPOCH, 10, 20)]

    lacking, closer = comparison.narrowed(expected, asked, [(2, 1), expected.of(asked[1])])

    assert (lacking, closer) == ([asked[0]], [])


def test_only_numbers_that_are_kept_are_asked_for():
    """Old sales were pruned in between: nothing is asked about them, as nothing could be said."""
    expected = Expected()
    kept = [*range(3, 6), *range(8, 10), 12]
    expected.add(EPOCH, [Numbered(n, "accepted", n) for n in kept], NO_ONE)
    expected.add(EPOCH + 1, [Numbered(13, "accepted", 13)], NO_ONE)

    assert expected.spans == [
        *(Span(EPOCH, 3, 5), Span(EPOCH, 8, 9), Span(EPOCH, 12, 12), Span(EPOCH + 1, 13, 13))
    ]


def test_the_parts_of_a_span_are_the_span():
    """No number falls between two questions."""
    spans = [Span(EPOCH, 1, 1_000), Span(EPOCH, 2_000, 2_001), Span(EPOCH + 1, 5, 5)]

    asked = comparison.parts(spans)

    assert sum(part.size for part in asked) == sum(span.size for span in spans)
    assert {part.epoch for part in asked} == {EPOCH, EPOCH + 1}


def test_days_that_share_numbers_are_looked_into_once():
    """After midnight the sales of two business days take turns: their numbers are one span."""
    monday = a_day(an_event(1), an_event(10), an_event(5, epoch=9))
    tuesday = a_day(an_event(8), an_event(20), an_event(30, "waiting"))

    assert comparison.reaches([monday, tuesday]) == [Span(EPOCH, 1, 20), Span(9, 5, 5)]


def test_the_holes_between_the_numbers_that_are_kept():
    """What is neither at head office nor here is named to the number."""
    assert [*comparison.holes(Span(EPOCH, 1, 10), [3, 4, 8])] == [
        *(Span(EPOCH, 1, 2), Span(EPOCH, 5, 7), Span(EPOCH, 9, 10))
    ]
    assert [*comparison.holes(Span(EPOCH, 1, 2), [1, 2])] == []
    assert [*comparison.holes(Span(EPOCH, 1, 2), [])] == [Span(EPOCH, 1, 2)]


def test_a_day_counts_what_waits_and_leaves_out_what_was_refused():
    """The day is what was sold: what is still to be sent too, and without what head office
    refused, which is named."""
    day = a_day(
        an_event(1), an_event(2, "waiting"), an_event(3, "conflict"), an_event(4, "rejected")
    )

    assert day.books["USD"].event_count == 2
    assert day.waiting == 1
    assert [(one.sequence, one.outcome) for one in day.refused] == [
        (3, "conflict"),
        (4, "rejected"),
    ]


@pytest.mark.parametrize(
    ("day", "there", "explained", "given", "words"),
    [
        (
            a_day(an_event(1), an_event(2, "waiting")),
            (1, 100, 1_000),
            [],
            0,
            ["1 of its events wait here and are held back"],
        ),
        (
            a_day(an_event(1)),
            (1, 99, 1_000),
            [],
            0,
            ["the events are the same and their money is not"],
        ),
        (
            a_day(an_event(1)),
            (0, 0, 0),
            [],
            1,
            ["events were given back, and head office still does not count them"],
        ),
        (
            a_day(an_event(1)),
            (1, 100, 5),
            [Explained(EPOCH, 1, "conflict", "KEY_CONFLICT", "key")],
            0,
            ["number 1 is no part of the history: conflict KEY_CONFLICT key"],
        ),
        (
            a_day(an_event(1)),
            (1, 100, 5),
            [],
            0,
            ["head office counts other events under these numbers, and has all of ours"],
        ),
    ],
)
def test_a_difference_is_explained(day, there, explained, given, words):
    """A person reads why the day differs, whatever the reason is."""
    found = comparison.difference(DAY, day, {"USD": DayBook(*there)}, explained, given)

    assert found.why == words


def test_many_explanations_are_counted():
    """Hundreds of sales count on another till: three are named and all are counted."""
    explained = [Explained(EPOCH, n, "duplicate", "", "") for n in range(1, 200)]

    found = comparison.difference(DAY, a_day(an_event(1)), {}, explained, 0)

    assert len(found.why) <= 5
    assert "199 of its numbers are explained by head office in all" in found.why
