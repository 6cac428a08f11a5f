"""The till's copy of the records, with messages made by hand: whole checkpoints, resumed loads,
edits over the copy, and files that go bad."""

import json
import subprocess
import sys

import pytest

from support.copies import STORE, a_block, a_checkpoint, a_load, changes
from tillsync.v1.sync_service_pb2 import MutationResult, PullResponse
from tillsync_agent import OutboxUnavailable, Replica

READER = """
import sys
from tillsync_agent import Replica
with Replica.open(sys.argv[1]) as replica:
    print("reading", flush=True)
    seen = set()
    while 199 not in seen:
        # One page is one transaction, so one moment.
        prices = {record.record_id: record.fields["minor"] for record in replica.scan("price")}
        assert len(set(prices.values())) == 1, prices
        seen |= set(prices.values())
print(len(seen))
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "replica.db"


@pytest.fixture
def replica(path):
    with Replica.open(path) as replica:
        replica.checkpoint_cursor()
        yield replica


def products(count, **more):
    return {f"p{n:03}": {"barcode": str(n), **more} for n in range(count)}


def shown(replica, collection="product"):
    return {record.record_id: record.fields for record in replica.scan(collection)}


def copies(replica):
    return replica._read("SELECT count(*) FROM record")[0][0]


def test_i6_a_reader_never_sees_half_a_checkpoint(replica, path):
    """A price change of two articles that belong together is applied two hundred times while a
    point of sale reads both: it never sees the one without the other."""
    pair = {"left": {"minor": 0}, "right": {"minor": 0}}
    replica.receive(a_load([a_block("price", pair)]))
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, path], stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout.readline() == "reading\n"

    for number in range(1, 200):
        left = a_block("price", {"left": {"minor": number}}, version=2 * number)
        right = a_block("price", {"right": {"minor": number}}, version=2 * number + 1)
        replica.receive(PullResponse(blocks=[left], cursor=b"staged"))
        replica.receive(changes([right], version=2 * number + 1))

    out, _ = reader.communicate(timeout=60)
    assert reader.returncode == 0
    assert int(out) > 1


def test_f24_a_deletion_at_the_end_skips_no_change_before_it(replica):
    """A page ends with a deletion: the changes before it are on the till as well, in the same
    moment, and the cursor stands behind all of them."""
    replica.receive(a_load([a_block("product", products(3))]))
    block = a_block("product", {"p000": {"barcode": "new"}, "p001": {}, "p002": None}, version=4)

    replica.receive(PullResponse(blocks=[block], cursor=b"staged"))
    assert shown(replica) == products(3)
    replica.receive(a_checkpoint(6))

    assert shown(replica) == {"p000": {"barcode": "new"}, "p001": {}}
    assert replica.resume_cursor() == b"at 6"


def test_a_load_that_was_cut_goes_on_in_a_new_process(replica, path):
    """The till is switched off at nine tenths of its first load: what it has is kept, the pull goes
    on from there, and the copy is shown when it is whole."""
    pages = [dict(list(products(100).items())[n : n + 10]) for n in range(0, 100, 10)]
    replica.receive(a_load([a_block("product", pages[0])], whole=False))
    for number, page in enumerate(pages[1:9]):
        cursor = f"page {number}".encode()
        replica.receive(PullResponse(blocks=[a_block("product", page)], cursor=cursor))
    assert shown(replica) == {}
    replica.close()

    with Replica.open(path) as again:
        assert again.resume_cursor() == b"page 7"
        assert copies(again) == 90
        last = changes([a_block("product", pages[9])], version=100)
        again.receive(last)
        assert shown(again) == products(100)
        assert again.verify() == []


def test_a_reload_replaces_its_collection_and_nothing_else(replica):
    """The prices are loaded anew: an article that is not among them any more is gone, and the
    products are untouched."""
    replica.receive(a_load([a_block("product", products(2)), a_block("price", products(2))]))
    reload = a_load([a_block("price", {"p001": {"minor": 1}})], version=9)
    reload.load_begun.everything = False

    replica.receive(reload)

    assert shown(replica, "price") == {"p001": {"minor": 1}}
    assert shown(replica) == products(2)
    assert replica.prune() > 0
    assert copies(replica) == 3


def test_a_store_that_the_till_left_is_gone(replica):
    """A till is carried to another store: at the checkpoint that says so, the old store's prices
    are gone."""
    there = STORE.replace("5001", "5002")
    replica.receive(a_load([a_block("price", products(1)), a_block("price", products(1), STORE)]))

    replica.receive(a_checkpoint(9, store_id=there))

    assert {record.store_id for record in replica.scan("price")} == {""}


def test_a_part_that_is_not_as_it_should_be_is_named(replica):
    """A record was lost between head office and the till: the checkpoint's digest tells, the
    collection is named for a reload, and it is counted."""
    replica.receive(a_load([a_block("product", products(2)), a_block("price", products(1))]))

    wrong = {("product", ""): products(3), ("price", ""): products(1)}
    received = replica.receive(a_checkpoint(4, digests=wrong))

    assert received.applied.mismatched == ["product"]
    assert replica.summary().heals == 1
    right = {("product", ""): products(2)}
    assert replica.receive(a_checkpoint(5, digests=right)).applied.mismatched == []


def test_a_disk_that_forgets_is_noticed(replica):
    """A record's text changed on the disk by itself: the next look over all of them names its
    collection."""
    replica.receive(a_load([a_block("product", products(3))]))
    replica._change("UPDATE record SET body = '{}' WHERE record_id = 'p001'")

    assert replica.verify() == ["product"]
    assert replica.verify() == []


def test_new_lookup_keys_find_what_was_there_before(replica):
    """Head office decides that products are found by their old number, too: those that the till has
    had for weeks are found at once."""
    old = {"p1": {"barcode": "1", "old": [7, "8"]}}
    replica.receive(a_load([a_block("product", old)], keys={"product": ["barcode"]}))
    message = a_checkpoint(4)
    message.checkpoint.collections.add(name="product", lookup_keys=["old"])

    replica.receive(message)

    assert [record.record_id for record in replica.find("product", old=7)] == ["p1"]
    assert [record.record_id for record in replica.find("product", old="8")] == ["p1"]
    assert replica.find("product", barcode="1") == []


def test_f46_what_a_newer_service_says_loses_nothing(replica):
    """Head office runs a newer release: what an older till does not understand neither breaks it
    nor takes an edit off its display."""
    replica.receive(a_load([a_block("stock", {"s": {"n": 5}}, STORE)]))
    replica.add("stock", "s", {"n": -1})
    epoch, _ = replica.edits_to_push(10)
    unknown_field = b"\xfa\x3f\x03new"
    message = PullResponse.FromString(a_checkpoint(9).SerializeToString() + unknown_field)
    message.checkpoint.collections.add(name="stock", policy=77)

    replica.receive(message)
    replica.receive(PullResponse.FromString(unknown_field))
    replica.answered([MutationResult(sequence=1, outcome=99)], 2)

    assert replica.resume_cursor() == b"at 9"
    assert replica.lookup("stock", "s").fields == {"n": 4}
    assert replica.edits()[0].outcome == 99
    done = changes([a_block("stock", {"s": {"n": 4}}, STORE)], version=10, marks={epoch: 1})
    replica.receive(done)
    assert replica.lookup("stock", "s").fields == {"n": 4}
    assert not replica.lookup("stock", "s").pending


def test_a_stores_record_hides_the_tenants(replica):
    """A store has a price of its own: it is the one that is found, by id, by key and in a list; an
    edit goes to the one that is shown."""
    tenant, store = products(3, minor=1), {"p001": {"barcode": "x", "minor": 2}}
    blocks = [a_block("price", tenant), a_block("price", store, STORE)]
    replica.receive(a_load(blocks, keys={"price": ["barcode"]}))

    assert replica.lookup("price", "p001").fields["minor"] == 2
    assert replica.find("price", barcode="1") == []
    assert replica.find("price", barcode="x")[0].store_id == STORE
    assert [record.fields["minor"] for record in replica.scan("price")] == [1, 2, 1]
    replica.delete("price", "p001")
    assert replica.lookup("price", "p001").fields["minor"] == 1


def test_lists_by_prefix_and_range_hold_edits_in_their_place(replica):
    """A program lists what begins with a text, or lies between two: what was added and deleted on
    this till is in its place, or gone."""
    replica.receive(a_load([a_block("product", products(12))]))
    replica.put("product", "p0005", {"new": True}, scope="tenant")
    replica.delete("product", "p007")

    ids = [record.record_id for record in replica.scan("product", start="p004", stop="p009")]
    assert ids == ["p004", "p005", "p006", "p008"]
    ids = [record.record_id for record in replica.scan("product", prefix="p000")]
    assert ids == ["p000", "p0005"]
    assert len(list(replica.scan("product"))) == 12


def test_an_answer_takes_no_edit_off_the_display(replica):
    """The answer to a stock movement is here before the copy holds it: the till goes on showing the
    movement, once, until the checkpoint that holds it."""
    replica.receive(a_load([a_block("stock", {"s": {"n": 5}}, STORE)]))
    replica.add("stock", "s", {"n": -1})
    epoch, _ = replica.edits_to_push(10)
    replica.answered([MutationResult(sequence=1, outcome=1)], 2)
    assert replica.lookup("stock", "s").fields == {"n": 4}

    done = changes([a_block("stock", {"s": {"n": 4}}, STORE)], version=9, marks={epoch: 1})
    replica.receive(done)

    assert replica.lookup("stock", "s").fields == {"n": 4}


@pytest.mark.parametrize("torn", ["header", "middle"])
def test_a_torn_copy_is_set_aside_and_its_edits_are_kept(replica, path, torn):
    """Lightning damages the copy: it is set aside, edits that can be read come back under their own
    numbers, so that head office knows those that it has, and the copy is loaded anew."""
    replica.receive(a_load([a_block("stock", {f"s{n}": {"n": n} for n in range(2_000)}, STORE)]))
    replica.add("stock", "s1", {"n": -1})
    replica.add("stock", "s2", {"n": -1})
    epoch, first = replica.edits_to_push(10)
    replica.checkpoint()
    replica.close()
    raw = bytearray(path.read_bytes())
    start = 0 if torn == "header" else len(raw) // 2
    raw[start : start + 4096] = b"\xa5" * 4096
    path.write_bytes(raw)

    with Replica.open(path) as again:
        if torn == "middle":
            again.verify()  # every page is read
        aside = again.summary().set_aside

    with Replica.open(path) as again:
        assert len(aside) == 1
        assert again.resume_cursor() == b""
        if torn == "middle":
            assert again.edits_to_push(10) == (epoch, first)
        load = a_load([a_block("stock", {"s1": {"n": 1}}, STORE)])
        again.receive(load)
        assert again.lookup("stock", "s1").version == 1


def test_a_stream_of_the_copy_that_is_gone_is_not_taken(replica, path):
    """The copy is set aside while messages for it come in: the new one takes none of them, since
    it would show a few changes as if they were everything."""
    replica.receive(a_load([a_block("product", products(3))]))
    (path.parent / "replica.db").rename(path.parent / "elsewhere.db")

    with pytest.raises(OutboxUnavailable, match="began anew"):
        replica.receive(changes([a_block("product", {"p000": None})], version=9))

    assert replica.resume_cursor() == b""
    replica.receive(a_load([a_block("product", products(2))]))
    assert shown(replica) == products(2)


def test_another_programs_file_is_left_alone(tmp_path):
    """Somebody points the replica at a database of another program: it is refused, and is as it
    was."""
    theirs = tmp_path / "pos.db"
    theirs.write_bytes(b"SQLite format 3\0" + bytes(100))
    before = theirs.read_bytes()

    with pytest.raises(OutboxUnavailable, match="is no replica"):
        Replica.open(theirs)

    assert theirs.read_bytes() == before


def test_edits_are_forgotten_when_head_office_has_had_them_for_long(replica):
    """A till does not collect its edits for ever: those that the copy has held for long go, and one
    that is still shown never does."""
    replica.receive(a_load([a_block("stock", {"s": {"n": 5}}, STORE)]))
    replica.add("stock", "s", {"n": -1})
    replica.add("stock", "s", {"n": -1})
    epoch, _ = replica.edits_to_push(10)
    replica.answered([MutationResult(sequence=n, outcome=1) for n in (1, 2)], 3)
    replica.receive(a_checkpoint(9, marks={epoch: 1}))

    replica.prune(keep_seconds=-1)

    assert [edit.sequence for edit in replica.edits()] == [2]
    assert json.loads(replica.edits()[0].body) == {"n": -1}


def test_large_edits_are_pushed_in_messages_that_can_be_sent(replica):
    """A till edits hundreds of long texts offline: they go home in several calls, each of a size
    that gRPC takes, in their order."""
    replica.receive(a_load([a_block("product", products(1))]))
    for number in range(60):
        replica.put("product", f"p{number}", {"text": "x" * 60_000})

    sent = []
    while (batch := replica.edits_to_push(500)[1]) != []:
        assert sum(mutation.ByteSize() for mutation in batch) < 2_000_000
        sent += [mutation.sequence for mutation in batch]
        replica.answered([MutationResult(sequence=m.sequence, outcome=1) for m in batch], 0)

    assert sent == list(range(1, 61))
