"""Builders: each makes a valid thing and hides what a test does not care about."""

import itertools
import json
from collections.abc import Iterable
from dataclasses import fields
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID, uuid4

from google.protobuf.any_pb2 import Any

from tillsync.v1.event_pb2 import Event
from tillsync.v1.retail_pb2 import Sale
from tillsync_service.foundation.identity import Device
from tillsync_service.ingest.batch import Batch
from tillsync_service.ingest.examine import examine
from tillsync_service.ingest.verdicts import Verdicts

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
BUSINESS_DAY = "2026-11-22"

_numbers = itertools.count(1)


def a_device(tenant_id: UUID | None = None, *, suspect: bool = False) -> Device:
    return Device(tenant_id or uuid4(), uuid4(), uuid4(), suspect)


def a_body(receipt: str = "1") -> Any:
    body = Any()
    body.Pack(Sale(receipt_number=receipt))
    return body


def an_event(
    key: str | None = None,
    *,
    receipt: str = "1",
    amounts: Iterable[tuple[str, int]] = (("USD", 1250),),
    number: int | None = None,
    epoch: int = 7,
    **fields,
) -> Event:
    """A sale. `receipt` makes its body; without a `number` it is one that its sender did not
    number; `fields` are the event's own and win."""
    numbered = {"outbox_epoch": epoch, "device_sequence": number} if number is not None else {}
    fields = {
        "key": f"sale-{next(_numbers)}" if key is None else key,
        "body": a_body(receipt),
        "occurred_at": NOW,
        "business_day": BUSINESS_DAY,
        **numbered,
        **fields,
    }
    event = Event(**fields)
    for currency, minor_units in amounts:
        event.amounts.add(currency=currency, minor_units=minor_units)
    return event


def some_events(count: int) -> list[Event]:
    return [an_event() for _ in range(count)]


def examined(device: Device, *events: Event) -> Batch:
    """The events as a batch of `device`, ready for a group commit."""
    return examine(events, device, NOW)


def rows(columns: Batch | Verdicts) -> list[SimpleNamespace]:
    """Columns as rows, each named after its column: `keys` become a `key` each."""
    named = {field.name: getattr(columns, field.name) for field in fields(columns)}
    if isinstance(columns, Batch):
        device = named.pop("device")
        events = named.pop("events")
        del named["totals"]
        named |= {
            "devices": [device] * len(columns),
            "places": [events[place] for place in columns.places],
            "amounts": json.loads(f"[{columns.amounts}]"),
            "traceparents": columns.traceparents.replace('""', "").split(","),
            **{
                name: [None if item == "NULL" else int(item) for item in named[name].split(",")]
                for name in ("seconds", "nanos", "offsets_ms")
            },
        }
    singular = [_SINGULAR.get(name, name.removesuffix("s")) for name in named]
    return [
        SimpleNamespace(**dict(zip(singular, row, strict=True)))
        for row in zip(*named.values(), strict=True)
    ]


_SINGULAR = {
    "places": "event",
    "bodies": "body",
    "offsets_ms": "offset_ms",
    "flags": "flags",
    "amounts": "amounts",
}
