"""What a device does by the rules of docs/SYNC.md, with messages made by hand: a device of another
make has to pass the same."""

import pytest

from support.copies import STORE, a_block, a_checkpoint, a_load, changes
from tillsync.v1.record_pb2 import RecordBlock
from tillsync.v1.sync_service_pb2 import MutationResult, PullResponse
from tillsync_agent import Replica

AT = {"cents": 1}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "replica.db"


@pytest.fixture
def replica(path):
    """With two prices and a product."""
    with Replica.open(path) as replica:
        replica.checkpoint_cursor()
        blocks = [a_block("price", {"1": AT, "2": AT}), a_block("product", {"7": {"name": "tea"}})]
        replica.receive(a_load(blocks))
        yield replica


def ids(replica, collection):
    return [record.record_id for record in replica.scan(collection)]


def part_of_a_load(collection, *records):
    message = a_load([a_block(collection, dict.fromkeys(records, AT))], whole=False)
    message.load_begun.everything = False
    return message


def test_a_second_load_adds_its_parts_and_begins_anew_what_was_begun(replica, path):
    """Prices are loaded, begun anew, and products with them, and the till is switched off in
    between: at the checkpoint it has all of both, and of the prices the second ones."""
    replica.receive(part_of_a_load("price", "1", "3"))
    replica.receive(part_of_a_load("product", "8"))
    replica.receive(part_of_a_load("price", "4"))
    replica.close()

    with Replica.open(path) as again:
        assert again.resume_cursor() == b"loading"
        assert (ids(again, "price"), ids(again, "product")) == (["1", "2"], ["7"])
        again.receive(a_checkpoint(9))
        assert (ids(again, "price"), ids(again, "product")) == (["4"], ["8"])


@pytest.mark.parametrize("everything", [False, True])
def test_that_all_is_replaced_is_known_after_a_restart(replica, path, everything):
    """A load of everything is cut and goes on in another process: what was not sent is gone at its
    checkpoint, as it would be without the cut; and after a load of some parts it is not."""
    half = part_of_a_load("price", "4")
    half.load_begun.everything = everything
    replica.receive(half)
    replica.close()

    with Replica.open(path) as again:
        again.resume_cursor()
        again.receive(changes([a_block("price", {"5": AT})], version=9))
        assert ids(again, "price") == ["4", "5"]
        assert ids(again, "product") == ([] if everything else ["7"])


def test_the_first_records_of_a_part_make_it(replica):
    """Head office gives a store prices of its own for the first time: they come without a load, and
    the till has them."""
    replica.receive(changes([a_block("price", {"1": {"cents": 2}}, STORE)], version=9))

    assert replica.lookup("price", "1").fields == {"cents": 2}
    assert replica.lookup("price", "1").store_id == STORE


def test_the_digest_is_of_the_bytes_as_they_came(replica):
    """Head office writes a record in its own way, and the cashier has changed it here: the copy is
    still what it should be, byte for byte, and is not loaded anew."""
    body = '{ "b":1.50,"a": "Käse" }'
    block = RecordBlock(collection="price", record_ids=["9"], versions=[9], bodies=[body])
    replica.receive(changes([block], version=9))
    replica.patch("price", "9", {"a": "Brie"})
    replica.put("price", "10", {"a": "only here"}, scope="tenant")

    (kept,) = replica._read("SELECT body FROM record WHERE record_id = '9'")
    right = {("price", ""): {"1": AT, "2": AT, "9": body}}
    received = replica.receive(a_checkpoint(10, digests=right))

    assert kept == (body,)
    assert received.applied.mismatched == []


def test_every_edit_names_the_version_that_the_copy_has(replica):
    """A cashier corrects a price three times before it is sent: all three say on which of head
    office's versions they were made, whatever the till shows; one of a new record says 0."""
    for cents in (1, 2, 3):
        replica.patch("price", "2", {"cents": cents})
    replica.put("price", "new", AT)
    replica.patch("price", "new", {"cents": 2})

    _, sent = replica.edits_to_push(10)

    assert [mutation.base_version for mutation in sent] == [2, 2, 2, 0, 0]


