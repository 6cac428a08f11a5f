"""The strangest events, through the wire into Postgres and against a model of one at a time."""

import json
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from random import Random

import pytest

from support.builders import NOW
from support.service import Caller, ids_as_token, ingest_served, names
from tillsync.v1.event_pb2 import Event, EventFlag
from tillsync_service.foundation.identity import Device

INT64_MAX = 2**63 - 1
NOON = int(NOW.timestamp())
YEAR = 366 * 86_400

# What would mean something else in an array, in JSON or in SQL, and what differs by a hair.
_WORDS = ["a", "A", " a", "NULL", "{}", "{", "},{", "[]", "a,b", "'", '"', "\\", "\\u0000", "$1"]
_WORDS += ["é", "e\u0301", "\U0001f6d2", "\u2028", "\ufeff", "\x01", "\n", "true", "1"]
KEYS = [*_WORDS, "k" * 200, "only Postgres refuses it", "", "x\0", "k" * 201]
CURRENCIES = [*_WORDS, "USD", "EUR", "XXX", "\U0001f6d2" * 12, "", "U\0", "x" * 13]
DAYS = ["", "2026-11-22", "2026-11-23", "0001-01-01", "9999-12-31", "2024-02-29", "2026-02-30"]
DAYS += [
    "22.11.2026",
    "-infinity",
    "infinity",
    "today",
    "NULL",
    "\0",
    "2026-11-22 ",
    "\uff12026-11-22",
]
TRACEPARENTS = ["", "00-ab-cd-01", "00-AB-cd-01", "00-ab-cd-01\n", f"00-{'a' * 60}-b-c", "NULL"]
TRACEPARENTS += ['"', ",", "{}", "\0"]
NUMBERS = [*range(7), -1, -(2**63), INT64_MAX, INT64_MAX - 1]
EPOCHS = [0, 1, 2, -1, -(2**63), INT64_MAX]
MONEY = [0, 1, -1, 1250, INT64_MAX, -(2**63)]
SECONDS = [0, 1, -1, -3599, -3601, NOON, NOON + YEAR, NOON - YEAR, NOON - YEAR - 1]
SECONDS += [-62_135_596_800, -62_135_596_799, 253_402_300_798, 253_402_300_799, INT64_MAX]
NANOS = [0, 1, 999, 1000, 500_000_000, 999_999_999, 10**9, -1]
TYPES = ["t", "ß", "a,b", "t" * 200, "", "t\0", "t" * 201]
BODIES = [b"", b"1", b"\0", b"\\x00", b"\xff"]


class Till:
    """Mostly sound events; `oddity` of each one's fields is strange."""

    def __init__(self, random: Random, oddity: float) -> None:
        self._random = random
        self._oddity = oddity

    def event(self) -> Event:
        pick = self._random.choice
        event = Event(key=pick(KEYS), business_day=self._any(DAYS, DAYS[:3]))
        event.body.type_url = self._any(TYPES, ["t"])
        event.body.value = pick(BODIES)
        event.traceparent = pick(TRACEPARENTS)
        if self._random.random() < 0.9:
            event.occurred_at.seconds = self._any(SECONDS, [NOON])
            event.occurred_at.nanos = self._any(NANOS, [5000])
        for _ in range(self._any([0, 1, 2, 3, 17], [1])):
            event.amounts.add(currency=self._any(CURRENCIES, ["USD"]), minor_units=pick(MONEY))
        if self._random.random() < 0.7:
            event.outbox_epoch = self._any(EPOCHS, [1, 2])
            event.device_sequence = self._any(NUMBERS, range(1, 12))
        if self._random.random() < 0.5:
            event.clock_offset_ms = pick([0, -5, INT64_MAX, -(2**63)])
        return event

    def _any(self, strange, sound):
        return self._random.choice(strange if self._random.random() < self._oddity else sound)


