"""What a till shows of its own edits is what head office makes of them."""

import json

from hypothesis import given
from hypothesis import strategies as st

from tillsync_agent import overlay
from tillsync_agent.errors import EditRefused
from tillsync_agent.overlay import ADD, DELETE, PATCH, PUT, Layer
from tillsync_service.sync.edits import NotApplicable, applied

SERVICE_KINDS = {PUT: "put", PATCH: "patch", ADD: "add", DELETE: "delete"}
NAMES = st.sampled_from(["price", "name", "on_hand"])
WHOLE = st.sampled_from([-3, 0, 1, 2**62, 2**63 - 1, -(2**63 - 1)])
VALUES = st.none() | st.booleans() | WHOLE | st.sampled_from([0.5, "tea", "", {"a": None}, [1]])
FIELDS = st.dictionaries(NAMES, VALUES)
EDITS = st.lists(
    st.tuples(st.sampled_from([PUT, PATCH]), FIELDS)
    | st.tuples(st.just(ADD), st.dictionaries(NAMES, WHOLE))
    | st.tuples(st.just(DELETE), st.just({})),
    max_size=6,
)


@given(before=st.none() | FIELDS, edits=EDITS)
def test_a_till_shows_what_it_will_get(before, edits):
    """A cashier corrects a record several times offline: what the till shows at once is, to the
    field, what head office will have, and nothing is taken that head office would refuse."""
    copy = None if before is None else json.dumps(before)
    at_head_office = copy
    layers = []
    for kind, fields in edits:
        present = overlay.shown(copy, layers)
        if present is None and kind in {PATCH, DELETE}:
            continue  # the till says that there is no such record
        try:
            body = "" if kind == DELETE else overlay.body_of(kind, fields, present or {})
        except EditRefused:
            continue
        layers.append(Layer(kind, body))
        at_head_office = applied(SERVICE_KINDS[kind], body, at_head_office, "4711")

        shown = overlay.shown(copy, layers)
        assert shown == (None if at_head_office is None else json.loads(at_head_office))


@given(now=st.none() | FIELDS, edit=EDITS)
def test_an_edit_over_a_record_that_changed_is_shown_all_the_same(now, edit):
    """Head office changed a record under a till's waiting edits: the till shows the record, with
    whatever of the edits can still be, until head office has decided."""
    copy = None if now is None else json.dumps(now)
    layers = [Layer(kind, "" if kind == DELETE else json.dumps(fields)) for kind, fields in edit]

    shown = overlay.shown(copy, layers)

    try:
        expected = copy
        for layer in layers:
            expected = applied(SERVICE_KINDS[layer.kind], layer.body, expected, "4711")
    except NotApplicable:
        return  # head office will refuse it, and say why
    assert shown == (None if expected is None else json.loads(expected))
