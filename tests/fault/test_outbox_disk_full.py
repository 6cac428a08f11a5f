"""A full disk, for real: a small file system of its own, filled to the last byte."""

import json
import os
import subprocess
import sys

import pytest

from support.disks import fill_with_a_log, mounted_disk
from support.scripted_service import ScriptedService
from support.till import SECRET, Till
from tillsync.v1.retail_pb2 import Sale
from tillsync_agent import Outbox, OutboxFull
from tillsync_agent.ballast import free_bytes
from tillsync_agent.outbox import Settlement
from tillsync_agent.refresh_secret import RefreshSecret

BALLAST_BYTES = 512 * 1024


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB."""
    with mounted_disk(tmp_path / "disk", mebibytes=3) as disk:
        yield disk


def open_outbox(disk):
    return Outbox.open(disk / "outbox.db", ballast_bytes=BALLAST_BYTES)


def a_sale():
    return Sale(receipt_number="1", total_minor=1250, cashier_id="c" * 500)


def fill(disk):
    """Another program's log eats what is left."""
    fill_with_a_log(disk)
    assert free_bytes(disk) == 0


def sell_until_full(outbox):
    receipts = []
    refusal = None
    while refusal is None:
        try:
            receipts.append(outbox.record(a_sale()))
        except OutboxFull as error:
            refusal = error
    assert "free some space" in str(refusal).lower()
    return receipts


def everything(outbox):
    return outbox.take(max_events=100_000, max_bytes=2**40)


def accepted(rows):
    return [Settlement(row.id, "accepted", 1, "history-1") for row in rows]


def test_cashier_hears_that_the_disk_is_full_and_no_sale_is_lost(small_disk):
    """The disk fills up while selling: the program is told what to do, every receipt that was
    given is still good, and once there is room the numbers go on without a hole."""
    with open_outbox(small_disk) as outbox:
        receipts = sell_until_full(outbox)
        assert [row.key for row in everything(outbox)] == [receipt.key for receipt in receipts]

    with open_outbox(small_disk) as outbox:
        assert len(everything(outbox)) == len(receipts)
        (small_disk / "outbox.db.ballast").unlink()  # stands for the person who frees space
        assert outbox.record(a_sale()).sequence == len(receipts) + 1


def test_acknowledged_sales_are_settled_on_a_full_disk(small_disk):
    """Not one byte is free and head office has answered: the ballast makes room for writing it
    down, so that the same sales are not sent for ever."""
    with open_outbox(small_disk) as outbox:
        sell_until_full(outbox)
        fill(small_disk)

        while waiting := outbox.take():
            outbox.settle(accepted(waiting))

        assert outbox.summary().waiting == 0
        assert outbox.disk_is_full


def test_pruning_on_a_full_disk_makes_room_for_sales(small_disk):
    """Not one byte is free, but head office has everything: the till forgets what it may, and
    sells again without anybody's help."""
    with open_outbox(small_disk) as outbox:
        sell_until_full(outbox)
        fill(small_disk)
        while waiting := outbox.take():
            outbox.settle(accepted(waiting))

        outbox.prune(keep_settled_seconds=-1)
        outbox.checkpoint()
        fill(small_disk)

        for _ in range(50):
            outbox.record(a_sale())


def test_without_ballast_a_full_disk_would_stop_settling(small_disk):
    """Why there is ballast: the same without it ends in OutboxFull, and nothing is lost."""
    with Outbox.open(small_disk / "outbox.db", ballast_bytes=0) as outbox:
        receipts = sell_until_full(outbox)
        fill(small_disk)

        with pytest.raises(OutboxFull):
            outbox.settle(accepted(everything(outbox)))

        assert len(everything(outbox)) == len(receipts)


async def test_a_full_disk_drains_though_the_secret_is_a_day_old(small_disk):
    """The shopkeeper's till is started after a weekend with not one byte free: the next secret
    cannot be kept, so the present one stays in use, and the sales get out all the same."""
    async with ScriptedService() as service:
        till = Till(small_disk, service)
        till.settings.secret_path.write_text(json.dumps({"current": SECRET.hex()}))
        with open_outbox(small_disk) as outbox:
            sell_until_full(outbox)
            sold = [row.key for row in everything(outbox)]
            fill(small_disk)

            await till.drained(outbox=outbox)

            fill(small_disk)
            assert list(service.stored) == sold
            assert outbox.summary().waiting == 0
        till.close()

    assert RefreshSecret(till.settings.secret_path).to_show()[0] == SECRET


def test_ballast_takes_real_room_but_not_the_last(small_disk):
    """The ballast is there when it can be afforded, and does not itself fill the disk."""
    ballast = small_disk / "outbox.db.ballast"
    with (small_disk / "other.log").open("wb") as file:
        file.write(bytes(3 * 1024 * 1024 - 3 * BALLAST_BYTES // 2))
    with open_outbox(small_disk) as outbox:
        assert outbox.disk_is_full
        assert not ballast.exists()
        outbox.record(a_sale())

        (small_disk / "other.log").unlink()
        outbox.checkpoint()

        assert not outbox.disk_is_full
        assert ballast.stat().st_blocks * 512 >= BALLAST_BYTES, "it takes no room"


def test_opening_on_a_full_disk_says_that_it_is_full(small_disk):
    """A till is switched on with a full disk: it says so instead of "cannot open"."""
    fill(small_disk)

    with pytest.raises(OutboxFull):
        open_outbox(small_disk)


def test_opening_with_a_backlog_on_a_full_disk_settles_it(small_disk):
    """A till is restarted with a full disk: what waits is sent and settled all the same."""
    with open_outbox(small_disk) as outbox:
        for _ in range(100):
            outbox.record(a_sale())
    fill(small_disk)

    with open_outbox(small_disk) as outbox:
        outbox.settle(accepted(outbox.take()))
        assert outbox.summary().waiting == 0


def test_what_was_recorded_without_an_agent_is_settled_on_a_full_disk(tmp_path):
    """Nobody has checkpointed: the log holds more than the ballast, and still the agent that comes
    at last gets through."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("needs root on Linux, to mount a small file system")
    disk = tmp_path / "larger-disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a file system")
    try:
        with Outbox.open(disk / "outbox.db") as outbox:
            refused = False
            while not refused:
                try:
                    outbox.record(("t/x", os.urandom(8_000)))
                except OutboxFull:
                    refused = True
            fill(disk)

            outbox.checkpoint()
            while waiting := outbox.take():
                outbox.settle(accepted(waiting))

            assert outbox.summary().waiting == 0
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