@dataclass
class Model:
    """What a tenant's tables must hold, written event by event."""

    events: list = field(default_factory=list)
    ledger: dict = field(default_factory=dict)
    quarantine: dict = field(default_factory=dict)
    days: dict = field(default_factory=dict)
    numbers: dict = field(default_factory=dict)
    rejected: dict = field(default_factory=dict)
    used: set = field(default_factory=set, compare=False)
    """The numbers of `events`."""

    def take(self, event: Event, device: Device) -> tuple:
        """The verdict: outcome, position, flags, field at fault."""
        number = (device.device_id, event.outbox_epoch, event.device_sequence)
        is_numbered = event.outbox_epoch > 0 and 0 < event.device_sequence < INT64_MAX
        if is_numbered:
            self.numbers.setdefault(number[:2], set()).add(event.device_sequence)
        if (fault := fault_of(event)) is not None:
            if is_numbered:
                self.rejected.setdefault(number, ("EVENT_NOT_STORABLE", fault))
            return "REJECTED", 0, set(), fault
        digest = sha256(event.body.type_url.encode() + b"\0" + event.body.value).digest()[:16]
        position, held = self.ledger.setdefault(event.key, (len(self.events) + 1, digest))
        if held != digest:
            row = (position, device.store_id, device.device_id, event.SerializeToString())
            self.quarantine.setdefault((event.key, digest), row)
            return "CONFLICT", position, set(), "key"
        if position <= len(self.events):
            return "DUPLICATE", position, set(), ""
        flags = flags_of(event, device, is_fork=is_numbered and number in self.used)
        self.used.add(number)
        self._store(event, device, flags)
        self._count(event, device, digest)
        return "ACCEPTED", position, flags, ""

    def _store(self, event: Event, device: Device, flags: set) -> None:
        is_sound = re.fullmatch("[0-9a-f]{2}(-[0-9a-f]+){3}", event.traceparent)
        self.events.append(
            {
                "position": len(self.events) + 1,
                "key": event.key,
                "store_id": device.store_id,
                "device_id": device.device_id,
                "outbox_epoch": event.outbox_epoch,
                "device_sequence": event.device_sequence,
                "occurred_at": None if flags & {"CLOCK_ABSENT", "CLOCK_UNREADABLE"} else at(event),
                "business_day": event.business_day or "-infinity",
                "clock_offset_ms": (
                    event.clock_offset_ms if event.HasField("clock_offset_ms") else None
                ),
                "flags": sum(1 << EventFlag.Value(f"EVENT_FLAG_{flag}") for flag in flags),
                "type_url": event.body.type_url,
                "body": event.body.value,
                "amounts": sums(event),
                "traceparent": (
                    event.traceparent if is_sound and len(event.traceparent) <= 55 else ""
                ),
            }
        )

    def _count(self, event: Event, device: Device, digest: bytes) -> None:
        for currency, money in (sums(event) or {"XXX": 0}).items():
            book = (device.device_id, event.business_day or "-infinity", currency)
            count, total, digests = self.days.get(book, (0, 0, 0))
            digests = (digests + int.from_bytes(digest)) % 2**128
            self.days[book] = (count + 1, total + money, digests)


def fault_of(event: Event) -> str | None:
    number = (event.outbox_epoch, event.device_sequence)
    faults = {
        "key": not is_text(event.key, 200),
        "body.type_url": not is_text(event.body.type_url, 200),
        "device_sequence": number != (0, 0) and not (number[0] > 0 and 0 < number[1] < INT64_MAX),
        "business_day": not is_day(event.business_day),
        "amounts": len(event.amounts) > 16,
        "amounts.currency": not all(is_text(amount.currency, 12) for amount in event.amounts),
        "": event.key == "only Postgres refuses it",
    }
    return next((name for name, is_faulty in faults.items() if is_faulty), None)


def is_text(text: str, longest: int) -> bool:
    return 0 < len(text) <= longest and "\0" not in text


def is_day(text: str) -> bool:
    try:
        return not text or (
            bool(re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text))
            and bool(date(*map(int, text.split("-"))))
        )
    except ValueError:
        return False


