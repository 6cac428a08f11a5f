"""For how long a till keeps its own edits: a fortnight after they are in, whatever happens."""

from dataclasses import replace

import pytest

from support.copies import STORE, a_block, a_checkpoint, a_load
from tillsync.v1.sync_service_pb2 import MutationResult
from tillsync_agent.outboxfile import OutboxFile
from tillsync_agent.replica import REPLICA, Replica

DAY_MS = 86_400_000


@pytest.fixture
def path(tmp_path):
    return tmp_path / "replica.db"


@pytest.fixture
def replica(path):
    """With stock, of which three were sold twenty days ago; the till was offline since."""
    with Replica.open(path) as replica:
        replica.checkpoint_cursor()
        replica.receive(stock_of(5))
        for _ in range(3):
            replica.add("stock", "s", {"n": -1})
        replica._change(f"UPDATE edit SET made_at = made_at - {20 * DAY_MS}")
        yield replica


def stock_of(number):
    return a_load([a_block("stock", {"s": {"n": number}}, STORE)])


def comes_home(replica):
    """All edits are pushed and answered, and a checkpoint holds them."""
    epoch, sent = replica.edits_to_push(10)
    replica.answered([MutationResult(sequence=m.sequence, outcome=1) for m in sent], 0)
    replica.receive(a_checkpoint(9, marks={epoch: sent[-1].sequence}))


def kept_after(days, replica):
    """The numbers of the edits that are there so many days later."""
    replica._change(f"UPDATE edit SET made_at = made_at - {days * DAY_MS}")
    replica._change(f"UPDATE edit SET held_at = held_at - {days * DAY_MS}")
    replica.prune()
    return [edit.sequence for edit in replica.edits()]


def test_edits_of_a_till_that_was_away_are_kept_for_as_long_as_any(replica):
    """A till was offline for twenty days: its edits are kept for a fortnight after they are in, so
    that head office can be set back to yesterday's backup and is given them again."""
    comes_home(replica)

    assert kept_after(13, replica) == [1, 2, 3]
    assert kept_after(2, replica) == []


def test_what_a_restored_service_lacks_is_kept_anew(replica):
    """Head office is set back to a backup without the till's edits: they are pushed again, and from
    then on they are kept for another fortnight, or a second backup would lose them."""
    comes_home(replica)
    assert kept_after(13, replica) == [1, 2, 3]
    restored = stock_of(5)
    restored.checkpoint.complete = True
    replica.receive(restored)
    assert replica.lookup("stock", "s").fields == {"n": 2}

    assert kept_after(13, replica) == [1, 2, 3]
    comes_home(replica)

    assert kept_after(13, replica) == [1, 2, 3]
    assert kept_after(2, replica) == []


def test_edits_under_a_number_that_is_not_used_any_more_go_as_well(replica):
    """A disk was cloned and the till counts its edits anew: those of the old count that head office
    has answered are kept for a fortnight, and not for ever."""
    replica.edits_to_push(10)
    replica.answered([MutationResult(sequence=1, outcome=1)], 2)
    replica.renumber()

    comes_home(replica)

    assert kept_after(15, replica) == []


def test_the_copy_of_an_older_release_is_taken_over(path):
    """The till's program is updated: edits that wait go on waiting, and those that head office has
    are kept for a fortnight from now on."""
    first = replace(REPLICA, migrations=REPLICA.migrations[:1])
    older = Replica(OutboxFile(path, 1, layout=first))
    older._change("INSERT INTO collection VALUES ('stock', 1, '[]')")
    for _ in range(2):
        older.add("stock", "s", {"n": 1})
    older._change("UPDATE place SET pushed = 1, answered = 1, mark = 1")
    older._change("UPDATE edit SET made_at = 0, outcome = sequence = 1")
    older.close()

    with Replica.open(path) as replica:
        assert kept_after(13, replica) == [1, 2]
        assert [edit.shown for edit in replica.edits()] == [0, 1]
        assert [mutation.sequence for mutation in replica.edits_to_push(10)[1]] == [2]
        assert kept_after(2, replica) == [2]
