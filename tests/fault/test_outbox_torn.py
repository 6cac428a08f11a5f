"""Power cuts, bad sectors, wrong files: what lies at the outbox's path is no outbox."""

import logging
import multiprocessing
import os
import shutil
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from support.scripted_service import ScriptedService
from support.till import Till, until
from tillsync.v1.event_pb2 import Event
from tillsync.v1.retail_pb2 import Sale
from tillsync_agent import Outbox, OutboxBusy, OutboxTooNew, OutboxUnavailable, outboxfile, storage
from tillsync_agent.outbox import Settlement

PAGE = 4096


@pytest.fixture
def path(tmp_path):
    return tmp_path / "outbox.db"


def open_outbox(path, *, ballast_bytes=0, **settings):
    return Outbox.open(path, ballast_bytes=ballast_bytes, **settings)


def a_sale(number=1):
    return Sale(receipt_number=str(number), total_minor=1250, cashier_id="c" * 300)


def filled(path, count=200):
    """A closed outbox with so many sales, all in the database and none in its log."""
    with open_outbox(path) as outbox:
        return [outbox.record(a_sale(n)) for n in range(count)]


def set_aside(path):
    found = path.parent.glob("outbox.db.set-aside-*")
    return sorted(aside for aside in found if not aside.name.endswith(("-wal", "-shm")))


def keys_waiting(outbox):
    return [row.key for row in outbox.take(max_events=100_000, max_bytes=2**40)]


def leaves_of(path, table):
    with sqlite3.connect(path) as connection:
        query = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path"
        return [page for (page,) in connection.execute(query, (table,))]


def tear(path, page):
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(b"\xa5" * PAGE)


def garbage(path):
    path.write_bytes(os.urandom(50_000))


def few_bytes(path):
    path.write_bytes(b"\0\0\0")


def cut_short(path):
    filled(path)
    with path.open("r+b") as file:
        file.truncate(PAGE * 3 + 100)


def first_page_gone(path):
    filled(path)
    tear(path, 1)


