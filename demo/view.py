"""What a person sees while the demo runs: a live table, or a line now and then."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from demo.chronicle import Chronicle
from demo.till import Look, Till

PLAIN_EVERY_SECONDS = 2.0
PLAIN_WIDTH = 150


def console() -> Console:
    """Standard output; a file or a pipe gets lines long enough for the verdict."""
    found = Console()
    return found if found.is_terminal else Console(width=PLAIN_WIDTH)


class View:
    """Shows moments; the chronicle says what goes on in them."""

    def __init__(self, out: Console, chronicle: Chronicle) -> None:
        self._out = out
        self._chronicle = chronicle
        self._began = time.monotonic()
        self._said_at = float("-inf")
        self._resources = ExitStack()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._out.is_terminal:
            live = Live(console=self._out, auto_refresh=False, transient=True)
            self._live = self._resources.enter_context(live)
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def show(self, tills: Sequence[Till], looks: Sequence[Look], stored: Mapping[str, int]) -> None:
        """One moment; `looks` one for each till, `stored` by device."""
        if self._live is not None:
            self._live.update(self._picture(tills, looks, stored), refresh=True)
        elif self.seconds - self._said_at >= PLAIN_EVERY_SECONDS:
            self._said_at = self.seconds
            self._out.print(self._line(looks, stored), highlight=False)

    def _line(self, looks: Sequence[Look], stored: Mapping[str, int]) -> str:
        return (
            f"{self.seconds:5.0f} s  recorded {sum(look.recorded for look in looks):>6,}"
            f"  waiting {sum(look.waiting for look in looks):>6,}"
            f"  stored {sum(stored.values()):>6,}  {self._chronicle.sentence()}"
        )

    def _picture(
        self, tills: Sequence[Till], looks: Sequence[Look], stored: Mapping[str, int]
    ) -> Group:
        shown = Table(title=f"{self.seconds:.0f} s · {self._chronicle.phase}")
        for heading in ("till", "store", "recorded", "waiting", "stored"):
            shown.add_column(heading, justify="right")
        shown.add_column("now", min_width=34)
        for till, look in zip(tills, looks, strict=True):
            trouble = self._chronicle.current.get(till.number, "")
            shown.add_row(
                str(till.number),
                till.store,
                f"{look.recorded:,}",
                f"{look.waiting:,}",
                f"{stored.get(till.device_id, 0):,}",
                trouble,
                style="yellow" if trouble else None,
            )
        return Group(shown, Text(self._chronicle.sentence(), style="bold yellow"))
