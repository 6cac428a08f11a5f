"""Tills that die while they receive and edit."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from support.copies import STORE, a_block, a_checkpoint, a_load, changes
from tillsync_agent import Replica

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="uses SIGKILL")

# Receives the messages of a file from where its cursor says, edits between two of them, and says
# what it has done when it is done.
TILL = """
import sys
from tillsync.v1.sync_service_pb2 import PullResponse
from tillsync_agent import Replica
raw = open(sys.argv[2], "rb").read()
messages = []
while raw:
    size, raw = int.from_bytes(raw[:4], "big"), raw[4:]
    messages.append(PullResponse.FromString(raw[:size]))
    raw = raw[size:]
with Replica.open(sys.argv[1]) as replica:
    print("open", flush=True)
    while (done := int(replica.resume_cursor() or b"0")) < len(messages):
        replica.receive(messages[done])
        if done % 10 == 9:
            print(replica.add("stock", "s", {"n": 1}), flush=True)
"""


def sent(path):
    """A first load in pages, and many small changes; each cursor is the number of its message."""
    messages = [
        a_load([a_block("stock", {"s": {"n": 0}}, STORE)], keys={"price": ["code"]}, whole=True)
    ]
    for number in range(1, 1_501):
        pair = {key: {"code": key, "minor": number} for key in ("left", "right")}
        if number % 3:
            block = a_block("price", {"left": pair["left"]}, version=10 * number)
            message = changes([], version=0)
            message.ClearField("checkpoint")
            message.blocks.append(block)
        else:
            message = a_checkpoint(10 * number)
            message.blocks.append(a_block("price", pair, version=10 * number))
        messages.append(message)
    for number, message in enumerate(messages, start=1):
        message.cursor = str(number).encode()
    raw = [message.SerializeToString() for message in messages]
    path.write_bytes(b"".join(len(one).to_bytes(4, "big") + one for one in raw))


def test_f28_a_till_killed_in_the_middle_of_checkpoints_goes_on(tmp_path):
    """The power fails again and again while a till takes price changes in and moves stock: after
    each restart it shows a whole state, goes on from where it was, and has every movement that it
    had confirmed, once."""
    choose = random.Random(20261122)
    path = tmp_path / "replica.db"
    sent(tmp_path / "sent")
    confirmed, deaths = 0, 0
    while True:
        child = subprocess.Popen(
            [sys.executable, "-c", TILL, path, tmp_path / "sent"], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout.readline() == "open\n"
        time.sleep(choose.uniform(0, 0.03))  # somewhere in its work
        os.kill(child.pid, signal.SIGKILL)
        said = [int(line) for line in child.stdout.read().splitlines() if line.strip()]
        code = child.wait()
        child.stdout.close()
        deaths += code != 0
        with Replica.open(path) as replica:
            edits = [edit.sequence for edit in replica.edits()]
            assert edits == list(range(1, len(edits) + 1))
            assert len(edits) >= max([confirmed, *said])
            confirmed = len(edits)
            left, right = replica.lookup("price", "left"), replica.lookup("price", "right")
            assert (left and left.fields["minor"]) == (right and right.fields["minor"])
            stock = replica.lookup("stock", "s")
            assert stock is None or stock.fields["n"] == len(edits)
            assert replica.verify() == []
            if replica.resume_cursor() == b"1501":
                break
        assert deaths < 3_000

    assert deaths >= 5
    assert not list(tmp_path.glob("*set-aside*"))
