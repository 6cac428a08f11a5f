"""Who wins when tills edit the same record, decided without a database and without a clock."""

from uuid import UUID

import pytest

from tillsync_service.sync.edits import Edit, Known, NotApplicable, Setting, applied, judge
from tillsync_service.sync.scopes import TENANT

ME, OTHER, STORE = UUID(int=1), UUID(int=2), UUID(int=3)
KEY = ("stock", TENANT, "4711")
POLICIES = {"server_wins": "lost", "arrival_wins": "won", "manual": "parked"}


def an_edit(kind="put", body='{"n":1}', *, base=5, sequence=1, key=KEY):
    return Edit(sequence, key, kind, base, body if kind != "delete" else "", b"d")


def judged(*edits, met=None, policy="server_wins", head=10, horizon=0, device=ME):
    known = {} if met is None else {KEY: met}
    setting = Setting(device, STORE, head, horizon, {"stock": policy})
    return judge(edits, setting, known)


def only(judgement):
    (result,) = judgement.results
    return result.outcome, result.reason


@pytest.mark.parametrize("policy", POLICIES)
def test_an_edit_on_the_present_version_is_applied(policy):
    """Nobody changed the record meanwhile: the till's edit is what everybody has."""
    judgement = judged(an_edit(), met=Known(5, '{"n":0}'), policy=policy)

    assert only(judgement) == ("applied", "")
    assert judgement.records[KEY] == Known(11, '{"n":1}', ME, 5)
    assert judgement.conflicts == []


@pytest.mark.parametrize(("policy", "outcome"), POLICIES.items())
def test_the_policy_decides_about_a_stale_base(policy, outcome):
    """Head office changed the record while the till was offline: the collection's policy decides,
    and both sides are kept whatever it says."""
    met = Known(7, '{"n":9}')
    judgement = judged(an_edit(), met=met, policy=policy)

    assert only(judgement)[0] == outcome
    (conflict,) = judgement.conflicts
    assert (conflict.met, conflict.edit.body, conflict.outcome) == (met, '{"n":1}', outcome)
    assert (KEY in judgement.records) == (outcome == "won")


def test_a_till_never_conflicts_with_itself():
    """A till edits a record three times offline, each time on the version it had: all of it goes
    through, and so does an edit that is pushed after the first ones came back."""
    edits = [an_edit("patch", f'{{"n":{n}}}', sequence=n) for n in (1, 2, 3)]
    first = judged(*edits, met=Known(5, '{"n":0}'))
    assert [result.outcome for result in first.results] == ["applied"] * 3

    later = judged(an_edit("put", '{"n":4}', sequence=4), met=first.records[KEY])
    assert only(later) == ("applied", "")


def test_anothers_edit_in_between_is_a_conflict_all_the_same():
    """Two tills edit in turns: the second edit of the first till meets the other's."""
    mine = judged(an_edit(), met=Known(5, '{"n":0}')).records[KEY]
    theirs = an_edit(body='{"n":2}', base=mine.version)
    others = judged(theirs, met=mine, device=OTHER, head=11).records[KEY]

    assert only(judged(an_edit(sequence=2), met=others)) == ("lost", "BASE_STALE")


@pytest.mark.parametrize("policy", POLICIES)
def test_stock_moves_as_deltas_and_never_conflicts(policy):
    """Two tills sell of the same article: both sales leave the stock, whoever comes first."""
    judgement = judged(an_edit("add", '{"n":-2}'), met=Known(9, '{"n":10}'), policy=policy)

    assert only(judgement) == ("applied", "")
    assert judgement.records[KEY].body == '{"n":8}'


def test_an_add_on_a_changed_record_does_not_hide_a_later_conflict():
    """A till's delta goes through on a changed record; its next put on the old version does not
    pass as if it had seen the change."""
    after_add = judged(an_edit("add", '{"n":-2}'), met=Known(9, '{"n":10}')).records[KEY]

    assert only(judged(an_edit(sequence=2), met=after_add)) == ("lost", "BASE_STALE")


@pytest.mark.parametrize("kind", ["patch", "add"])
@pytest.mark.parametrize("met", [None, Known(7, None)])
@pytest.mark.parametrize("policy", POLICIES)
def test_an_edit_of_a_record_that_is_gone_loses(kind, met, policy):
    """A till edits a record that head office deleted, known still or forgotten: the edit is kept as
    a lost one."""
    judgement = judged(an_edit(kind), met=met, policy=policy, horizon=0 if met else 6)

    assert only(judgement) == ("lost", "RECORD_GONE")
    assert len(judgement.conflicts) == 1
    assert judgement.records == {}


