"""One reconciliation: compare → give back what is missing → compare again; and where no number is
missing and a day differs all the same, narrow that down to single numbers.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tillsync.v1 import reconcile_service_pb2 as pb
from tillsync_agent import comparison, daybooks
from tillsync_agent import reconcile_wire as wire
from tillsync_agent.books import OutboxBooks
from tillsync_agent.comparison import Day, Expected, Explained, Snapshot
from tillsync_agent.daybooks import SETTLED, Booked, Counted, Span
from tillsync_agent.reconcile_wire import Heard
from tillsync_agent.reconciliation import MOST_NAMED, Gone, Reconciliation

T = TypeVar("T")

# What was given back may uncover more: so often it is compared at once, the rest in another run.
MOST_COMPARISONS = 6
MOST_NARROWINGS = 4


class OffLoop(Protocol):
    """Runs an outbox call where it does not stop the loop."""

    def __call__(self, call: Callable[..., T], *arguments: object) -> Awaitable[T]: ...


@dataclass(slots=True)
class _Compared:
    """What was claimed, what head office answered, and what came of it."""

    snapshot: Snapshot
    heard: Heard
    differing: list[str]
    gone: list[Span]
    waived: list[Span]
    goes_on: bool = False

    @property
    def days_waived(self) -> list[str]:
        """The differing days that an operator waived."""
        return [name for name in self.differing if self.heard.days[name].waived]


class Reconciling:
    """`ask` makes one call, `quiet` returns when nothing waits to be sent.

    elsewhere: by day, the numbers that head office counts on another device or number; it learns.
    """

    def __init__(
        self,
        books: OutboxBooks,
        *,
        ask: Callable[[pb.ReconcileRequest], Awaitable[pb.ReconcileResponse]],
        quiet: Callable[[], Awaitable[None]],
        off_loop: OffLoop,
        elsewhere: dict[str, frozenset[tuple[int, int]]],
    ) -> None:
        self._books = books
        self._ask_once = ask
        self._quiet = quiet
        self._off_loop = off_loop
        self._elsewhere = elsewhere
        self._given: list[Span] = []
        self._explained: dict[tuple[int, int], Explained] = {}
        self._offered = 0
        self._moved_on = False
        self._round_trips = 0

    async def run(self, day: str | None, *, close: bool) -> Reconciliation:
        """Compares all days, or the one; gives back what head office lacks, and compares again.

        Raises CallFailed and OutboxUnavailable; what was given back until then is on its way.
        """
        for _ in range(MOST_COMPARISONS):
            await self._quiet()
            compared = await self._compare(day, close=close)
            compared.goes_on = await self._give_back(compared)
            if not compared.goes_on:
                break
        return await self._result(compared, day)

    async def _compare(self, day: str | None, *, close: bool) -> _Compared:
        snapshot = await self._snapshot(day)
        heard = Heard()
        for request in wire.requests(snapshot.counted.outboxes, snapshot.claims(), close=close):
            heard.add(await self._ask(request), request)
        claimed = dict(snapshot.counted.outboxes)
        heard.missing = [
            span
            for span in heard.missing
            if 1 <= span.first <= span.last <= claimed.get(span.epoch, 0)
        ]
        differing = [name for name, answer in heard.days.items() if not answer.equal]
        waited_for = [span for span in heard.missing if span not in heard.waived]
        waived = [span for span in heard.missing if span in heard.waived]
        gone = await self._gone(waited_for)
        return _Compared(snapshot, heard, differing, gone, await self._gone(waived))

    async def _snapshot(self, only: str | None) -> Snapshot:
        """All of it as of one moment, though it is read in pieces: what is pruned meanwhile would
        be in neither of the two sums, and the day would seem to be short of it."""
        counted = await self._off_loop(self._books.counted)
        while True:
            snapshot = await self._read(counted, only)
            before, counted = counted, await self._off_loop(self._books.counted)
            if counted.pruned == before.pruned:
                return snapshot

    async def _read(self, counted: Counted, only: str | None) -> Snapshot:
        snapshot = Snapshot(counted, {only: Day()} if only is not None else {})
        after = 0
        while page := await self._off_loop(self._books.page, after, counted.last_id):
            snapshot.add(page, only, self._elsewhere)
            after = page[-1].id
        snapshot.add_pruned()
        return snapshot

    async def _give_back(self, compared: _Compared) -> bool:
        """Whether something changed, so that it is worth comparing again."""
        if await self._offer(compared.heard.missing):
            return True
        if not compared.differing:
            return False
        if await self._leave_out(compared):
            return True
        # A sale in between is in one of the two books and not in the other: nothing is looked for
        # then, but on a till where one follows the other it is in the end.
        counted = await self._off_loop(self._books.counted)
        moved_on = counted.last_id != compared.snapshot.counted.last_id
        if moved_on and not self._moved_on:
            self._moved_on = True
            return True
        offered = await self._offer(await self._lacking(compared))
        return bool(offered) or await self._leave_out(compared) or moved_on

    async def _offer(self, spans: Iterable[Span]) -> int:
        """Offers again what of these numbers is kept; nothing twice."""
        offered = 0
        for span in spans:
            if not self._is_given(span):
                self._given.append(span)
                number = (span.epoch, span.first, span.last)
                offered += await self._off_loop(self._books.offer_again, *number)
        self._offered += offered
        return offered

    def _is_given(self, span: Span) -> bool:
        return any(given.covers(span) for given in self._given)

    async def _explained_events(self, compared: _Compared) -> list[Booked]:
        """The settled events of the differing days that head office has an explanation for."""
        events = await self._off_loop(self._books.events_at, [*self._explained])
        differing = set(compared.differing)
        return [
            event for event in events if event.state in SETTLED and event.business_day in differing
        ]

    async def _leave_out(self, compared: _Compared) -> bool:
        """Learns which events head office counts elsewhere, where that explains the day.

        Only of events that were given back before: an event that was lost looks the same, and the
        verdict on it tells the two apart.
        """
        learnt = False
        explained = await self._explained_events(compared)
        for name in compared.differing:
            known = self._elsewhere.get(name, frozenset())
            events = [
                event
                for event in explained
                if event.business_day == name
                and event.number not in known
                and self._is_given(Span(event.epoch, event.sequence, event.sequence))
            ]
            claimed = daybooks.total([compared.snapshot.days[name].books])
            rest = daybooks.less(claimed, daybooks.total(event.books for event in events))
            if events and rest == compared.heard.days[name].books:
                self._elsewhere[name] = known | {event.number for event in events}
                learnt = True
        return learnt

    async def _lacking(self, compared: _Compared) -> list[Span]:
        """The spans of which head office holds nothing, down to single numbers, in the days whose
        events differ."""
        snapshot, heard = compared.snapshot, compared.heard
        days = [
            snapshot.days[name]
            for name in compared.differing
            if not comparison.same_events(snapshot.days[name].books, heard.days[name].books)
        ]
        but = frozenset[tuple[int, int]]().union(*self._elsewhere.values())
        expected = Expected()
        for span in comparison.reaches(days):
            expected.add(span.epoch, await self._off_loop(self._books.numbers, span), but)
        spans, lacking = expected.spans, list[Span]()
        for _ in range(MOST_NARROWINGS):
            if not spans:
                break
            asked = comparison.parts(spans)
            sums: list[tuple[int, int]] = []
            for request in wire.spans_requests(asked):
                response = await self._ask(request)
                sums += wire.sums_of(response, len(request.spans))
            empty, spans = comparison.narrowed(expected, asked, sums)
            # What is still lacking after it was given back may be explained number by number.
            spans += [span for span in empty if self._is_given(span) and span.size > 1]
            lacking += empty
        return lacking

    async def _gone(self, missing: Iterable[Span]) -> list[Span]:
        """What is missing at head office and not kept here either."""
        gone: list[Span] = []
        for span in missing:
            kept = await self._off_loop(self._books.numbers, span)
            gone += comparison.holes(span, [number.sequence for number in kept])
        return gone

    async def _result(self, compared: _Compared, day: str | None) -> Reconciliation:
        heard, days = compared.heard, compared.snapshot.days
        waived = compared.days_waived
        waited_for = [name for name in compared.differing if name not in waived]
        explained = {event.number: event for event in await self._explained_events(compared)}
        differences = [
            comparison.difference(
                name,
                days[name],
                heard.days[name].books,
                [
                    self._explained[number]
                    for number, event in explained.items()
                    if event.business_day == name
                ],
                given=self._offered,
            )
            for name in waited_for
        ]
        differences += compared.snapshot.beyond_words()
        refused = [one for name in sorted(days) for one in days[name].refused]
        closed = heard.days.get(day) if day is not None else None
        comes_to = comparison.sums(days[day].books) if day is not None else {}
        return Reconciliation(
            history_id=heard.history_id,
            days_equal=len(heard.days) - len(compared.differing),
            days_differing=len(differences),
            differing=differences[:MOST_NAMED],
            offered_again=self._offered,
            refused=refused[:MOST_NAMED],
            refused_count=len(refused),
            gone=[Gone(span.epoch, span.first, span.last) for span in compared.gone[:MOST_NAMED]],
            gone_count=sum(span.size for span in compared.gone),
            waived_count=sum(span.size for span in compared.waived),
            days_waived=waived[:MOST_NAMED],
            comes_to=comes_to,
            revision=closed.revision if closed else 0,
            closed=closed.closed if closed else False,
            round_trips=self._round_trips,
            unfinished=compared.goes_on,
        )

    async def _ask(self, request: pb.ReconcileRequest) -> pb.ReconcileResponse:
        self._round_trips += 1
        response = await self._ask_once(request)
        for one in wire.explained_in(response):
            self._explained[one.epoch, one.sequence] = one
        return response
