"""Synthetic sales of about 400 bytes, as events of one device's outbox."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from tillsync.v1.event_pb2 import Event
from tillsync.v1.ingest_service_pb2 import IngestStreamRequest
from tillsync.v1.retail_pb2 import Sale
from tillsync_agent.ids import mint_key
from tillsync_service.foundation.identity import Device

_LINES = 13
_FIRST = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Till:
    """A device and its outbox."""

    device: Device
    epoch: int

    @classmethod
    def of(cls, tenant_id: UUID) -> "Till":
        return cls.of_device(Device(tenant_id, uuid4(), uuid4()))

    @classmethod
    def nowhere(cls) -> "Till":
        """A till whose events are only recorded."""
        return cls.of(uuid4())

    @classmethod
    def of_device(cls, device: Device) -> "Till":
        """The device with a new outbox."""
        return cls(device, random.getrandbits(62) | 1)


def sales(till: Till, count: int, *, seed: int = 1) -> Iterator[Event]:
    """`count` sales of `till`, numbered from 1 on, spread over a few business days."""
    chance = random.Random(seed)  # noqa: S311  # the same sales at every run
    for number in range(1, count + 1):
        yield _event(till, number, chance)


def batches(events: Iterator[Event], size: int) -> list[bytes]:
    """The events as serialized IngestStreamRequests (and IngestRequests: the fields are one)."""
    result: list[bytes] = []
    request = IngestStreamRequest()
    for event in events:
        request.events.append(event)
        if len(request.events) == size:
            result.append(request.SerializeToString())
            request = IngestStreamRequest()
    if request.events:
        result.append(request.SerializeToString())
    return result


def _event(till: Till, number: int, chance: random.Random) -> Event:
    occurred_at = _FIRST + timedelta(seconds=number)
    sale = _sale(number, chance)
    event = Event(
        key=mint_key(),
        business_day=f"{occurred_at:%Y-%m-%d}",
        outbox_epoch=till.epoch,
        device_sequence=number,
        clock_offset_ms=120,
    )
    event.occurred_at.FromDatetime(occurred_at)
    event.body.Pack(sale)
    event.amounts.add(currency="USD", minor_units=sale.total_minor)
    return event


def _sale(number: int, chance: random.Random) -> Sale:
    sale = Sale(receipt_number=f"{number:08}", currency="USD", cashier_id="c17")
    for _ in range(_LINES):
        pieces, price = chance.randint(1, 4), chance.randint(49, 1999)
        line = sale.lines.add(
            product_id=f"{chance.randint(10**11, 10**12)}",
            unit_price_minor=price,
            total_minor=pieces * price,
        )
        line.quantity.unscaled = pieces
        sale.total_minor += line.total_minor
    sale.taxes.add(code="A", base_minor=sale.total_minor, amount_minor=sale.total_minor // 20)
    sale.tenders.add(kind="card", amount_minor=sale.total_minor, reference=f"T{number:010}")
    return sale