def another_programs(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (name)")


def without_counter(path):
    filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM tillsync_counter")


@pytest.mark.parametrize(
    "spoil",
    [garbage, few_bytes, cut_short, first_page_gone, another_programs, without_counter],
)
def test_selling_goes_on_in_a_new_file(path, caplog, spoil):
    """The till starts and its outbox is unusable: the file is put aside, the log names it, and
    the next sale is recorded."""
    spoil(path)
    content = path.read_bytes()

    with open_outbox(path) as outbox:
        assert outbox.record(a_sale()).sequence == 1

    [aside] = set_aside(path)
    assert aside.read_bytes() == content
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert str(aside) in warning.message


def test_log_of_a_torn_file_is_put_aside_with_it(path):
    """The newest sales of a torn file are in its log, which another program still has open: the
    log goes with the file, and not into the new one."""
    filled(path)
    old = open_outbox(path)
    old.record(a_sale(), key="only in the log")
    tear(path, 1)

    with open_outbox(path) as new:
        assert keys_waiting(new) == []

    [aside] = set_aside(path)
    assert b"only in the log" in aside.with_name(aside.name + "-wal").read_bytes()
    old.close()


def test_power_cut_in_the_middle_of_a_write_loses_no_returned_receipt(path):
    """The log ends in the middle of a frame: what was acknowledged to the cashier before is
    there, and the numbers go on without a hole."""
    outbox = open_outbox(path)
    first = outbox.record(a_sale(1))
    length = path.with_name("outbox.db-wal").stat().st_size
    outbox.record(a_sale(2))
    image = path.parent / "image"
    image.mkdir()
    for name in ("outbox.db", "outbox.db-wal"):
        shutil.copy(path.with_name(name), image / name)
    outbox.close()
    with (image / "outbox.db-wal").open("r+b") as log:
        log.truncate(length + 1000)

    with open_outbox(image / "outbox.db") as cut:
        assert keys_waiting(cut) == [first.key]
        assert cut.record(a_sale(3)).sequence == 2
    assert set_aside(image / "outbox.db") == []


def test_sale_is_recorded_although_the_file_goes_bad_while_the_till_runs(path):
    """A sector dies under a running till: the cashier notices nothing, the sale is recorded."""
    filled(path)
    tear(path, leaves_of(path, "tillsync_event_for_record")[-1])

    with open_outbox(path) as outbox:
        receipt = outbox.record(a_sale(), key="z" * 200)
        assert keys_waiting(outbox) == [receipt.key]

    assert len(set_aside(path)) == 1


@pytest.mark.parametrize("table", ["tillsync_event", "tillsync_event_for_take"])
def test_readable_sales_of_a_torn_file_are_brought_back(path, table):
    """One sector of the outbox dies. The agent finds it, puts the file aside, and all sales but
    those of that sector go to head office, under their own old numbers."""
    receipts = filled(path)
    leaves = leaves_of(path, table)
    tear(path, leaves[len(leaves) // 2])

    with open_outbox(path) as outbox:
        outbox.record(a_sale(), key="new")
        back = outbox.mend()

        waiting = outbox.take(max_events=1000, max_bytes=2**40)
        numbers = {row.key: Event.FromString(row.envelope) for row in waiting}
        least = len(receipts) if table == "tillsync_event_for_take" else len(receipts) - 20
        assert least <= back <= len(receipts) + 1
        assert "new" in numbers
        for receipt in receipts:
            if receipt.key in numbers:
                event = numbers[receipt.key]
                assert (event.outbox_epoch, event.device_sequence) == (
                    receipt.epoch,
                    receipt.sequence,
                )
        assert outbox.mend() == 0, "brought back twice"
        assert len(outbox.take(max_events=1000, max_bytes=2**40)) == len(waiting)


async def test_a_file_set_aside_that_cannot_be_opened_stops_no_till(tmp_path, caplog):
    """What was set aside lies on dead sectors, or is another account's: the shopkeeper's agent says
    so and sends what there is, and brings the rest back once the file can be opened."""
    async with ScriptedService() as service:
        till = Till(tmp_path, service)
        rescued = filled(tmp_path / "elsewhere.db", count=3)
        aside = tmp_path / "outbox.db.set-aside-20260101T000000.000000Z"
        aside.mkdir()  # stands for a file that cannot be opened
        till.record()
        async with till.agent():
            await until(lambda: "waits to be brought back" in caplog.text)
            await until(lambda: len(service.stored) == 1)
        aside.rmdir()
        (tmp_path / "elsewhere.db").rename(aside)

        async with till.agent():
            await until(lambda: len(service.stored) == 4)
        till.close()

    assert {receipt.key for receipt in rescued} <= set(service.stored)


def test_sound_file_is_left_alone(path):
    """The agent looks its outbox over every day: a sound one stays where it is."""
    filled(path)

    with open_outbox(path) as outbox:
        assert outbox.mend() == 0

    assert set_aside(path) == []


def test_answer_to_a_batch_of_the_torn_file_settles_no_new_sale(path):
    """A batch is under way when the file goes bad. Its answer comes after a new sale: the new
    sale is not taken for an acknowledged one."""
    filled(path, count=3)
    with open_outbox(path) as outbox:
        taken = outbox.take()
        tear(path, leaves_of(path, "tillsync_event_for_record")[0])
        with open_outbox(path) as till:
            receipts = [till.record(a_sale(n), key=f"new-{n}") for n in range(3)]

        outbox.settle([Settlement(row.id, "accepted", 1, "h") for row in taken])

        assert keys_waiting(outbox) == [receipt.key for receipt in receipts]


def test_program_that_holds_the_old_file_follows_to_the_new_one(path):
    """Two tills' programs share an outbox, one sets it aside: the other's next sale is in the
    new file, and its leaving does not take the new file's log away."""
    old = open_outbox(path)
    old.record(a_sale(1), key="before")
    path.rename(path.with_name("outbox.db.set-aside-x"))
    path.with_name("outbox.db-wal").rename(path.with_name("outbox.db.set-aside-x-wal"))
    path.with_name("outbox.db-shm").rename(path.with_name("outbox.db.set-aside-x-shm"))
    new = open_outbox(path)
    new.record(a_sale(2), key="first in the new file")

    old.record(a_sale(3), key="after")
    old.close()

    assert keys_waiting(new) == ["first in the new file", "after"]
    assert path.with_name("outbox.db-wal").exists()
    new.close()


def test_program_that_comes_late_does_not_put_the_new_file_aside(path):
    """Two programs meet the same bad sector; one has already begun a new file when the other
    wants to: the other joins it, and the sale in it stays."""
    late = open_outbox(path)
    first = open_outbox(path)
    first._file._replace("bad sector")
    first.record(a_sale(), key="in the new file")

    late._file._replace("bad sector")

    assert len(set_aside(path)) == 1
    assert keys_waiting(late) == ["in the new file"]
    late.close()
    first.close()


def test_file_that_was_replaced_while_a_sale_was_written_gets_the_sale(path, monkeypatch):
    """The file is set aside between a sale's write and its receipt: the sale is in the new file
    before the cashier gets the receipt."""
    outbox = open_outbox(path)
    genuine = storage.transaction

    def replaced_after(connection, work, begin):
        result = genuine(connection, work, begin)
        monkeypatch.setattr("tillsync_agent.outboxfile.transaction", genuine)
        path.rename(path.with_name("outbox.db.set-aside-x"))
        path.with_name("outbox.db-wal").rename(path.with_name("outbox.db.set-aside-x-wal"))
        return result

    monkeypatch.setattr("tillsync_agent.outboxfile.transaction", replaced_after)
    receipt = outbox.record(a_sale(), key="k")

    with open_outbox(path) as new:
        assert keys_waiting(new) == ["k"]
        assert new.epoch == receipt.epoch
    outbox.close()


def _open_and_sell(path, number, start):
    start.wait()
    with open_outbox(path) as outbox:
        outbox.record(a_sale(), key=f"till-{number}")


def test_programs_that_find_the_torn_file_at_once_share_one_new_file(path):
    """Four programs start after a power cut: one puts the file aside, and all four sales are in
    the one new file."""
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        for leftover in path.parent.glob("*"):
            leftover.unlink()
        garbage(path)
        start = context.Barrier(4)
        tills = [
            context.Process(target=_open_and_sell, args=(path, number, start))
            for number in range(4)
        ]
        for till in tills:
            till.start()
        for till in tills:
            till.join()

        assert [till.exitcode for till in tills] == [0] * 4
        assert len(set_aside(path)) == 1
        with open_outbox(path) as outbox:
            assert sorted(keys_waiting(outbox)) == [f"till-{number}" for number in range(4)]


def test_file_of_a_later_release_is_refused_and_left_alone(path):
    """Somebody starts an old program by mistake: it says "update me" and touches nothing."""
    filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
        # As a later release might: this is not corruption, although nothing here is known.
        connection.execute("DROP TABLE tillsync_counter")
    content = path.read_bytes()

    with pytest.raises(OutboxTooNew, match="update"):
        open_outbox(path)

    assert path.read_bytes() == content
    assert set_aside(path) == []


def with_step(sql):
    """The layout of a later release, with one more step."""
    return replace(outboxfile.OUTBOX, migrations=(*outboxfile.OUTBOX.migrations, sql))


def test_update_of_the_agent_keeps_the_backlog(path, monkeypatch):
    """Ten thousand tills get a release with a new layout: what waited still waits."""
    receipts = filled(path)
    column = "ALTER TABLE tillsync_event ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue';"
    monkeypatch.setattr(outboxfile, "OUTBOX", with_step(column))

    with open_outbox(path) as outbox:
        assert keys_waiting(outbox) == [receipt.key for receipt in receipts]
        assert outbox.record(a_sale()).sequence == len(receipts) + 1

    monkeypatch.undo()
    with pytest.raises(OutboxTooNew):
        open_outbox(path)


def test_update_that_fails_leaves_the_file_as_it_was(path, monkeypatch):
    """The power goes in the middle of an update: the old release still finds its backlog."""
    receipts = filled(path)
    broken = "CREATE TABLE half (x); CREATE TABLE half (x);"
    monkeypatch.setattr(outboxfile, "OUTBOX", with_step(broken))
    with pytest.raises(OutboxUnavailable, match="half"):
        open_outbox(path)
    monkeypatch.undo()

    with open_outbox(path) as outbox:
        assert len(keys_waiting(outbox)) == len(receipts)
    assert set_aside(path) == []


def test_file_that_another_program_holds_is_not_taken_for_torn(path):
    """A backup program holds the outbox: the till says "busy", and the file stays in place."""
    receipts = filled(path)
    with open_outbox(path, busy_timeout_seconds=0.05) as outbox:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")

        with pytest.raises(OutboxBusy):
            outbox.record(a_sale())

        holder.execute("ROLLBACK")
        holder.close()
        assert len(keys_waiting(outbox)) == len(receipts)
    assert set_aside(path) == []


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to become somebody else"
)
def test_file_that_may_not_be_read_is_not_taken_for_torn(path):
    """The outbox belongs to another user: the till says so, and the file stays in place."""
    filled(path)
    for folder in (path.parent, *path.parent.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o077 if folder == path.parent else 0o755)
    path.chmod(0o600)
    nobody = 65534
    os.seteuid(nobody)
    try:
        with pytest.raises(OutboxUnavailable, match=r"open"):
            open_outbox(path)
    finally:
        os.seteuid(0)

    assert set_aside(path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows says this in another way")
def test_folder_at_the_path_is_named(path):
    """The setting names a folder by mistake: the error says which path is meant."""
    path.mkdir()

    with pytest.raises(OutboxUnavailable, match=r"outbox\.db"):
        open_outbox(path)


@pytest.mark.parametrize("spoil", [garbage, few_bytes, another_programs])
def test_a_file_that_never_was_an_outbox_is_left_alone(tmp_path, spoil):
    """Somebody mistyped the path, and it is the point of sale's own database: it stays where it is,
    as it is, and the message names it."""
    path = tmp_path / "pos.sqlite"
    spoil(path)
    content = path.read_bytes()

    with pytest.raises(OutboxUnavailable, match=r"pos\.sqlite is no outbox .*path of its own"):
        open_outbox(path)

    assert path.read_bytes() == content
    assert list(tmp_path.glob("*set-aside*")) == []


def test_an_outbox_of_another_name_is_replaced_when_it_goes_bad(tmp_path):
    """Where an outbox has lived, selling goes on in a new one, whatever its name."""
    path = tmp_path / "till-3.sqlite"
    with open_outbox(path, ballast_bytes=4096) as outbox:
        outbox.record(a_sale())
    garbage(path)

    with open_outbox(path, ballast_bytes=4096) as outbox:
        assert outbox.record(a_sale()).sequence == 1

    assert len(list(tmp_path.glob("till-3.sqlite.set-aside-*"))) == 1
