"""What a till's program itself says it sold: a file beside the outbox, written by other code.

The verdict holds it against Postgres, so that the outbox is no witness in its own case. One line a
sale, written when `record()` has returned: key, currency, minor units, how often it was recorded.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Entry:
    """One sale."""

    key: str
    currency: str
    minor_units: int
    times: int

    @classmethod
    def parse(cls, line: str) -> Self:
        key, currency, minor_units, times = line.split("\t")
        return cls(key, currency, int(minor_units), int(times))

    def __str__(self) -> str:
        return f"{self.key}\t{self.currency}\t{self.minor_units}\t{self.times}\n"


class Ledger:
    """For one writer. Opening it drops a last line that a kill cut short."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        written = path.read_bytes()
        os.ftruncate(self._file, written.rfind(b"\n") + 1)
        self.count = written.count(b"\n")

    def write(self, entry: Entry) -> None:
        """At once: what is written here survives a SIGKILL of the writer."""
        os.write(self._file, str(entry).encode())
        self.count += 1


def count(path: Path) -> int:
    """How many sales are in the ledger so far."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def read(path: Path) -> list[Entry]:
    """All of it, once its writer has ended."""
    return [Entry.parse(line) for line in path.read_text().splitlines()]
