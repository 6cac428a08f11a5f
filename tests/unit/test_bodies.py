"""What a record is: one JSON object, written in one way."""

import json
import math
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillsync_service.foundation import limits
from tillsync_service.sync import bodies

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
objects = st.dictionaries(texts, values, max_size=5)


def stored(text):
    return bodies.canonical(bodies.parsed(text))


@given(objects)
def test_the_same_record_is_stored_in_one_way_however_it_came(fields):
    """Two programs write the same price differently: it is one body, so it changes nothing."""
    shuffled = dict(reversed(fields.items()))

    body = stored(json.dumps(fields))

    assert stored(json.dumps(shuffled, indent=3, ensure_ascii=True)) == body
    assert stored(body) == body
    assert json.loads(body) == fields
    assert "\0" not in body


def test_a_body_is_short_and_sorted():
    """What tills load by the thousand has no byte too many."""
    assert stored(' {"b" : [1, 2.50], "a": "\\u00e9\\u0000"} ') == '{"a":"é\\u0000","b":[1,2.5]}'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Not JSON"),
        ("{", "Not JSON"),
        ("{} {}", "Not JSON"),
        ("[]", "Not a JSON object"),
        ("null", "Not a JSON object"),
        ('{"a":NaN}', "NaN is no number of JSON"),
        ('{"a":Infinity}', "Infinity is no number of JSON"),
        ('{"a":1e400}', "too large"),
        ('{"a":"\\ud800"}', "lone surrogate"),
        ('{"\\udfff":1}', "lone surrogate"),
        ('{"a":"\n"}', "Not JSON"),
        ("[" * 60_000, "Not JSON"),
        ('{"a":' + "[" * 900 + "]" * 900 + "}", "within each other"),
        ('{"a":' * 9_000 + "1" + "}" * 9_000, "Not JSON"),
    ],
)
def test_what_is_no_record_says_why(text, why):
    """An operator reads why a product was left out."""
    with pytest.raises(bodies.NotStorable, match=why):
        stored(text)


def test_a_record_has_a_size_that_every_till_can_take():
    """64 KiB in UTF-8 as they are stored, and not a byte more; spaces around do not count."""
    fits = "é" * ((limits.MAX_RECORD_BYTES - len('{"a":""}')) // 2)

    assert len(stored(f'{{ "a": "{fits}" }}').encode()) == limits.MAX_RECORD_BYTES
    with pytest.raises(bodies.NotStorable, match="65,536 bytes"):
        stored(f'{{"a":"{fits}x"}}')
    with pytest.raises(bodies.NotStorable, match="65,536 bytes"):
        bodies.parsed(" " * limits.MAX_RECORD_BYTES + "{}")


def test_a_record_counts_with_its_id_and_its_body():
    """A till adds the same numbers up and compares the sums."""
    expected = int.from_bytes(sha256(b'4711\0{"a":"\xc3\xa9"}').digest()[:16], "big")

    assert bodies.record_hash("4711", '{"a":"é"}') == expected
    assert bodies.digest_bytes(expected) == expected.to_bytes(16, "big")
    assert bodies.digest_bytes(2**128 + 5) == (5).to_bytes(16, "big")
    assert bodies.digest_bytes(-1) == b"\xff" * 16
    assert math.log2(bodies.DIGEST_MODULUS) == 128


@pytest.mark.parametrize(
    ("text", "is_one"), [("a", True), (" ", True), ("é" * 200, True), ("", False), ("a\0", False)]
)
def test_an_id_has_up_to_200_characters(text, is_one):
    """Whatever a retailer numbers products by is an id, as long as a database can hold it."""
    assert bodies.is_record_id(text) == is_one
    assert not bodies.is_record_id("x" * 201)
