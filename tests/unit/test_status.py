"""What the till says about itself when somebody asks."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tillsync_agent import status
from tillsync_agent.agentnote import AgentNote
from tillsync_agent.config import Settings
from tillsync_agent.entries import Summary
from tillsync_agent.reconciliation import Difference, Gone, Reconciliation

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SETTINGS = Settings(Path("state"), service="head:443", stalled_after_seconds=300)
IDLE = Summary(
    waiting=0,
    waiting_bytes=0,
    oldest_waiting_at=None,
    held=0,
    held_error="",
    settled=10,
    dead_letters=0,
    epoch=1,
    last_sequence=10,
    last_settled_at=NOW,
    money_waiting={},
)


def problems(summary=IDLE, note=None, *, offset_ms=0, running=True, settings=SETTINGS) -> list[str]:
    return status.of(
        settings,
        summary,
        note or AgentNote(),
        clock_offset_ms=offset_ms,
        agent_running=running,
        now=NOW,
    ).problems


def waiting_since(minutes: int) -> Summary:
    return replace(IDLE, waiting=4, oldest_waiting_at=NOW - timedelta(minutes=minutes))


def test_a_quiet_till_has_no_problem():
    """All is sold and sent: nobody is bothered, whether the agent runs or not."""
    assert problems() == []
    assert problems(running=False) == []


def test_work_that_waits_on_a_working_link_is_called_stalled_with_the_reason():
    """The line is up and yet nothing was acknowledged for ten minutes: status says so, and why."""
    note = AgentNote(link="closed", last_error="INTERNAL: oops")

    (problem,) = problems(waiting_since(10), note)

    assert "the link is up, but nothing was acknowledged for 10 minutes" in problem
    assert problem.endswith(": INTERNAL: oops")


def test_a_dead_link_is_named_as_such():
    """The line is down: status does not say that the link is up."""
    note = AgentNote(link="open", last_error="UNAVAILABLE: refused")

    assert "the service is not answering" in problems(waiting_since(10), note)[0]


def test_a_busy_till_that_gets_answers_is_not_stalled():
    """A long backlog is on its way: the oldest sale is hours old, and the last answer is fresh."""
    note = AgentNote(last_acknowledged_at=(NOW - timedelta(seconds=5)).isoformat())

    assert problems(waiting_since(600), note) == []


def test_the_watchdog_sees_past_a_clock_that_was_set_back():
    """The till's clock was a year ahead and somebody set it right: sales that wait are still called
    stalled, and not only when the year is over."""
    in_a_year = NOW + timedelta(days=365)
    note = AgentNote(link="open", last_acknowledged_at=in_a_year.isoformat())

    (new_sales,) = problems(waiting_since(10), note)
    (old_sales,) = problems(replace(IDLE, waiting=4, oldest_waiting_at=in_a_year), note)

    assert "nothing was acknowledged for 10 minutes" in new_sales
    assert "nothing was acknowledged since this device's clock was set back" in old_sales
    assert problems(waiting_since(-1), note) == []  # clocks are put right by seconds all the time


def test_no_agent_is_the_first_thing_to_say():
    """Sales wait because nobody started the agent."""
    assert "no agent is running" in problems(waiting_since(1), running=False)[0]


def test_a_wrong_clock_is_said_in_days():
    """The till's battery died and its clock is a year behind."""
    year_ms = 365 * 86_400_000

    (problem,) = problems(offset_ms=year_ms)

    assert problem == (
        "at the last contact this device's clock was 365 days behind the service's: set it right; "
        "no sale is refused for it"
    )
    assert "365 days ahead of" in problems(offset_ms=-year_ms)[0]
    assert "25 years behind" in problems(offset_ms=25 * year_ms)[0]
    assert problems(offset_ms=1_500) == []


def test_refused_and_held_sales_and_a_cloned_secret_need_a_person():
    """Each of them is one sentence that says what to do or what is wrong."""
    summary = replace(IDLE, dead_letters=2, held=1, held_error="INVALID_ARGUMENT: no")

    found = problems(summary, AgentNote(suspect=True))

    words = ("held", "dead-letters", "two hands")
    assert [word for word, text in zip(words, found, strict=True) if word not in text] == []


def test_a_note_of_another_version_does_not_break_status():
    """The agent was updated or its note is torn: status still works."""
    assert AgentNote.parse('{"link": "open", "new_thing": 1}').link == "open"
    assert AgentNote.parse("{torn") == AgentNote()
    assert AgentNote.parse("[]") == AgentNote()


def test_a_difference_with_head_office_needs_a_person():
    """A day differs and numbers are gone for good: both are said, with their reasons; what was
    only given back is no problem."""
    compared = Reconciliation(
        at="2026-11-22T12:00:00+00:00",
        days_equal=3,
        days_differing=1,
        differing=[Difference("", {"USD": (2, 20)}, {"USD": (1, 10)}, ["one reason", "another"])],
        offered_again=5,
        gone=[Gone(7, 3, 4)],
        gone_count=2,
    )

    held = status.of(
        SETTINGS,
        IDLE,
        AgentNote(),
        clock_offset_ms=0,
        agent_running=True,
        now=NOW,
        reconciliation=compared,
    )

    assert held.problems == [
        "what has no business day differs from head office's: one reason; another",
        "2 numbers never reached head office and are not kept here any more: 3 to 4 of outbox 7",
    ]
    assert dict(status.lines(held))["compared"] == (
        "2026-11-22T12:00:00+00:00, 3 days equal, 1 differ, 5 events given back"
    )


def test_a_comparison_that_failed_says_since_when():
    """Head office was last compared in the morning and is out of reach since: both are shown."""
    compared = replace(Reconciliation(at="in the morning"), error="UNAVAILABLE: gone")
    held = status.of(
        SETTINGS,
        IDLE,
        AgentNote(),
        clock_offset_ms=0,
        agent_running=True,
        now=NOW,
        reconciliation=compared,
    )

    assert held.problems == []
    assert dict(status.lines(held))["compared"].endswith("not since then: UNAVAILABLE: gone")
