"""The judge against a model that takes one event at a time and remembers everything."""

from dataclasses import dataclass, field
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_device, an_event, examined, rows
from support.service import names
from tillsync.v1.event_pb2 import EventFlag
from tillsync_service.ingest.batch import Batch
from tillsync_service.ingest.verdicts import Judgement, judge, presented, ranges

TILLS = [a_device() for _ in range(2)]
FORKED = 1 << EventFlag.EVENT_FLAG_FORKED


@dataclass
class Model:
    """One tenant, event by event, with no thought of speed."""

    holders: dict = field(default_factory=dict)
    numbers: set = field(default_factory=set)
    used: set = field(default_factory=set)
    days: dict = field(default_factory=dict)
    quarantined: set = field(default_factory=set)
    forked: set = field(default_factory=set)

    def take(self, event: SimpleNamespace) -> str:
        device_id = event.device.device_id
        number = (device_id, event.epoch, event.sequence)
        self.numbers.add(number)
        if event.refusal:
            return "REJECTED"
        if event.key in self.holders:
            _, digest = self.holders[event.key]
            if digest == event.digest:
                return "DUPLICATE"
            self.quarantined.add((event.key, event.digest))
            return "CONFLICT"
        self.holders[event.key] = (len(self.holders) + 1, event.digest)
        if event.sequence and number in self.used:
            self.forked.add(event.key)
        self.used.add(number)
        for currency, minor in (event.amounts or {"XXX": 0}).items():
            count, money, digests = self.days.get((device_id, currency), (0, 0, 0))
            digests = (digests + int.from_bytes(event.digest)) % 2**128
            self.days[device_id, currency] = (count + 1, money + minor, digests)
        return "ACCEPTED"


@dataclass
class Tenant:
    """What the judge's rows add up to, group after group."""

    head: int = 0
    holders: dict = field(default_factory=dict)
    numbers: dict = field(default_factory=dict)
    used: dict = field(default_factory=dict)
    days: dict = field(default_factory=dict)
    quarantined: set = field(default_factory=set)
    forked: set = field(default_factory=set)

    def judge(self, *group: Batch) -> Judgement:
        keys = {row.key for batch in group for row in rows(batch) if not row.refusal}
        offered = presented(group)
        found = judge(
            group,
            head=self.head,
            held={key: holder for key, holder in self.holders.items() if key in keys},
            seen=within(offered, self.numbers),
            used=within(offered, self.used),
            numbers=offered,
        )
        self._write(found)
        return found

    def _write(self, found: Judgement) -> None:
        assert found.head == self.head
        for event in (row for batch in found.stored for row in rows(batch)):
            assert event.key not in self.holders
            self.head += 1
            self.holders[event.key] = (self.head, event.digest)
            if event.flags & FORKED:
                self.forked.add(event.key)
        for batch in found.stored:
            for epoch, number in zip(batch.epochs, batch.sequences, strict=True):
                self.used.setdefault((batch.device.device_id, epoch), set()).add(number)
        for outbox, news in found.progress.items():
            numbers = self.numbers.setdefault(outbox, set())
            numbers.update(n for first, end in news for n in range(first, end))
        for device_id, totals in found.days.items():
            for (_, currency), total in totals.items():
                count, money, digests = self.days.get((device_id, currency), (0, 0, 0))
                self.days[device_id, currency] = (
                    count + total.event_count,
                    money + total.amount_minor,
                    (digests + total.digest_sum) % 2**128,
                )
        for held_position, batch, index in found.quarantined:
            assert self.holders[batch.keys[index]][0] == held_position
            self.quarantined.add((batch.keys[index], batch.digests[index]))


def within(offered: dict, numbers: dict) -> dict:
    """Which of the offered numbers are among these."""
    return {
        outbox: ranges(numbers[outbox] & {n for first, end in of for n in range(first, end)})
        for outbox, of in offered.items()
        if outbox in numbers
    }


EVENTS = st.builds(
    an_event,
    st.sampled_from(["a", "b", "c", "d", "e", ""]),
    receipt=st.sampled_from("12"),
    amounts=st.sampled_from([[], [("USD", 100)], [("USD", 2**63 - 1), ("EUR", -3)]]),
    number=st.sampled_from([None, 1, 2, 3]),
    epoch=st.sampled_from([7, 8]),
)
BATCHES = st.builds(
    lambda device, events: examined(device, *events),
    st.sampled_from(TILLS),
    st.lists(EVENTS, min_size=1, max_size=4),
)


