"""The outbox inside the point of sale's own database: the sale and its event, both or neither."""

import sqlite3

import pytest

from tillsync.v1.retail_pb2 import Sale
from tillsync_agent import JoinRefused, Outbox, OutboxBusy, OutboxTooNew, OutboxUnavailable
from tillsync_agent.outbox import Settlement

SALE = Sale(receipt_number="1", total_minor=1250)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pos.db"


@pytest.fixture
def pos(path):
    """The point of sale's own connection, as a careful program opens it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA user_version = 42")
    connection.execute("PRAGMA application_id = 77")
    connection.execute("CREATE TABLE receipts (number)")
    yield connection
    connection.close()


@pytest.fixture
def outbox(pos):
    with Outbox.join(pos) as outbox:
        yield outbox


def keys_waiting(outbox):
    return [row.key for row in outbox.take()]


def test_sale_and_event_are_committed_together(pos, outbox):
    """The cashier finishes a sale: the point of sale's row and our event are both there."""
    pos.execute("BEGIN")
    pos.execute("INSERT INTO receipts VALUES (1)")
    receipt = outbox.record(SALE, connection=pos)
    assert keys_waiting(outbox) == [], "visible before the commit"
    pos.execute("COMMIT")

    assert keys_waiting(outbox) == [receipt.key]
    assert receipt.sequence == 1


def test_cancelled_sale_takes_its_event_and_its_number_back(pos, outbox):
    """The cashier cancels: no event, and no hole that head office would ask about."""
    pos.execute("BEGIN")
    pos.execute("INSERT INTO receipts VALUES (1)")
    outbox.record(SALE, connection=pos)
    pos.execute("ROLLBACK")

    assert keys_waiting(outbox) == []
    pos.execute("BEGIN")
    assert outbox.record(SALE, connection=pos).sequence == 1
    pos.execute("COMMIT")


def test_event_that_fails_leaves_the_transaction_usable(pos, outbox, monkeypatch):
    """Our part of a sale fails: the point of sale may still commit its own part, and nothing of
    ours is half there."""
    pos.execute("BEGIN")
    pos.execute("INSERT INTO receipts VALUES (1)")
    with monkeypatch.context() as broken:
        broken.setattr("tillsync_agent.statements.INSERT", "INSERT INTO no_such_table VALUES (1)")
        with pytest.raises(OutboxUnavailable, match="no_such_table"):
            outbox.record(SALE, connection=pos)
    pos.execute("COMMIT")

    assert pos.execute("SELECT count(*) FROM receipts").fetchone() == (1,)
    assert outbox.record(SALE).sequence == 1, "the failed event took a number"


def test_settings_of_the_point_of_sale_are_left_alone(path, pos):
    """The point of sale's vendor finds the file exactly as he set it."""

    def settings():
        names = ("journal_mode", "user_version", "application_id", "auto_vacuum", "page_size")
        found = {name: pos.execute(f"PRAGMA {name}").fetchone() for name in names}
        own = ("synchronous", "wal_autocheckpoint", "foreign_keys", "busy_timeout")
        return found | {name: pos.execute(f"PRAGMA {name}").fetchone() for name in own}

    pos.execute("PRAGMA journal_mode = DELETE")
    before = settings()

    with Outbox.join(pos) as outbox:
        outbox.record(SALE)
        outbox.checkpoint()
        outbox.prune()
        assert outbox.mend() == 0

    assert settings() == before
    names = {found.name for found in path.parent.iterdir()}
    assert names <= {"pos.db", "pos.db-wal", "pos.db-shm", "pos.db.setup-lock"}


def test_agent_sends_from_a_joined_outbox_by_its_path(path, pos, outbox):
    """The agent runs beside the point of sale and needs only the file's path."""
    pos.execute("BEGIN")
    receipt = outbox.record(SALE, connection=pos)
    pos.execute("COMMIT")

    with Outbox.join(path) as agent:
        [row] = agent.take()
        agent.settle([Settlement(row.id, "accepted", 1, "h")])
        assert (row.key, agent.epoch) == (receipt.key, receipt.epoch)

    assert outbox.summary().settled == 1


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_join_is_refused_where_a_power_cut_could_take_a_sale(pos, synchronous):
    """The point of sale trades safety for speed: we say so instead of losing a sale quietly."""
    pos.execute(f"PRAGMA synchronous = {synchronous}")

    with pytest.raises(JoinRefused, match="synchronous"):
        Outbox.join(pos)


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_sale_is_refused_on_a_connection_that_became_weaker(pos, outbox, synchronous):
    """Another connection of the program is less careful than the one that joined: refused."""
    pos.execute(f"PRAGMA synchronous = {synchronous}")
    pos.execute("BEGIN")

    with pytest.raises(JoinRefused, match="synchronous"):
        outbox.record(SALE, connection=pos)


