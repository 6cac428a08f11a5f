"""How the replica looks up what a till scans."""

import pytest

from tillsync.v1 import sync_service_pb2 as pb
from tillsync_agent import replica_reading
from tillsync_agent.replica import Replica


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (replica_reading._BODIES, ("product", "1")),
        (replica_reading._BY_KEY, ("product", "barcode", "40")),
        (replica_reading._IDS, ("product", "1")),
    ],
)
def test_a_lookup_reads_what_it_looks_for_and_no_other_record(tmp_path, statement, values):
    """A product is found at once, however many there are: SQLite's planner, which knows nothing of
    how many that is, would read them all."""
    with Replica.open(tmp_path / "replica.db") as replica:
        plan = [row[3] for row in replica._read(f"EXPLAIN QUERY PLAN {statement}", *values)]

    assert plan[0].startswith("SCAN p")  # a few parts
    assert all(step.startswith(("SEARCH", "USE TEMP B-TREE")) for step in plan[1:])


@pytest.fixture
def replica(tmp_path):
    with Replica.open(tmp_path / "replica.db") as replica:
        load = pb.PullResponse()
        load.load_begun.everything = True
        load.load_begun.collections.add(name="product", lookup_keys=["code"])
        block = load.blocks.add(collection="product")
        block.record_ids.extend(["1", "2"])
        block.versions.extend([1, 2])
        block.bodies.extend(['{"code":"a"}', '{"code":7}'])
        load.checkpoint.version = 2
        replica.checkpoint_cursor()
        replica.receive(load)
        yield replica


def found(replica: Replica, code: object) -> list[str]:
    return [record.record_id for record in replica.find("product", code=code)]


def test_a_code_that_was_changed_here_is_found_at_once(replica):
    """A till that gives products other codes, in whatever way, finds them by these and not by the
    old ones, before head office has heard of it."""
    replica.patch("product", "1", {"code": 'ä "quoted"\n'})
    replica.add("product", "2", {"code": 5})
    replica.put("product", "3", {"code": ["x", 9]}, scope="tenant")

    assert found(replica, 'ä "quoted"\n') == ["1"]
    assert found(replica, 12) == ["2"]
    assert found(replica, "x") == found(replica, "9") == ["3"]
    assert found(replica, "a") == found(replica, 7) == []

    replica.patch("product", "3", {"code": None})
    assert found(replica, "x") == []


def test_a_code_is_found_whatever_else_was_edited(replica):
    """A price that was changed here does not hide the product, nor bring it where it is not."""
    replica.patch("product", "1", {"price": 7})
    replica.add("product", "2", {"on_hand": -1})

    assert found(replica, "a") == ["1"]
    assert found(replica, 7) == ["2"]
