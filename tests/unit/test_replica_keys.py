"""A record is found by its lookup keys, whatever became of it before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.copies import a_block, a_load, changes
from tillsync_agent import replica_receiving
from tillsync_agent.replica import Replica

NAMES = ["code", "odd näme.$[0] '"]
TEXTS = st.sampled_from(["4", "4711", "ä\n", 'with "quotes" \\', "$.code", ""])
VALUES = (
    TEXTS
    | st.sampled_from([4, 4711, -1, 2**63 - 1, 0.5, True, None])
    | st.just({"code": "4"})
    | st.lists(TEXTS | st.sampled_from([4, None, 0.5, False]), max_size=3)
)
RECORDS = st.fixed_dictionaries({}, optional=dict.fromkeys([*NAMES, "price"], VALUES))
CHANGES = st.dictionaries(st.sampled_from("abcde"), st.none() | RECORDS, min_size=1)


def values_of(held: object) -> set[str]:
    """The values that a field is found by."""
    each = held if isinstance(held, list) else [held]
    return {str(one) for one in each if isinstance(one, str | int) and not isinstance(one, bool)}


@given(first=st.dictionaries(st.sampled_from("abcde"), RECORDS), later=st.lists(CHANGES))
def test_a_product_is_found_by_all_its_codes_and_by_no_old_one(tmp_path_factory, first, later):
    """A product's barcodes change, in every way that head office can write them: the till finds it
    by those that it has now, and by none that it had."""
    with Replica.open(tmp_path_factory.mktemp("copy") / "replica.db") as replica:
        replica.resume_cursor()
        replica.receive(a_load([a_block("product", first)], keys={"product": NAMES}))
        now = dict(first)
        for version, changed in enumerate(later, start=10):
            replica.receive(changes([a_block("product", changed)], version=version))
            now |= changed

        held = {record_id: fields for record_id, fields in now.items() if fields is not None}
        wanted = {
            (name, value, record_id)
            for record_id, fields in held.items()
            for name in NAMES
            for value in values_of(fields.get(name)) - {""}
        }
        assert set(replica._read("SELECT name, value, record_id FROM record_key")) == wanted
        for name, value, record_id in wanted:
            found = replica.find("product", **{name: value})
            assert record_id in [record.record_id for record in found]
        assert replica.verify() == []


def test_a_number_that_is_too_long_for_a_key_holds_up_nothing(tmp_path):
    """A catalogue holds a number of thirty digits under a lookup key: the record arrives, and is
    found by its id."""
    with Replica.open(tmp_path / "replica.db") as replica:
        replica.resume_cursor()
        load = a_load([a_block("product", {"a": {"code": 10**30}})], keys={"product": ["code"]})
        replica.receive(load)

        assert replica.lookup("product", "a").fields == {"code": 10**30}


@pytest.mark.parametrize(
    ("statement", "columns"),
    [(replica_receiving._UNINDEX, 4), (replica_receiving._KEYS_STAGED, 2)],
)
def test_a_change_reads_what_it_changes_and_no_other_record(tmp_path, statement, columns):
    """One price changes among a hundred thousand: the till does not read them all for it."""
    values = (
        {"part": 1, "name": "code", "path": "$.code"}
        if ":part" in statement
        else (1, "code", "4", "a")
    )
    with Replica.open(tmp_path / "replica.db") as replica:
        plan = replica._file.run(
            lambda cursor: cursor.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
        )

    key = plan[0][3].partition("(")[2].count("=?")
    assert (plan[0][3].startswith("SEARCH record"), key) == (True, columns)