def test_an_edit_that_is_pushed_again_is_the_same_to_the_byte(replica, path):
    """An answer is lost and the copy has moved on since: the edit goes out as it did, base and all,
    or head office would take it for another one."""
    replica.patch("price", "2", {"cents": 2})
    epoch, (first,) = replica.edits_to_push(10)
    replica.receive(changes([a_block("price", {"2": {"cents": 5}}, version=9)], version=9))
    replica.close()

    with Replica.open(path) as again:
        assert again.edits_to_push(10) == (epoch, [first])


def test_edits_that_are_wanted_and_not_kept_any_more_do_not_stop_the_others(replica):
    """Head office lacks edits of a month ago, which the till has forgotten: those that wait go
    under new numbers, from 1, and are applied."""
    replica.patch("price", "2", {"cents": 2})
    epoch, sent = replica.edits_to_push(10)
    replica.answered([MutationResult(sequence=1, outcome=1)], 2)
    replica.receive(a_checkpoint(9, marks={epoch: 1}))
    replica.prune(keep_seconds=-1)
    replica.patch("price", "1", {"cents": 3})
    replica.edits_to_push(10)

    replica.answered([], 1)

    fresh, again = replica.edits_to_push(10)
    assert fresh != epoch
    assert [(mutation.sequence, mutation.record_id) for mutation in again] == [(1, "1")]
    assert again[0].mutation_id != sent[0].mutation_id


def test_edits_that_are_wanted_and_kept_are_pushed_from_there(replica):
    """Head office lacks edits that the till still has: they go again, under their numbers."""
    for cents in (1, 2, 3):
        replica.patch("price", "2", {"cents": cents})
    epoch, _ = replica.edits_to_push(10)
    replica.answered([MutationResult(sequence=n, outcome=1) for n in (1, 2)], 3)

    replica.answered([], 2)

    again, sent = replica.edits_to_push(10)
    assert again == epoch
    assert [mutation.sequence for mutation in sent] == [2, 3]


def test_what_an_edit_shows_where_the_record_is_not_what_it_was(replica):
    """Head office changes and deletes records under a till's edits: a patch of what is gone shows
    nothing, an add leaves what is no number, and a patch replaces a field whole."""
    replica.patch("price", "1", {"cents": 3})
    replica.add("price", "2", {"cents": 3})
    replica.patch("product", "7", {"name": {"en": "tea"}})
    there = {"1": None, "2": {"cents": "free"}}
    named = a_block("product", {"7": {"name": {"de": "Tee"}, "x": 1}}, version=9)

    replica.receive(changes([a_block("price", there, version=9), named], version=10))

    assert replica.lookup("price", "1") is None
    assert replica.lookup("price", "2").fields == {"cents": "free"}
    assert replica.lookup("product", "7").fields == {"name": {"en": "tea"}, "x": 1}


def test_whose_record_an_edit_is_of(replica):
    """A store has a price of its own: an edit is of the one that is shown; to delete it uncovers
    the tenant's, and what is new is the store's."""
    replica.receive(changes([a_block("price", {"1": {"cents": 2}}, STORE, version=9)], version=9))
    replica.patch("price", "1", {"cents": 3})
    replica.delete("price", "1")
    replica.patch("price", "2", {"cents": 4})
    replica.put("price", "new", AT)

    _, sent = replica.edits_to_push(10)

    assert [mutation.store_id for mutation in sent] == [STORE, STORE, "", STORE]
    assert replica.lookup("price", "1").fields == AT


def test_messages_that_are_taken_together_end_with_a_checkpoint_at_most(replica):
    """A till that has fallen behind writes several messages at once: it shows what the checkpoint
    at their end makes whole, and before that nothing of them."""
    first = PullResponse(blocks=[a_block("price", {"3": AT}, version=9)], cursor=b"staged")
    second = PullResponse(blocks=[a_block("price", {"4": AT}, version=10)], cursor=b"more")
    replica.receive(first, second)
    assert ids(replica, "price") == ["1", "2"]

    replica.receive(first, second, a_checkpoint(10))

    assert ids(replica, "price") == ["1", "2", "3", "4"]