@pytest.mark.parametrize("met", [None, Known(3, None)], ids=["unknown", "deleted long before"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_movement_of_a_record_that_a_backup_lacks_counts(met, policy):
    """Stock was counted for the first time after the backup that head office was restored from: a
    till's sale of it, made on the record that is gone, is no movement of a deleted one, and counts.
    """
    judgement = judged(an_edit("add", '{"n":-2}', base=5), met=met, policy=policy, horizon=5)

    assert only(judgement) == ("applied", "")
    assert judgement.records[KEY].body == '{"n":-2}'
    assert judgement.conflicts == []


def test_f28_delete_against_edit_in_both_orders():
    """A delete and an edit of the same record meet, either first: the outcome is the policy's, and
    both sides are kept."""
    edit_first = judged(an_edit(), met=Known(5, "{}"), policy="arrival_wins").records[KEY]
    then_delete = judged(
        an_edit("delete"), met=edit_first, policy="arrival_wins", device=OTHER, head=11
    )
    assert only(then_delete) == ("won", "")
    assert then_delete.records[KEY].body is None
    delete_first = judged(an_edit("delete"), met=Known(5, "{}")).records[KEY]
    assert delete_first.body is None
    put = judged(an_edit(), met=delete_first, policy="arrival_wins", device=OTHER, head=11)
    assert only(put) == ("won", "")
    assert put.records[KEY].body == '{"n":1}'
    assert only(judged(an_edit(), met=delete_first, device=OTHER)) == ("lost", "RECORD_GONE")


def test_f23_an_edit_behind_the_horizon_loses_to_a_delete():
    """The deletion is so old that it is forgotten: the till's put brings nothing back."""
    assert only(judged(an_edit(), policy="arrival_wins", horizon=8)) == ("lost", "RECORD_GONE")
    known = judged(an_edit(), met=Known(9, None), policy="arrival_wins", horizon=8)
    assert only(known) == ("lost", "RECORD_GONE")


def test_f29_no_clock_takes_part():
    """Two tills, one of which believes that it is 2001, edit one record: the order of arrival
    decides, and nothing in an edit tells when it was made."""
    assert not {name for name in Edit.__slots__ if "time" in name or name.endswith("_at")}
    first = judged(an_edit(), met=Known(5, "{}"), policy="arrival_wins").records[KEY]
    second = judged(
        an_edit(body='{"n":2}'), met=first, policy="arrival_wins", device=OTHER, head=11
    )
    assert second.records[KEY].body == '{"n":2}'


def test_deleting_what_is_gone_changes_nothing():
    """Two tills delete the same record: the second delete is no conflict and makes no version."""
    judgement = judged(an_edit("delete"), met=Known(7, None))

    assert (only(judgement), judgement.records, judgement.head) == (("applied", ""), {}, 10)


def test_a_base_from_the_future_is_said_so():
    """A till names a version that this history never had: the outcome is the policy's for a stale
    base, and the reason says what was odd."""
    judgement = judged(an_edit(base=99), met=Known(5, "{}"))

    assert only(judgement) == ("lost", "BASE_STALE")
    assert "does not know" in judgement.results[0].description


def test_an_edit_of_an_unknown_collection_is_refused_and_the_next_one_goes_on():
    """One edit that can never be applied delays none of those behind it."""
    bad = an_edit(key=("stok", TENANT, "4711"))
    judgement = judged(bad, an_edit(sequence=2), met=Known(5, "{}"))

    assert [r.outcome for r in judgement.results] == ["rejected", "applied"]
    assert judgement.results[0].field == "collection"


def test_a_till_edits_no_other_stores_records():
    """A till cannot reach into another shop; an edit that it made before it was moved is kept, with
    the reason, and those behind it go through."""
    elsewhere = an_edit(key=("stock", OTHER, "4711"))
    judgement = judged(elsewhere, an_edit(sequence=2), met=Known(5, "{}"))

    assert [r.outcome for r in judgement.results] == ["rejected", "applied"]
    assert judgement.results[0].field == "store_id"


@pytest.mark.parametrize(
    ("kind", "edit", "before", "after"),
    [
        ("put", '{"b":1}', '{"a":1}', '{"b":1}'),
        ("patch", '{"b":1}', '{"a":1}', '{"a":1,"b":1}'),
        ("patch", '{"a":null}', '{"a":1,"z":null}', '{"z":null}'),
        ("patch", '{"a":{"x":1}}', '{"a":{"y":2}}', '{"a":{"x":1}}'),
        ("add", '{"n":-3,"m":1}', '{"n":1}', '{"m":1,"n":-2}'),
        ("add", '{"n":1}', None, '{"n":1}'),
        ("delete", "", '{"a":1}', None),
    ],
)
def test_what_each_kind_does(kind, edit, before, after):
    """A put replaces, a patch touches what it names, an add moves numbers, a delete removes."""
    assert applied(kind, edit, before, "1") == after


@pytest.mark.parametrize(
    ("kind", "edit", "before"),
    [
        ("put", "[]", None),
        ("put", "{", None),
        ("put", '{"a":NaN}', None),
        ("put", '{"a":1e999}', None),
        ("put", '{"a":"\\ud800"}', None),
        ("add", '{"n":1.5}', "{}"),
        ("add", '{"n":true}', "{}"),
        ("add", '{"n":1}', '{"n":"3"}'),
        ("add", '{"n":1}', '{"n":9223372036854775807}'),
        ("patch", '{"a":"' + "x" * 65_536 + '"}', "{}"),
        ("put", '{"a":' + "[" * 30_000 + "]" * 30_000 + "}", None),
    ],
)
def test_what_can_never_be_a_record_is_refused(kind, edit, before):
    """An edit that makes no record anybody can hold is refused with the field at fault."""
    with pytest.raises(NotApplicable) as refusal:
        applied(kind, edit, before, "1")
    assert refusal.value.result.outcome == "rejected"
    assert refusal.value.result.field == "body"
