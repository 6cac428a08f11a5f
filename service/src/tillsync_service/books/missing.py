"""What is missing from a device, and how it stands on a business day. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import UUID

from tillsync.v1.books_service_pb2 import DayState
from tillsync_service.books.comparison import Held

Row = Mapping[str, Any]
ByDevice = Mapping[UUID, Sequence[Row]]

_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Found:
    """What was found about the devices of a page, by device: the rows of the statements heard_of,
    holes_of, differences_of, waivers_of and forks_of."""

    heard: ByDevice
    holes: ByDevice
    differences: ByDevice
    waivers: ByDevice
    forks: ByDevice


@dataclass(frozen=True, slots=True)
class Lacking:
    """A device that something is missing from, or was and is waived, or whose numbers two events
    had."""

    device: Row
    last_heard_at: datetime | None
    holes: Sequence[Row]
    differences: Sequence[Row]
    waivers: Sequence[Row]
    fork: Row | None

    @property
    def missing_events(self) -> int:
        """How many numbers never came. What a device claims is not bounded, and a message is."""
        return min(int(self.holes[0]["missing_events"]), _INT64_MAX) if self.holes else 0


def by_device(rows: Iterable[Row]) -> ByDevice:
    """Rows that come device by device."""
    return {
        device_id: list(of_device)
        for device_id, of_device in groupby(rows, key=itemgetter("device_id"))
    }


def lacking(devices: Iterable[Row], found: Found, since: date | None) -> list[Lacking]:
    """Those of the devices that there is something to say of. Holes have no day: with `since`,
    those of devices not heard of from then on are left out, and forks noticed before."""
    every = (_lacking(device, found, since) for device in devices)
    return [one for one in every if one.holes or one.differences or one.waivers or one.fork]


def day_state(held: Held, *, claimed: bool) -> "DayState.ValueType":
    """How a device stands on a day. Closed is closed, whatever was waived before; nothing that is
    open is, once it was waived."""
    if held.closed:
        return DayState.DAY_STATE_CLOSED
    if held.waived:
        return DayState.DAY_STATE_WAIVED
    if held.revision:
        return DayState.DAY_STATE_REOPENED
    if held.books or claimed:
        return DayState.DAY_STATE_OPEN
    return DayState.DAY_STATE_SILENT


def _lacking(device: Row, found: Found, since: date | None) -> Lacking:
    device_id = device["device_id"]
    (heard,) = found.heard[device_id]
    last_heard_at = heard["last_heard_at"]
    differences = found.differences.get(device_id, ())
    waivers = found.waivers.get(device_id, ())
    days = {waiver["business_day"] for waiver in waivers} - {None}
    differing = {row["business_day"] for row in differences}
    counts_holes = _is_since(last_heard_at, since)
    return Lacking(
        device,
        last_heard_at,
        found.holes.get(device_id, ()) if counts_holes else (),
        sorted(
            (row for row in differences if row["business_day"] not in days),
            key=lambda row: (row["business_day"] or date.min, row["currency"]),
        ),
        [
            waiver
            for waiver in waivers
            if (waiver["business_day"] in differing if waiver["business_day"] else counts_holes)
        ],
        next(
            (f for f in found.forks.get(device_id, ()) if _is_since(f["noticed_at"], since)), None
        ),
    )


def _is_since(moment: datetime | None, since: date | None) -> bool:
    if since is None:
        return True
    return moment is not None and moment >= datetime.combine(since, time(), UTC)
