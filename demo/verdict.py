"""The reckoning: what the tills' ledgers say against what PostgreSQL holds."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from demo import ledger
from demo.books import Stored
from demo.chronicle import Chronicle
from demo.ledger import Entry
from demo.records import Outcome, must_be_right
from demo.till import Look, Till


@dataclass(frozen=True, slots=True)
class Account:
    """One till. Money is in minor units of all its currencies together; `faults` looks closer."""

    number: int
    store: str
    recorded: int
    recorded_twice: int
    stored: int
    duplicates: int
    lost: int
    doubled: int
    money_recorded: int
    money_stored: int
    faults: tuple[str, ...]
    story: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """All tills together."""

    accounts: tuple[Account, ...]
    faults: tuple[str, ...]
    records: Outcome
    seconds: float

    @property
    def is_good(self) -> bool:
        return not self.faults

    def total(self, column: str) -> int:
        return sum(getattr(account, column) for account in self.accounts)

    def as_json(self) -> str:
        return json.dumps(
            {
                "recorded": self.total("recorded"),
                "stored": self.total("stored"),
                "duplicates": self.total("duplicates"),
                "lost": self.total("lost"),
                "doubled": self.total("doubled"),
                "money_recorded_minor": self.total("money_recorded"),
                "money_stored_minor": self.total("money_stored"),
                "replicas_equal": self.records.replicas_equal,
                "missing_found": self.records.missing_found,
                "missing_healed": self.records.missing_healed,
                "conflicts_audited": self.records.conflicts_audited,
                "seconds": round(self.seconds, 1),
            }
        )


def reckon(
    tills: Sequence[Till],
    looks: Sequence[Look],
    *,
    stored: Sequence[Stored],
    totals: Mapping[str, tuple[int, int]],
    chronicle: Chronicle,
    records: Outcome,
    seconds: float,
) -> Verdict:
    """`looks` are the last ones at each till; `totals` are the service's own, by device."""
    ledgers = [ledger.read(till.ledger_path) for till in tills]
    copies = Counter(row.key for row in stored)
    accounts = tuple(
        _account(
            till,
            entries,
            look=look,
            rows=[row for row in stored if row.device_id == till.device_id],
            copies=copies,
            totals=totals.get(till.device_id, (0, 0)),
            chronicle=chronicle,
        )
        for till, entries, look in zip(tills, ledgers, looks, strict=True)
    )
    sold = {entry.key for entries in ledgers for entry in entries}
    strangers = copies.keys() - sold
    faults = [fault for account in accounts for fault in account.faults]
    if strangers:
        faults.append(f"{len(strangers)} sales are stored that no till ever recorded")
    faults += must_be_right(records, len(tills))
    return Verdict(accounts, tuple(faults), records, seconds)


def _account(
    till: Till,
    entries: Sequence[Entry],
    *,
    look: Look,
    rows: Sequence[Stored],
    copies: Mapping[str, int],
    totals: tuple[int, int],
    chronicle: Chronicle,
) -> Account:
    lost = sum(entry.key not in copies for entry in entries)
    doubled = sum(copies.get(entry.key, 1) - 1 for entry in entries)
    money_stored = sum(sum(row.amounts.values()) for row in rows)
    return Account(
        number=till.number,
        store=till.store,
        recorded=len(entries),
        recorded_twice=sum(entry.times > 1 for entry in entries),
        stored=len(rows),
        duplicates=look.duplicates + chronicle.duplicates.get(till.number, 0),
        lost=lost,
        doubled=doubled,
        money_recorded=sum(entry.minor_units for entry in entries),
        money_stored=money_stored,
        faults=tuple(
            f"till {till.number}: {fault}"
            for fault, is_so in (
                (
                    f"{len(till.sales) - len(entries)} sales not made",
                    len(entries) < len(till.sales),
                ),
                (f"{lost} sales lost", lost),
                (f"{doubled} sales doubled", doubled),
                (f"{look.waiting} sales still wait", look.waiting),
                (f"{look.refused} sales refused", look.refused),
                ("money differs, sale by sale", _money(entries) != _money_of_rows(rows)),
                ("the service's own day totals differ", totals != (len(rows), money_stored)),
            )
            if is_so
        ),
        story="; ".join(chronicle.past.get(till.number, ())),
    )


def _money(entries: Iterable[Entry]) -> dict[tuple[str, str], int]:
    return {(entry.key, entry.currency): entry.minor_units for entry in entries}


def _money_of_rows(rows: Iterable[Stored]) -> dict[tuple[str, str], int]:
    return {
        (row.key, currency): minor_units
        for row in rows
        for currency, minor_units in row.amounts.items()
    }
