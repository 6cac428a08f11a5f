"""A backlog of ten days must cost no more per batch than one of ten minutes."""

import sqlite3
import tracemalloc

import pytest

from tillsync_agent import Outbox
from tillsync_agent import statements as sql
from tillsync_agent.outbox import Settlement


@pytest.fixture
def path(tmp_path):
    return tmp_path / "outbox.db"


@pytest.fixture
def outbox(path):
    with Outbox.open(path, ballast_bytes=0) as outbox:
        yield outbox


def add_rows(path, count, state):
    """As many events as it takes, faster than by recording each."""
    with sqlite3.connect(path) as connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO tillsync_event"
            " (id, epoch, sequence, key, digest, recorded_at, bytes, state, settled_at, envelope)"
            " SELECT c.last_id + i, 1, i, c.last_id + i, x'00', 0, 300, ?, i, zeroblob(300)"
            " FROM n, tillsync_counter c",
            (count, state),
        )
        connection.execute("UPDATE tillsync_counter SET last_id = last_id + ?", (count,))
    connection.close()


def steps_of(outbox, action):
    """How much work SQLite did, in its own steps: a measure that no busy machine disturbs."""
    count = 0

    def step():
        nonlocal count
        count += 1

    outbox._file._connection.set_progress_handler(step, 100)
    action()
    outbox._file._connection.set_progress_handler(None, 0)
    return count * 100


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (sql.FIND, "tillsync_event_for_record"),
        (sql.TAKE, "tillsync_event_for_take"),
        (sql.WAITING, "COVERING INDEX tillsync_event_for_take"),
        (sql.RESCUE_IDS, "COVERING INDEX tillsync_event_for_take"),
        (sql.SETTLE, "INTEGER PRIMARY KEY"),
        (sql.HOLD, "INTEGER PRIMARY KEY"),
        (sql.DELETE, "INTEGER PRIMARY KEY"),
        (sql.OLDEST_SETTLED, "COVERING INDEX tillsync_event_for_prune"),
        (sql.SETTLED, "COVERING INDEX tillsync_event_for_prune"),
        (sql.DEAD, "COVERING INDEX tillsync_event_for_dead_letters"),
        (sql.DEAD_LETTERS, "tillsync_event_for_dead_letters"),
    ],
)
@pytest.mark.usefixtures("outbox")
def test_statement_uses_the_index_made_for_it(path, statement, index):
    """An old till's disk is not read from end to end for one sale."""
    with sqlite3.connect(path) as connection:
        arguments = (0,) * statement.count("?")
        plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", arguments).fetchall()
    connection.close()

    assert index in plan[0][3]
    assert "TEMP B-TREE" not in str(plan)


def test_batch_costs_the_same_however_much_waits_or_is_settled(outbox, path):
    """After ten days offline, with months of settled sales before them, each batch of the backlog
    is taken and settled with the same work as the first batch of a new till."""
    add_rows(path, 1500, "waiting")

    def take_and_settle():
        rows = outbox.take()
        assert len(rows) == 500
        outbox.settle([Settlement(row.id, "accepted", 1, "h") for row in rows])

    fresh = steps_of(outbox, take_and_settle)
    outbox.settle(
        [
            Settlement(row.id, "accepted", 1, "h")
            for row in outbox.take(max_events=1000, max_bytes=2**40)
        ]
    )
    add_rows(path, 50_000, "accepted")
    add_rows(path, 100_000, "waiting")

    assert steps_of(outbox, take_and_settle) < 1.2 * fresh


def test_export_of_a_long_backlog_takes_little_memory(outbox, path):
    """A till with 64 MB of memory left exports 30,000 sales to a USB stick."""
    add_rows(path, 30_000, "waiting")
    tracemalloc.start()
    try:
        assert sum(1 for _ in outbox.waiting_envelopes()) == 30_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2_000_000
