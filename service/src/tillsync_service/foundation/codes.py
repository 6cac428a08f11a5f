"""Enrolment codes: 80 random bits that a person can read out and type. Pure, but for the dice."""

import hashlib
import secrets
from collections.abc import Callable

# Crockford's base 32: no I, L, O or U, so nothing looks like something else.
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CODE_CHARACTERS = 16
_GROUP = 4

# What people type for what they read: i and l are the digit one, o is the digit zero.
_TYPED = str.maketrans({"I": "1", "L": "1", "O": "0", "-": "", " ": ""})


def new_code(choose: Callable[[str], str] = secrets.choice) -> str:
    """A code as it is shown, "ABCD-EFGH-JKMN-PQRS". `choose` picks a character."""
    code = "".join(choose(ALPHABET) for _ in range(CODE_CHARACTERS))
    return "-".join(code[at : at + _GROUP] for at in range(0, CODE_CHARACTERS, _GROUP))


def code_hash(typed: str) -> bytes:
    """SHA-256 of the code that `typed` stands for: case, spaces and dashes do not matter. A fast
    hash is enough, because 80 random bits cannot be tried out."""
    return hashlib.sha256(typed.upper().translate(_TYPED).encode()).digest()