@pytest.mark.parametrize("mode", ["MEMORY", "OFF"])
def test_join_is_refused_without_a_journal(tmp_path, mode):
    """Without a journal on disk a power cut tears the point of sale's file: refused."""
    connection = sqlite3.connect(tmp_path / "careless.db", isolation_level=None)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("CREATE TABLE receipts (number)")

    with pytest.raises(JoinRefused, match="journal_mode"):
        Outbox.join(connection)
    connection.close()


def test_sale_is_refused_without_an_open_transaction(pos, outbox):
    """The program forgot BEGIN: it hears so, instead of a commit it did not ask for."""
    with pytest.raises(JoinRefused, match="BEGIN"):
        outbox.record(SALE, connection=pos)

    assert keys_waiting(outbox) == []


def test_join_is_refused_in_the_middle_of_a_transaction(pos):
    """Making our tables must not depend on whether the first sale is cancelled."""
    pos.execute("BEGIN")

    with pytest.raises(JoinRefused, match="before"):
        Outbox.join(pos)


def test_sale_is_refused_on_a_connection_to_another_file(tmp_path, outbox):
    """The program mixes up two databases: it hears so, before a sale is in the wrong one."""
    other = sqlite3.connect(tmp_path / "other.db", isolation_level=None)
    other.execute("CREATE TABLE receipts (number)")
    other.execute("BEGIN")

    with pytest.raises(JoinRefused, match=r"pos\.db"):
        outbox.record(SALE, connection=other)
    other.close()


def test_join_is_refused_in_memory_and_where_there_is_no_file(tmp_path):
    """A database in memory, or a misspelt path, would lose every sale: refused."""
    memory = sqlite3.connect(":memory:", isolation_level=None)
    with pytest.raises(JoinRefused, match="memory"):
        Outbox.join(memory)
    memory.close()

    with pytest.raises(JoinRefused, match="does not exist"):
        Outbox.join(tmp_path / "misspelt.db")
    assert list(tmp_path.iterdir()) == []


def test_outbox_of_its_own_takes_no_part_in_a_transaction(tmp_path, pos):
    """A commit over two files is not one commit: refused, instead of almost always right."""
    with Outbox.open(tmp_path / "outbox.db", ballast_bytes=0) as own:
        pos.execute("BEGIN")
        with pytest.raises(JoinRefused, match="join"):
            own.record(SALE, connection=pos)


def test_odd_settings_of_the_connection_do_not_matter(pos, outbox):
    """The program reads rows as dictionaries and texts as bytes: our part does not mind."""
    pos.row_factory = lambda _, row: {"row": row}
    pos.text_factory = bytes
    pos.execute("BEGIN")
    receipt = outbox.record(SALE, key="k", connection=pos)
    assert outbox.record(SALE, key="k", connection=pos) == receipt
    pos.execute("COMMIT")

    with Outbox.join(pos) as again:
        assert keys_waiting(again) == ["k"]


def test_joining_twice_keeps_epoch_and_numbers(pos, outbox):
    """The program restarts: its sales are numbered on."""
    first = outbox.record(SALE)

    with Outbox.join(pos) as again:
        second = again.record(SALE)

    assert (second.epoch, second.sequence) == (first.epoch, 2)


def test_busy_point_of_sale_says_so(pos):
    """Another till's long transaction is in the way: "busy", and its own is untouched."""
    with Outbox.join(pos, busy_timeout_seconds=0.05) as outbox:
        pos.execute("BEGIN IMMEDIATE")
        pos.execute("INSERT INTO receipts VALUES (1)")

        with pytest.raises(OutboxBusy):
            outbox.record(SALE)

        pos.execute("COMMIT")
        assert pos.execute("SELECT count(*) FROM receipts").fetchone() == (1,)


def test_torn_file_of_the_point_of_sale_is_never_renamed(path, pos):
    """The point of sale's own file is torn: that is its vendor's to mend, we only say so."""
    pos.close()
    path.write_bytes(b"garbage" * 1000)

    with pytest.raises(OutboxUnavailable, match="not a database"):
        Outbox.join(path)

    assert path.read_bytes() == b"garbage" * 1000
    assert not list(path.parent.glob("*set-aside*"))


def test_tables_of_a_later_release_are_refused_and_left_alone(pos, outbox):
    """An old program meets tables of a new one: "update me"."""
    outbox.record(SALE)
    pos.execute("UPDATE tillsync_note SET value = '99' WHERE name = 'schema_version'")

    with pytest.raises(OutboxTooNew, match="update"):
        Outbox.join(pos)
