"""Pages of a list, and what a request's fields may be."""

from uuid import UUID, uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from tillsync_service.admin import wire
from tillsync_service.foundation import fields, pages
from tillsync_service.foundation.errors import InvalidRequest


@given(st.lists(st.uuids(), unique=True).map(sorted), st.integers(1, 10))
def test_every_row_stands_on_one_page(ids, size):
    """An operator who turns the pages sees every device once, and the last page says it is."""
    seen, token = [], ""
    while True:
        asked = pages.asked(size, token)
        rows = [{"id": id_} for id_ in ids if id_ > asked.after][: asked.rows_to_read]
        page = pages.page(asked, rows, "id")
        seen += [row["id"] for row in page.rows]
        assert len(page.rows) == size or not page.next_token
        token = page.next_token
        if not token:
            break

    assert seen == ids


@pytest.mark.parametrize("size", [-1, 1_001, 2**31 - 1])
def test_a_page_of_an_odd_size_names_the_field(size):
    """A tool that asks for a million rows at once is told which field to mend."""
    with pytest.raises(InvalidRequest) as refusal:
        pages.asked(size, "")
    assert refusal.value.field == "page_size"


@pytest.mark.parametrize("token", ["x", "é", "A" * 21, "A" * 23, "A" * 22 + "==", "!" * 22, " "])
def test_a_page_token_that_is_none_names_the_field(token):
    """A token that was cut off while copying does not silently start from the beginning."""
    with pytest.raises(InvalidRequest) as refusal:
        pages.asked(0, token)
    assert refusal.value.field == "page_token"


@pytest.mark.parametrize("text", ["", " ", "x" * 101, "a\0b"])
def test_a_text_that_cannot_be_kept_names_the_field(text):
    """An operator who leaves the name empty reads which field is empty."""
    with pytest.raises(InvalidRequest) as refusal:
        fields.text("name", text, 100)
    assert refusal.value.field == "name"


def test_a_text_is_measured_in_characters():
    """A name in Greek may be as long as one in English."""
    assert fields.text("name", "Ω" * 100, 100) == "Ω" * 100


@pytest.mark.parametrize("text", ["", "7", "x" * 36, str(UUID(int=0))])
def test_an_id_that_is_none_names_the_field(text):
    """A tool that mixes up two columns is told which field to mend."""
    with pytest.raises(InvalidRequest) as refusal:
        fields.uuid("store_id", text)
    assert refusal.value.field == "store_id"


def test_an_id_is_read_in_any_case():
    """An id copied from a spreadsheet in capitals is the same id."""
    device_id = uuid4()
    assert fields.uuid("device_id", str(device_id).upper()) == device_id


@pytest.mark.parametrize(
    "valid_for",
    [
        Duration(),
        Duration(seconds=-1),
        Duration(nanos=1),
        Duration(seconds=30 * 86_400, nanos=1),
        Duration(seconds=315_576_000_000),
    ],
    ids=repr,
)
def test_a_code_that_would_be_good_for_ever_or_never_names_the_field(valid_for):
    """An operator who types hours for seconds does not hand out a code for ten years."""
    with pytest.raises(InvalidRequest) as refusal:
        wire.code_valid_seconds(valid_for)
    assert refusal.value.field == "valid_for"


def test_a_code_is_good_for_a_day_unless_said_otherwise():
    """A code left on a note by the till is worth nothing the day after tomorrow."""
    assert wire.code_valid_seconds(None) == 86_400
    assert wire.code_valid_seconds(Duration(seconds=30 * 86_400)) == 30 * 86_400
