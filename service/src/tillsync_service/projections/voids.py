"""Which documents are taken back. Pure."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from tillsync_service.projections.reasons import Reason, Why
from tillsync_service.projections.rows import Dead, Recorded


class Target(NamedTuple):
    """A document that is in the tables, and the position of the event that took it back, if so."""

    position: int
    voided_by: int | None


class Voiding(NamedTuple):
    """A document, and the void that takes it back: both by position."""

    position: int
    target: int


def judge(
    voids: Sequence[tuple[Recorded, str]],
    targets: Mapping[str, Target],
    *,
    anywhere: bool,
    held: Collection[Voiding] = (),
) -> tuple[list[Voiding], list[Dead]]:
    """What the voids take back, in their order, and those that cannot. `targets`: by event key.
    Without `anywhere` a void takes back only what came before it, so that the outcome does not
    hang on how the events were cut into pages; what was `held` to be taken back still is."""
    voidings: list[Voiding] = []
    dead: list[Dead] = []
    taken: set[int] = set()
    for event, key in voids:
        target = targets.get(key)
        if target is None or not (
            anywhere
            or target.position < event.position
            or Voiding(event.position, target.position) in held
        ):
            dead.append(Dead(event, VOID_UNKNOWN))
        elif target.position in taken or target.voided_by is not None:
            dead.append(Dead(event, _REPEATED))
        else:
            taken.add(target.position)
            voidings.append(Voiding(event.position, target.position))
    return voidings, dead


VOID_UNKNOWN = Why(
    Reason.VOID_UNKNOWN,
    "voided_key",
    "No document with this key was projected; once there is one, replay this.",
)
_REPEATED = Why(
    Reason.VOID_REPEATED, "voided_key", "The document was taken back by another event before."
)
