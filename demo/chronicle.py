"""What happens to whom: what the views show and the verdict repeats."""

from collections.abc import Iterator
from contextlib import contextmanager

EVERYBODY = 0


class Chronicle:
    """`current`: what is going on now, by the till's number. `past`: what ever did."""

    def __init__(self) -> None:
        self.phase = "starting"
        self.current: dict[int, str] = {}
        self.past: dict[int, list[str]] = {}
        self.duplicates: dict[int, int] = {}
        """Heard by others than the till's own agent, who carried its sales in."""

    @contextmanager
    def during(self, till: int, what: str) -> Iterator[None]:
        """What is the case from here to the end of the block."""
        self.past.setdefault(till, []).append(what)
        self.current[till] = what
        try:
            yield
        finally:
            self.current.pop(till, None)

    def count_duplicates(self, till: int, number: int) -> None:
        self.duplicates[till] = self.duplicates.get(till, 0) + number

    def sentence(self) -> str:
        """What is going on now, in a line."""
        parts = [
            what if till == EVERYBODY else f"till {till}: {what}"
            for till, what in self.current.items()
        ]
        return " · ".join(parts) or self.phase
