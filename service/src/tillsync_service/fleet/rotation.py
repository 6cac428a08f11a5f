"""How refresh secrets rotate without a lock-out, and how a second holder is noticed. Pure.

A device holds a secret and the next one: it stores the next before it proposes it, presents the
old one until an answer has come, and the next one from then on. The service knows secrets by their
hashes, and each is in one of three states:

    current    what the device presents now
    proposed   what it will present once our answer has reached it
    retired    known, and presented by nobody who holds the secret alone

                        proposes n                     presents n
    current c  ────────────────────▶ current c   ────────────────────▶ current n
                                     proposed n                        retired c

The proposed secret becomes current when it is first presented, and not before: whichever message
was lost, the device holds a secret that is current or proposed. So a retired secret, or a second,
different proposal, comes from somebody else who has the device's secret (a cloned disk, a restored
backup, a thief): an alarm. A proposal that comes with an alarm is not taken, but it is kept as
retired: its sender will present it next, is perhaps the honest one, and must go on sending sales.

When an operator clears a suspicion, every secret of the device is retired: which of them the
honest device holds cannot be known here. Then none is current, and the first known secret to be
presented becomes current without an alarm, with whatever it proposes. From there on the rules are
the old ones, so a second holder who is still about is noticed as before.
"""

from dataclasses import dataclass, field
from enum import StrEnum

# A retired secret is remembered this long, so that a copy of an old disk is noticed and a till
# that was away comes in. Then its row is written over: nothing grows for ever.
RETIRED_SECRET_DAYS = 400


class State(StrEnum):
    """Of a secret; in the order in which changes must be written, so that a device never has two
    current or two proposed ones."""

    RETIRED = "retired"
    CURRENT = "current"
    PROPOSED = "proposed"


@dataclass(frozen=True, slots=True)
class Secrets:
    """The hashes of a device's secrets; of the retired ones those that matter to the question."""

    current: bytes | None = None
    proposed: bytes | None = None
    retired: frozenset[bytes] = field(default_factory=frozenset)

    def states(self) -> dict[bytes, State]:
        """Each secret's state, in the order of State."""
        states = dict.fromkeys(self.retired, State.RETIRED)
        if self.current is not None:
            states[self.current] = State.CURRENT
        if self.proposed is not None:
            states[self.proposed] = State.PROPOSED
        return states


def present(secrets: Secrets, presented: bytes, proposal: bytes | None) -> tuple[Secrets, bool]:
    """What becomes of `secrets` when the known secret `presented` comes in and `proposal` (None:
    none) with it; and whether that gives two holders of the secret away. A repeat of the same
    changes nothing."""
    secrets = _promoted(secrets, presented)
    if secrets.current != presented:
        return _remembered(secrets, proposal), True
    if proposal is None or proposal in (presented, secrets.proposed):
        return secrets, False
    if secrets.proposed is not None:
        return _remembered(secrets, proposal), True
    retired = secrets.retired - {proposal}
    return Secrets(current=presented, proposed=proposal, retired=retired), False


def _promoted(secrets: Secrets, presented: bytes) -> Secrets:
    """`presented` as the current one, if it is proposed, or if none is current."""
    if secrets.current is None:
        known = frozenset(secrets.states()) - {presented}
        return Secrets(current=presented, retired=known)
    if presented == secrets.proposed:
        return Secrets(current=presented, retired=secrets.retired | {secrets.current})
    return secrets


def _remembered(secrets: Secrets, proposal: bytes | None) -> Secrets:
    if proposal is None or proposal in secrets.states():
        return secrets
    return Secrets(secrets.current, secrets.proposed, secrets.retired | {proposal})
