"""What a person asks a till: what waits, since when, how much money, and why. Pure.

It needs no running agent: all of it comes from the outbox and from what the last agent noted there.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tillsync_agent.agentnote import AgentNote
from tillsync_agent.config import Settings
from tillsync_agent.entries import ReplicaSummary, Summary
from tillsync_agent.reconciliation import Reconciliation

# A smaller difference between two clocks is nobody's concern.
OFFSET_WORTH_SAYING_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Status:
    """One moment's state of a device. Moments are by the device's own clock, in ISO 8601."""

    device_id: str
    device_name: str
    store_id: str
    store_name: str
    service: str
    agent_running: bool
    waiting: int
    waiting_bytes: int
    oldest_waiting_at: str
    money_waiting: dict[str, int]
    """Currency to minor units."""
    held: int
    held_error: str
    dead_letters: int
    settled_kept: int
    epoch: int
    last_sequence: int
    last_settled_at: str
    clock_offset_ms: int | None
    link: AgentNote
    reconciliation: Reconciliation
    set_aside: list[str]
    """Outbox files that were unusable."""
    replica: ReplicaSummary | None
    """None: nothing was ever loaded or edited here."""
    problems: list[str]
    """Sentences for a person; empty when all is well."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def of(
    settings: Settings,
    summary: Summary,
    note: AgentNote,
    *,
    clock_offset_ms: int | None,
    agent_running: bool,
    now: datetime,
    set_aside: Sequence[Path] = (),
    reconciliation: Reconciliation | None = None,
    replica: ReplicaSummary | None = None,
) -> Status:
    """Puts the pieces together and says what is wrong, if anything is."""
    compared = reconciliation or Reconciliation()
    return Status(
        device_id=settings.device_id,
        device_name=settings.device_name,
        store_id=settings.store_id,
        store_name=settings.store_name,
        service=settings.service,
        agent_running=agent_running,
        waiting=summary.waiting,
        waiting_bytes=summary.waiting_bytes,
        oldest_waiting_at=_text(summary.oldest_waiting_at),
        money_waiting=summary.money_waiting,
        held=summary.held,
        held_error=summary.held_error,
        dead_letters=summary.dead_letters,
        settled_kept=summary.settled,
        epoch=summary.epoch,
        last_sequence=summary.last_sequence,
        last_settled_at=_text(summary.last_settled_at),
        clock_offset_ms=clock_offset_ms,
        link=note,
        reconciliation=compared,
        set_aside=[str(path) for path in set_aside],
        replica=replica,
        problems=[
            problem
            for problem in (
                _enrolment(settings),
                stalled(settings, summary, note, agent_running=agent_running, now=now),
                _held(summary),
                _dead(summary),
                _suspect(note),
                clock_sentence(clock_offset_ms),
                *map(_set_aside, set_aside),
                *_replica_problems(replica),
                *differences(compared),
            )
            if problem
        ],
    )


def stalled(
    settings: Settings, summary: Summary, note: AgentNote, *, agent_running: bool, now: datetime
) -> str:
    """The watchdog: work waits and nothing was acknowledged for too long, and why. Else empty."""
    if not summary.waiting or not settings.service:
        return ""
    if not agent_running:
        return f"{summary.waiting} events wait and no agent is running: `tillsync-agent run`"
    since = _latest_until(now, summary.oldest_waiting_at, _moment(note.last_acknowledged_at))
    if since and (now - since).total_seconds() < settings.stalled_after_seconds:
        return ""
    quiet = f"for {_span(now - since)}" if since else "since this device's clock was set back"
    up = "the link is up, but" if note.link == "closed" else "the service is not answering:"
    why = note.trouble or summary.held_error or "no error was seen"
    return f"{summary.waiting} events wait and {up} nothing was acknowledged {quiet}: {why}"


def clock_sentence(offset_ms: int | None) -> str:
    """A clock that differed from the service's by enough to be worth saying.

    In the past tense: a clock that was set right since then is compared again with the next sale.
    """
    if offset_ms is None or abs(offset_ms) < OFFSET_WORTH_SAYING_SECONDS * 1000:
        return ""
    side = "behind" if offset_ms > 0 else "ahead of"
    span = _span(timedelta(milliseconds=abs(offset_ms)))
    return (
        f"at the last contact this device's clock was {span} {side} the service's: set it right; "
        "no sale is refused for it"
    )


def differences(compared: Reconciliation) -> list[str]:
    """What was not the same at head office, a sentence each."""
    problems = [
        f"{name_of(day.business_day)} differs from head office's: {'; '.join(day.why)}"
        for day in compared.differing
    ]
    if compared.gone_count:
        numbers = ", ".join(
            f"{span.first} to {span.last} of outbox {span.epoch}" for span in compared.gone[:3]
        )
        problems.append(
            f"{compared.gone_count} numbers never reached head office and are not kept here any "
            f"more: {numbers}"
        )
    return problems


def name_of(business_day: str) -> str:
    """A business day as a person says it."""
    return f"business day {business_day}" if business_day else "what has no business day"


