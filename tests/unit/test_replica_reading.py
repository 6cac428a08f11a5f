"""How the replica looks up what a till scans."""

import pytest

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