@given(st.lists(st.lists(BATCHES, min_size=1, max_size=4), max_size=6))
def test_grouping_changes_no_outcome(groups):
    """Whether a till's sales come one by one or a thousand at once, the shopkeeper's books say the
    same."""
    model, tenant = Model(), Tenant()

    for group in groups:
        expected = [[model.take(event) for event in rows(batch)] for batch in group]
        assert [names(verdicts) for verdicts in tenant.judge(*group).verdicts] == expected

    assert tenant.holders == model.holders
    assert tenant.days == model.days
    assert tenant.quarantined == model.quarantined
    assert tenant.forked == model.forked
    assert {
        (*outbox, number) for outbox, numbers in tenant.numbers.items() for number in numbers
    } == {number for number in model.numbers if number[2]}
    assert [position for position, _ in model.holders.values()] == [*range(1, tenant.head + 1)]


def a_group(*events, device=TILLS[0]):
    return examined(device, *events)


def test_i2_a_sale_twice_in_one_batch_counts_once():
    """A till that stutters inside one batch hears ACCEPTED and then DUPLICATE, at one place."""
    found = Tenant().judge(a_group(an_event("a"), an_event("a")))

    (verdicts,) = found.verdicts
    assert names(verdicts) == ["ACCEPTED", "DUPLICATE"]
    assert verdicts.positions == [1, 1]
    assert [len(batch) for batch in found.stored] == [1]


def test_i3_another_sale_under_the_same_key_in_one_batch_is_kept_aside():
    """Two tills that number their receipts alike lose neither sale."""
    found = Tenant().judge(a_group(an_event("a"), an_event("a", receipt="2")))

    (verdicts,) = found.verdicts
    assert names(verdicts) == ["ACCEPTED", "CONFLICT"]
    assert verdicts.positions == [1, 1]
    assert verdicts.refusals[1].reason == "KEY_CONFLICT"
    assert [event.held_position for event in found.quarantined] == [1]


def test_a_reused_number_is_a_fork_once_per_event():
    """A cloned disk shows: the second sale under a number is flagged, a mere repeat is not."""
    tenant = Tenant()
    tenant.judge(a_group(an_event("a", number=1)))

    found = tenant.judge(a_group(an_event("a", number=1), an_event("b", number=1)))

    (verdicts,) = found.verdicts
    assert names(verdicts) == ["DUPLICATE", "ACCEPTED"]
    assert verdicts.flags == [0, FORKED]
    assert [batch.flags for batch in found.stored] == [[FORKED]]


def test_a_number_that_no_sale_has_is_free():
    """A sale that was refused, or is counted under another number, used none up: the sale that has
    its number is no sign of a cloned disk."""
    tenant = Tenant()
    tenant.judge(a_group(an_event("a", number=1), an_event("", number=2), an_event("a", number=3)))

    (verdicts,) = tenant.judge(a_group(an_event("b", number=2), an_event("c", number=3))).verdicts

    assert names(verdicts) == ["ACCEPTED", "ACCEPTED"]
    assert verdicts.flags == [0, 0]


def test_the_same_number_of_another_till_or_epoch_is_no_fork():
    """Every till counts from one; that is no alarm."""
    tenant = Tenant()
    tenant.judge(a_group(an_event("a", number=1)))

    other_till = tenant.judge(a_group(an_event("b", number=1), device=TILLS[1]))
    other_epoch = tenant.judge(a_group(an_event("c", number=1, epoch=8)))

    assert other_till.verdicts[0].flags == [0]
    assert other_epoch.verdicts[0].flags == [0]


def test_a_retry_of_stored_sales_has_nothing_to_write():
    """A till that asks again costs head office no write."""
    tenant = Tenant()
    group = a_group(an_event("a", number=1), an_event("b", number=2))
    tenant.judge(group)

    again = tenant.judge(group)

    assert [names(verdicts) for verdicts in again.verdicts] == [["DUPLICATE", "DUPLICATE"]]
    assert (again.stored, again.progress, again.days) == ([], {}, {})
    assert again.head == 2


def test_numbers_become_the_fewest_ranges():
    """A till's million sales in a row are one range and not a million rows."""
    assert ranges([5, 1, 2, 3, 9, 4]) == ((1, 6), (9, 10))
    assert ranges([]) == ()
