"""What of the replica is shown when loads are cut and others begin."""

import pytest

from tillsync.v1 import sync_service_pb2 as pb
from tillsync_agent.replica import Replica


def page(collection, ids, *, whole=False, everything=False, cursor=b"c"):
    """A load of one collection that begins with these records; `whole`: and ends with them."""
    message = pb.PullResponse(cursor=cursor)
    message.load_begun.everything = everything
    message.load_begun.parts.add(collection=collection)
    block = message.blocks.add(collection=collection)
    for record_id in ids:
        block.record_ids.append(record_id)
        block.versions.append(1)
        block.bodies.append("{}")
    if whole:
        message.checkpoint.version = 1
    return message


@pytest.fixture
def replica(tmp_path):
    with Replica.open(tmp_path / "replica.db") as replica:
        first = page("product", ["1", "2"], whole=True, everything=True)
        first.load_begun.collections.add(name="product")
        first.load_begun.collections.add(name="customer")
        replica.resume_cursor()
        replica.receive(first)
        yield replica


@pytest.mark.parametrize("everything", [False, True])
def test_half_of_a_load_is_not_shown_when_another_one_ends(replica, everything):
    """A till is switched off in the middle of a load, and at its start its disk gives another
    collection back wrong: that one is loaded, and of the first the till shows all that it had."""
    replica.receive(page("product", ["1"], cursor=b"half", everything=everything))
    assert replica.checkpoint_cursor() == b"c"

    replica.receive(page("customer", ["7"], whole=True))

    assert [record.record_id for record in replica.scan("product")] == ["1", "2"]
    assert [record.record_id for record in replica.scan("customer")] == ["7"]
