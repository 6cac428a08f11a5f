"""How a drain shows that it moves: a bar on a terminal with the extra [ui], else plain lines."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def shown_progress() -> Iterator[Callable[[int], None]]:
    """Gives the function that is told how many events and edits still wait."""
    try:
        from rich.progress import Progress  # noqa: PLC0415 - an optional extra
    except ImportError:
        yield _plain()
        return
    if not sys.stderr.isatty():
        yield _plain()
        return
    with Progress(transient=True) as bar:
        task = bar.add_task("sending", total=None)
        most = 0

        def show(waiting: int) -> None:
            nonlocal most
            most = max(most, waiting)
            bar.update(task, total=most, completed=most - waiting)

        yield show


def _plain() -> Callable[[int], None]:
    last = -1

    def show(waiting: int) -> None:
        nonlocal last
        if waiting != last:
            sys.stderr.write(f"{waiting} wait\n")
            last = waiting

    return show