def lines(status: Status) -> list[tuple[str, str]]:
    """The status as rows of a table: what, and how it stands."""
    money = ", ".join(f"{minor} {unit}" for unit, minor in sorted(status.money_waiting.items()))
    link = status.link
    rows = [
        ("device", f"{status.device_name} {status.device_id}".strip() or "not enrolled"),
        ("store", f"{status.store_name} {status.store_id}".strip() or "-"),
        ("service", status.service or "-"),
        ("agent", "running" if status.agent_running else "not running"),
        ("waiting", f"{status.waiting} events, {status.waiting_bytes} bytes"),
        ("oldest waiting", status.oldest_waiting_at or "-"),
        ("money waiting", f"{money} (minor units)" if money else "-"),
        ("held back", f"{status.held}: {status.held_error}" if status.held else "0"),
        ("dead letters", str(status.dead_letters)),
        ("last acknowledged", link.last_acknowledged_at or "never"),
        ("link", _link(status)),
        ("last error", f"{link.last_error_at} {link.last_error}".strip() or "-"),
        ("next try", link.next_try_at or "-"),
        ("compared", _compared(status.reconciliation)),
    ]
    if status.replica:
        rows += _replica_lines(status.replica, link)
    return rows + [("ATTENTION", problem) for problem in status.problems]


def _compared(compared: Reconciliation) -> str:
    words = "never"
    if compared.at:
        words = (
            f"{compared.at}, {compared.days_equal} days equal, {compared.days_differing} differ, "
            f"{compared.offered_again} events given back"
        )
    return f"{words}; not since then: {compared.error}" if compared.error else words


def _link(status: Status) -> str:
    link = status.link
    if not status.service:
        return "none, this device is not enrolled"
    if not link.last_contact_at and not link.failures_in_a_row:
        return "not tried yet"
    word = _LINK_WORDS.get(link.link, link.link)
    return f"{word}, last contact {link.last_contact_at or 'never'}"


# A circuit's words say the opposite to most people.
_LINK_WORDS = {"closed": "up", "open": "down", "half-open": "being tried"}


def _enrolment(settings: Settings) -> str:
    return "" if settings.service else "this device is not enrolled: `tillsync-agent enroll`"


def _held(summary: Summary) -> str:
    if not summary.held:
        return ""
    return f"{summary.held} events are held back and tried by themselves: {summary.held_error}"


def _dead(summary: Summary) -> str:
    if not summary.dead_letters:
        return ""
    return (
        f"{summary.dead_letters} events were refused by head office: `tillsync-agent dead-letters`"
    )


def _replica_lines(replica: ReplicaSummary, note: AgentNote) -> list[tuple[str, str]]:
    records = ", ".join(f"{count} {name}" for name, count in replica.records.items())
    at_ms = replica.checkpoint_at_ms
    at = _text(datetime.fromtimestamp(at_ms / 1000, UTC)) if at_ms is not None else ""
    copy = f"version {replica.version}, {at}" if at else "never loaded"
    loading = "; more is being received" if replica.loading else ""
    not_pulled = f"; not pulled: {note.records_error}" if note.records_error else ""
    not_pushed = f"; not pushed: {note.edits_error}" if note.edits_error else ""
    edits = f"{replica.edits_waiting} wait, {replica.edits_shown} over the copy"
    return [
        ("records", records or "none"),
        ("copy", f"{copy}{loading}{not_pulled}"),
        ("edits", f"{edits}{not_pushed}"),
        ("edits that lost", str(replica.edits_lost)),
        ("edits parked", _parked(replica.edits_parked)),
        ("copy loaded", f"{replica.loads} times, healed {replica.heals} times"),
    ]


def _parked(count: int) -> str:
    """A decision comes back as the record, like any other change of it: which edit it was about is
    not said to the device."""
    where = "; decided or not: `tillsync-service conflicts list` at head office"
    return f"{count}{where if count else ''}"


def _replica_problems(replica: ReplicaSummary | None) -> list[str]:
    if replica is None:
        return []
    problems = [
        f"the replica was unusable and lies in {path}: edits that could not be read from it may be "
        "missing at head office; compare with `tillsync-agent edits`, then move the file away"
        for path in replica.set_aside
    ]
    if replica.edits_rejected:
        problems.append(
            f"{replica.edits_rejected} edits of records were refused by head office: "
            "`tillsync-agent edits`"
        )
    return problems


def _set_aside(path: Path) -> str:
    return (
        f"the outbox was unusable and lies in {path}: sales that could not be read from it may be "
        "missing at head office; compare with the till's own records, then move the file away"
    )


def _suspect(note: AgentNote) -> str:
    if not note.suspect:
        return ""
    return "this device's secret is known to be in two hands (a cloned disk?): ask the operator"


def _text(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else ""


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _latest_until(now: datetime, *moments: datetime | None) -> datetime | None:
    """The latest moment that is not still to come: such a one was noted before the clock was set
    back, and would keep the watchdog silent until the clock gets there again."""
    soon = now + timedelta(seconds=OFFSET_WORTH_SAYING_SECONDS)
    return max((moment for moment in moments if moment and moment < soon), default=None)


def _span(span: timedelta) -> str:
    """A length of time as a person says it: the largest unit of which there are two."""
    seconds = span.total_seconds()
    for unit, size in (("years", 31_557_600), ("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