def flags_of(event: Event, device: Device, *, is_fork: bool) -> set[str]:
    time = event.occurred_at
    is_readable = -62_135_596_800 < time.seconds < 253_402_300_799 and 0 <= time.nanos < 10**9
    flags = {
        "CLOCK_ABSENT": not event.HasField("occurred_at"),
        "CLOCK_UNREADABLE": event.HasField("occurred_at") and not is_readable,
        "CLOCK_IMPLAUSIBLE": event.HasField("occurred_at")
        and is_readable
        and not NOON - YEAR <= time.seconds < NOON + YEAR,
        "FORKED": is_fork,
        "SUSPECT": device.suspect,
        "DAY_UNDECLARED": not event.business_day,
    }
    return {name for name, is_set in flags.items() if is_set}


def at(event: Event) -> datetime:
    time = event.occurred_at
    since = timedelta(seconds=time.seconds, microseconds=time.nanos // 1000)
    return datetime(1970, 1, 1, tzinfo=UTC) + since


def sums(event: Event) -> dict[str, int]:
    result: dict[str, int] = {}
    for amount in event.amounts:
        result[amount.currency] = result.get(amount.currency, 0) + amount.minor_units
    return result


async def stored(books, tenant_id) -> Model:
    """What is in the tables, in the model's words."""
    fetch = books.connection.fetch
    events = await fetch(
        "SELECT position, key, store_id, device_id, outbox_epoch, device_sequence, occurred_at,"
        " business_day::text, clock_offset_ms, flags, type_url, body, amounts, traceparent"
        " FROM tillsync.event WHERE tenant_id = $1 ORDER BY position",
        tenant_id,
    )
    days = await fetch(
        "SELECT device_id, business_day::text, currency, event_count, amount_minor, digest_sum"
        " FROM tillsync.device_day WHERE tenant_id = $1",
        tenant_id,
    )
    quarantine = await fetch(
        "SELECT key, digest, held_position, store_id, device_id, envelope"
        " FROM tillsync.quarantine WHERE tenant_id = $1",
        tenant_id,
    )
    return Model(
        [{**event, "amounts": json.loads(event["amounts"])} for event in events],
        await books.ledger(tenant_id),
        {(row[0], row[1]): tuple(row)[2:] for row in quarantine},
        {tuple(row)[:3]: tuple(map(int, tuple(row)[3:])) for row in days},
        await books.progress(tenant_id),
        {row[:3]: row[3:] for row in await books.rejections(tenant_id)},
    )


@pytest.mark.parametrize("seed", range(6))
async def test_the_strangest_sales_are_kept_as_if_they_had_come_alone(
    database, books, monkeypatch, seed
):
    """Tills with every bug there is send whatever they like: each event hears, and is stored and
    counted as, what it would have been had it come alone."""
    random = Random(seed)
    await books.refuse_key("only Postgres refuses it", "22023")
    first = await books.enrol()
    second = await books.enrol(first.tenant_id)
    devices = [first, second, replace(second, suspect=True)]
    till = Till(random, random.choice([0.05, 0.3, 1]))
    model = Model()
    monkeypatch.setattr("support.service.utc_now", lambda: NOW)
    async with ingest_served(database) as served:
        for size in (1, 2, 300, 40, 600, 5):
            device = random.choice(devices)
            events = [till.event() for _ in range(size)]
            async with Caller(served.address, ids_as_token(device)) as caller:
                verdicts = await caller.offer(*events)

            heard = [
                (
                    name,
                    verdict.position,
                    {EventFlag.Name(flag).removeprefix("EVENT_FLAG_") for flag in verdict.flags},
                    verdict.refusal.field,
                )
                for name, verdict in zip(names(verdicts), verdicts, strict=True)
            ]
            assert heard == [model.take(event, device) for event in events]
    assert await stored(books, first.tenant_id) == model
    assert await books.head(first.tenant_id) == len(model.events)
