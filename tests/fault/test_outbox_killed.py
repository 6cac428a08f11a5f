"""Programs that die without a word, and many that record at once."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
from itertools import pairwise

import pytest

from tillsync.v1.event_pb2 import Event
from tillsync.v1.retail_pb2 import Sale
from tillsync_agent import Outbox, OutboxInUse
from tillsync_agent.outbox import Settlement

SELLER = """
import sys
from tillsync.v1.retail_pb2 import Sale
from tillsync_agent import Outbox
outbox = Outbox.open(sys.argv[1], ballast_bytes=0)
while True:
    print(outbox.record(Sale(receipt_number="1")).key, flush=True)
"""
AGENT = """
import sys
from tillsync_agent import Outbox
with Outbox.open(sys.argv[1], ballast_bytes=0) as outbox, outbox.agent_lock():
    print("sending", flush=True)
    sys.stdin.read()
"""
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="uses SIGKILL")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "outbox.db"


def start(program, path):
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().splitlines()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    return rest


def events_waiting(outbox):
    rows = outbox.take(max_events=1_000_000, max_bytes=2**40)
    return [Event.FromString(row.envelope) for row in rows]


def test_till_killed_while_it_sells_keeps_every_receipt(path):
    """The power goes while the cashier sells, again and again: every receipt that the program
    was given is in the outbox, and the numbers run without a hole."""
    choose = random.Random(20261122)
    receipts = []
    for _ in range(12):
        seller = start(SELLER, path)
        receipts += [seller.stdout.readline().strip() for _ in range(choose.randint(1, 40))]
        # The last line may be cut in two by the death; then nobody holds that receipt.
        receipts += [line for line in kill(seller) if len(line) == len(receipts[0])]

    with Outbox.open(path, ballast_bytes=0) as outbox:
        events = events_waiting(outbox)
        assert set(receipts) <= {event.key for event in events}
        assert [event.device_sequence for event in events] == list(range(1, len(events) + 1))
        assert outbox.record(Sale()).sequence == len(events) + 1
    assert not list(path.parent.glob("*set-aside*"))


def _sell(path, till, count):
    with Outbox.open(path, ballast_bytes=0, busy_timeout_seconds=60) as outbox:
        for number in range(count):
            outbox.record(Sale(receipt_number=f"{till}-{number}"), key=f"{till}-{number}")


def test_many_tills_and_one_agent_share_an_outbox(path):
    """Four programs sell while the agent sends: each sale is sent exactly once, in the order of
    its number, and no number is missing or double."""
    tills, each = 4, 60
    context = multiprocessing.get_context("spawn")
    sellers = [context.Process(target=_sell, args=(path, till, each)) for till in range(tills)]
    sent = []
    with Outbox.open(path, ballast_bytes=0, busy_timeout_seconds=60) as outbox:
        for seller in sellers:
            seller.start()
        while len(sent) < tills * each and (outbox.take() or any(s.is_alive() for s in sellers)):
            rows = outbox.take(max_events=20)
            outbox.settle([Settlement(row.id, "accepted", 1, "h") for row in rows])
            outbox.checkpoint()
            sent += [Event.FromString(row.envelope) for row in rows]
        for seller in sellers:
            seller.join()

        assert [seller.exitcode for seller in sellers] == [0] * tills
        assert [event.device_sequence for event in sent] == list(range(1, tills * each + 1))
        assert len({event.key for event in sent}) == tills * each
        assert outbox.summary().waiting == 0


def test_second_agent_refuses_and_names_the_first(path):
    """Somebody starts the agent twice: the second says who is sending, and sends nothing."""
    first = start(AGENT, path)
    assert first.stdout.readline() == "sending\n"
    with (
        Outbox.open(path, ballast_bytes=0) as outbox,
        pytest.raises(OutboxInUse) as refusal,
        outbox.agent_lock(),
    ):
        pass

    assert refusal.value.pid == first.pid
    assert str(path) in str(refusal.value)
    kill(first)


def test_agent_starts_again_after_the_first_was_killed(path):
    """The agent is killed: the next one starts at once, no stale lock is in its way."""
    first = start(AGENT, path)
    assert first.stdout.readline() == "sending\n"
    kill(first)

    with Outbox.open(path, ballast_bytes=0) as outbox, outbox.agent_lock():
        pass


def test_agent_killed_between_answer_and_settling_sends_again(path):
    """The agent dies with the answer in its hand: after the restart the same sales, in the same
    order and byte for byte, are offered again."""
    with Outbox.open(path, ballast_bytes=0) as outbox:
        for number in range(5):
            outbox.record(Sale(receipt_number=str(number)))
        taken = outbox.take()

    with Outbox.open(path, ballast_bytes=0) as outbox:
        assert outbox.take() == taken


def test_cloned_outbox_goes_on_under_another_epoch(path):
    """A disk image is copied to a second till: once told, it numbers as another outbox, and the
    sales from before the copy stay."""
    with Outbox.open(path, ballast_bytes=0) as original:
        original.record(Sale(receipt_number="1"))
    clone_path = path.with_name("clone.db")
    clone_path.write_bytes(path.read_bytes())

    with (
        Outbox.open(path, ballast_bytes=0) as original,
        Outbox.open(clone_path, ballast_bytes=0) as clone,
    ):
        assert clone.epoch == original.epoch
        clone.start_new_epoch()
        ours, theirs = (outbox.record(Sale(receipt_number="2")) for outbox in (original, clone))

        assert (ours.epoch, ours.sequence) != (theirs.epoch, theirs.sequence)
        assert len(clone.take()) == 2
        keys = [row.key for row in clone.take()]
        assert all(older < newer for older, newer in pairwise(keys))
