"""Enrolment codes, and who may join with one."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tillsync.v1.error_reason_pb2 import ErrorReason
from tillsync_service.fleet.enrolment import Code, returning_device
from tillsync_service.foundation.codes import ALPHABET, code_hash, new_code
from tillsync_service.foundation.errors import InvalidRequest, ServiceError

DEVICE = uuid4()


def a_code(*, used_by=None, is_expired=False):
    return Code(uuid4(), "Main Street", used_by, is_expired)


def test_a_code_is_sixteen_characters_that_nobody_misreads():
    """An operator reads a code out on the telephone, and nothing in it sounds like an O or an I."""
    code = new_code()

    assert len(code.replace("-", "")) == 16
    assert [len(group) for group in code.split("-")] == [4, 4, 4, 4]
    assert set(code) <= set(ALPHABET) | {"-"}
    assert len(ALPHABET) == 32
    assert not set("ILOU") & set(ALPHABET)


def test_codes_do_not_repeat():
    """A code that was used for one till opens nothing for another."""
    assert len({new_code() for _ in range(1000)}) == 1000


@given(st.randoms(use_true_random=False))
def test_a_code_may_be_typed_as_people_type(random):
    """The shopkeeper types small letters, forgets the dashes, and takes a zero for an O."""
    code = new_code(random.choice)
    typed = code.replace("0", random.choice("0oO")).replace("1", random.choice("1iIlL"))
    typed = typed.replace("-", random.choice(["", " ", "-", " - "]))
    typed = random.choice([str.lower, str.upper, str.title])(typed)

    assert code_hash(f" {typed} ") == code_hash(code)


@given(st.text(alphabet=ALPHABET, min_size=16, max_size=16), st.integers(0, 15))
def test_a_code_with_one_other_character_is_another_code(code, at):
    """A typing error finds no store, least of all somebody else's."""
    other = code[:at] + ALPHABET[ALPHABET.index(code[at]) - 1] + code[at + 1 :]

    assert code_hash(other) != code_hash(code)


def test_a_newcomer_may_join():
    """A new till with a fresh code becomes a device of the store."""
    assert returning_device(a_code(), owner_of_secret=None) is None


@pytest.mark.parametrize("is_expired", [False, True])
def test_a_till_whose_answer_was_lost_is_told_again_who_it_is(is_expired):
    """The line broke while the till enrolled: the same again gives the same device, also when the
    code's time is over by then."""
    code = a_code(used_by=DEVICE, is_expired=is_expired)

    assert returning_device(code, owner_of_secret=DEVICE) == DEVICE


@pytest.mark.parametrize(
    ("code", "owner", "reason"),
    [
        (a_code(used_by=DEVICE), None, "CODE_USED"),
        (a_code(used_by=DEVICE), uuid4(), "CODE_USED"),
        (a_code(used_by=DEVICE, is_expired=True), None, "CODE_USED"),
        (a_code(is_expired=True), None, "CODE_EXPIRED"),
        (a_code(is_expired=True), DEVICE, "CODE_EXPIRED"),
        (a_code(), DEVICE, "FIELD_INVALID"),
    ],
)
def test_a_till_that_may_not_join_hears_what_to_ask_for(code, owner, reason):
    """The shopkeeper reads whether the code is used up or too old, and asks for a new one."""
    with pytest.raises(ServiceError) as refusal:
        returning_device(code, owner_of_secret=owner)

    assert ErrorReason.Name(refusal.value.reason) == f"ERROR_REASON_{reason}"


def test_a_secret_of_another_device_names_the_field():
    """Two tills set up from one disk image before they enrolled do not become one and the same."""
    with pytest.raises(InvalidRequest) as refusal:
        returning_device(a_code(), owner_of_secret=DEVICE)

    assert refusal.value.field == "refresh_secret_hash"
