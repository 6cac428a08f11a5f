"""Refresh secrets rotate: an honest till is never locked out, a second holder never unseen."""

from dataclasses import dataclass, replace
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tillsync_service.fleet.rotation import Secrets, State, present

FATES = st.sampled_from(["request lost", "answer lost", "crash before storing", "all well"])


class Service:
    """What the service remembers of one device."""

    def __init__(self, first):
        self.secrets = Secrets(current=first)
        self.alarm = False
        self.locked_out = False

    def issue_token(self, presented, proposal):
        if presented not in self.secrets.states():
            self.locked_out = True
            return
        self.secrets, alarm = present(self.secrets, presented, proposal)
        self.alarm |= alarm

    def clear_suspicion(self):
        self.alarm = False
        self.secrets = Secrets(retired=frozenset(self.secrets.states()))


@dataclass
class Till:
    """What a device has on its disk, and nothing else: a crash loses the rest. `rotated`: a secret
    that it minted itself has reached the service."""

    current: bytes
    next: bytes | None = None
    rotated: bool = False
    next_is_its_own: bool = True

    def mint(self, secret):
        if self.next is None:
            self.next = secret
            self.next_is_its_own = True

    def call(self, service, fate):
        if fate == "request lost":
            return
        service.issue_token(self.current, self.next)
        self.rotated |= self.next is not None and self.next_is_its_own
        if fate == "all well" and self.next is not None:
            self.current, self.next = self.next, None

    def image(self):
        """A copy of the disk. What is stored as the next secret is shared from here on."""
        return replace(self, rotated=False, next_is_its_own=False)


class _World(RuleBasedStateMachine):
    @initialize()
    def enrol(self):
        self.fresh = (b"secret %d" % number for number in count())
        first = next(self.fresh)
        self.till = Till(first)
        self.service = Service(first)

    @invariant()
    def nobody_who_had_a_good_secret_is_locked_out(self):
        assert not self.service.locked_out


class HonestTill(_World):
    @rule()
    def mint(self):
        self.till.mint(next(self.fresh))

    @rule(fate=FATES)
    def call(self, fate):
        self.till.call(self.service, fate)

    @invariant()
    def an_honest_till_is_never_suspect(self):
        assert not self.service.alarm

    @invariant()
    def there_is_always_a_live_secret(self):
        assert self.service.secrets.current is not None


class ClonedTill(_World):
    """The till's disk is copied at any moment, and both go on. An operator finds one of them."""

    def __init__(self):
        super().__init__()
        self.holders = []

    @initialize()
    def enrol(self):
        super().enrol()
        self.holders = [self.till]

    @precondition(lambda self: len(self.holders) == 1 and not self.service.alarm)
    @rule()
    def copy_the_disk(self):
        self.till.rotated = False
        self.till.next_is_its_own = False
        self.holders = [self.till, self.till.image()]

    @rule(which=st.integers(0, 1))
    def mint(self, which):
        self.holders[which % len(self.holders)].mint(next(self.fresh))

    @rule(which=st.integers(0, 1), fate=FATES)
    def call(self, which, fate):
        self.holders[which % len(self.holders)].call(self.service, fate)

    @precondition(lambda self: len(self.holders) == 2 and self.service.alarm)
    @rule(which=st.integers(0, 1))
    def scrap_one_and_clear(self, which):
        self.holders.pop(which)
        (self.till,) = self.holders
        self.service.clear_suspicion()

    @invariant()
    def two_holders_who_both_rotated_are_noticed(self):
        if len(self.holders) == 2 and all(holder.rotated for holder in self.holders):
            assert self.service.alarm

    @invariant()
    def one_holder_alone_is_not_suspect(self):
        if len(self.holders) == 1:
            assert not self.service.alarm


MORE = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestHonestTill = HonestTill.TestCase
TestHonestTill.settings = MORE
TestClonedTill = ClonedTill.TestCase
TestClonedTill.settings = MORE


def test_a_proposal_is_taken_when_it_is_first_used_and_not_before():
    """A till whose answer was lost comes in with the old secret, and with the new one later."""
    proposed, alarm = present(Secrets(current=b"1"), b"1", b"2")
    assert (proposed, alarm) == (Secrets(current=b"1", proposed=b"2"), False)

    assert present(proposed, b"1", b"2") == (proposed, False)
    assert present(proposed, b"1", None) == (proposed, False)

    promoted = Secrets(current=b"2", retired=frozenset({b"1"}))
    assert present(proposed, b"2", None) == (promoted, False)
    assert present(proposed, b"2", b"3") == (replace(promoted, proposed=b"3"), False)


def test_proposing_what_is_presented_proposes_nothing():
    """A till with a fault that proposes its own secret does not lose it."""
    assert present(Secrets(current=b"1"), b"1", b"1") == (Secrets(current=b"1"), False)


def test_a_retired_secret_is_an_alarm_and_the_sender_keeps_a_way_in():
    """A till restored from an old disk image goes on sending sales, as a suspect."""
    rotated = Secrets(current=b"2", retired=frozenset({b"1"}))

    after, alarm = present(rotated, b"1", b"x")

    assert alarm
    assert (after.current, after.proposed) == (b"2", None)
    assert after.states()[b"x"] is State.RETIRED


def test_a_second_proposal_is_an_alarm_and_changes_no_live_secret():
    """Two tills with one disk image each propose a secret of their own: the second is seen."""
    asked = Secrets(current=b"1", proposed=b"2")

    after, alarm = present(asked, b"1", b"x")

    assert alarm
    assert (after.current, after.proposed) == (b"1", b"2")
    assert after.states()[b"x"] is State.RETIRED


def test_after_the_operator_cleared_it_the_first_to_come_is_believed_and_the_second_is_not():
    """The operator scrapped the copy, so the till that comes in is the till. If the copy comes in
    all the same, the alarm rings again."""
    cleared = Secrets(retired=frozenset({b"1", b"2", b"x"}))

    after, alarm = present(cleared, b"2", b"x")

    assert not alarm
    assert after == Secrets(current=b"2", proposed=b"x", retired=frozenset({b"1"}))
    assert present(after, b"1", None)[1]


def test_states_are_written_in_an_order_that_never_doubles_one():
    """A rotation meets no unique index half-way: what leaves a state is written before what
    enters it."""
    secrets = Secrets(current=b"c", proposed=b"p", retired=frozenset({b"r"}))

    assert list(secrets.states().values()) == [State.RETIRED, State.CURRENT, State.PROPOSED]
