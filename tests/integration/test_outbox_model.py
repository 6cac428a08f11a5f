"""The outbox against a list: whatever is done to it, in whatever order, no sale gets lost."""

import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tillsync_agent import Outbox
from tillsync_agent.outbox import OUTCOMES, Receipt, Settlement

DAY_SECONDS = 86_400


@dataclass
class Row:
    receipt: Receipt
    body: bytes
    state: str = "waiting"
    retry_at: datetime | None = None
    settled_at: datetime | None = None


class OutboxMachine(RuleBasedStateMachine):
    """Does the same to an outbox and to a list of rows."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now = datetime(2026, 11, 22, tzinfo=UTC)
        self.rows = []
        self.last_sequence = 0
        self.taken = []
        self.outbox = None
        self.reopen()
        self.epoch = self.outbox.epoch

    def teardown(self):
        self.outbox.close()
        shutil.rmtree(self.folder)

    def row_of(self, row):
        return next(
            mine
            for mine in self.rows
            if (mine.receipt.key, mine.body) == (row.key, row.envelope_body)
        )

    @rule()
    def reopen(self):
        if self.outbox:
            self.outbox.close()
        self.outbox = Outbox.open(
            self.folder / "outbox.db", clock=lambda: self.now, ballast_bytes=0
        )

    @rule(key=st.sampled_from("abcdef"), body=st.sampled_from([b"1", b"2"]))
    def record(self, key, body):
        receipt = self.outbox.record(("t", body), key=key)
        for row in self.rows:
            if (row.receipt.key, row.body) == (key, body):
                assert receipt == row.receipt
                return
        self.last_sequence += 1
        assert receipt == Receipt(key, self.epoch, self.last_sequence)
        self.rows.append(Row(receipt, body))

    def due(self):
        return [
            row
            for row in self.rows
            if row.state == "waiting" and (row.retry_at is None or row.retry_at <= self.now)
        ]

    @rule(count=st.integers(1, 4))
    def take(self, count):
        due = self.due()[:count]
        taken = self.outbox.take(max_events=count)
        assert [row.key for row in taken] == [row.receipt.key for row in due]
        self.taken += zip(taken, due, strict=True)

    @rule(data=st.data())
    def settle(self, data):
        count = data.draw(st.integers(0, len(self.taken)))
        batch, self.taken = self.taken[:count], self.taken[count:]
        outcomes = [data.draw(st.sampled_from(sorted(OUTCOMES))) for _ in batch]
        self.outbox.settle(
            [
                Settlement(row.id, outcome, 1, "h")
                for (row, _), outcome in zip(batch, outcomes, strict=True)
            ]
        )
        for (_, mine), outcome in zip(batch, outcomes, strict=True):
            if mine.state == "waiting":
                mine.state, mine.settled_at = outcome, self.now

    @rule(seconds=st.integers(0, 3600))
    def hold(self, seconds):
        until = self.now + timedelta(seconds=seconds)
        self.outbox.hold([row.id for row, _ in self.taken], until, "why")
        for _, mine in self.taken:
            if mine.state == "waiting":
                mine.retry_at = until

    @rule(seconds=st.integers(1, 10_000))
    def time_passes(self, seconds):
        self.now += timedelta(seconds=seconds)

    @rule(keep_seconds=st.sampled_from([0, 3600, DAY_SECONDS]))
    def prune(self, keep_seconds):
        oldest = self.now - timedelta(seconds=keep_seconds)
        gone = [
            row
            for row in self.rows
            if row.state in {"accepted", "duplicate"} and row.settled_at < oldest
        ]
        assert self.outbox.prune(keep_settled_seconds=keep_seconds) == len(gone)
        self.rows = [row for row in self.rows if row not in gone]

    @rule()
    def start_new_epoch(self):
        self.epoch = self.outbox.start_new_epoch()
        self.last_sequence = 0

    @rule()
    def checkpoint_and_mend(self):
        self.outbox.checkpoint()
        assert self.outbox.mend() == 0

    @invariant()
    def nothing_is_lost(self):
        states = [row.state for row in self.rows]
        summary = self.outbox.summary()
        assert summary.waiting == states.count("waiting")
        assert summary.settled == states.count("accepted") + states.count("duplicate")
        assert summary.dead_letters == states.count("conflict") + states.count("rejected")
        assert (summary.epoch, summary.last_sequence) == (self.epoch, self.last_sequence)
        assert len(list(self.outbox.waiting_envelopes())) == summary.waiting
        dead = [row.receipt.key for row in self.rows if row.state in {"conflict", "rejected"}]
        assert [letter.key for letter in self.outbox.dead_letters()] == dead


TestOutbox = OutboxMachine.TestCase
TestOutbox.__doc__ = """The cashier sells, the link comes and goes, the agent restarts, a year
passes in an afternoon: the outbox holds exactly what the list holds."""
TestOutbox.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
