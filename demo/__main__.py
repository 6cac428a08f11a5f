"""`python -m demo`: a day of a small chain with everything going wrong, and nothing missing."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click

from demo.chronicle import Chronicle
from demo.day import Day, Size
from demo.failure import DemoFailed
from demo.mishaps import VICTIMS
from demo.statement import pronounce
from demo.verdict import Verdict
from demo.view import View, console
from tillsync_service.foundation.embedded import EmbeddedPostgresError

WATCHDOG_SECONDS = 240.0


@click.command()
@click.option("--sales", default=5_000, show_default=True, help="Baskets to replay.")
@click.option("--stores", default=5, show_default=True, help="The busiest ones of the data.")
@click.option("--tills-per-store", default=2, show_default=True)
@click.option("--day-seconds", default=40.0, show_default=True, help="How long the tills sell.")
@click.option("--seed", default=1, show_default=True, help="Decides whom the mishaps hit.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="An empty folder for ledgers, outboxes, database and logs, which stay.",
)
def main(
    *,
    sales: int,
    stores: int,
    tills_per_store: int,
    day_seconds: float,
    seed: int,
    keep: Path | None,
) -> None:
    """Tills sell real baskets while links, programs, service and database fail under them.

    A live view on a terminal, lines elsewhere; then the verdict, as a table and, in the last
    line, as JSON.

    \b
    Exit status: 0 nothing lost, nothing doubled, the money agrees; 1 anything else.
    Example: python -m demo --sales 1000 --day-seconds 20
    """
    if stores * tills_per_store < VICTIMS:
        raise click.UsageError(f"the mishaps need {VICTIMS} tills: more stores or tills per store")
    size = Size(sales, stores, tills_per_store, day_seconds, seed)
    out, chronicle = console(), Chronicle()
    try:
        with _folder(keep) as folder, View(out, chronicle) as view:
            verdict = asyncio.run(_watched(Day(size, folder, view, chronicle)))
    except BaseExceptionGroup as group:
        _give_up(_first(group), keep)
    except (DemoFailed, TimeoutError) as error:
        _give_up(error, keep)
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    pronounce(out, verdict, chronicle)
    click.echo(verdict.as_json())
    sys.exit(0 if verdict.is_good else 1)


async def _watched(day: Day) -> Verdict:
    running = asyncio.create_task(day.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    async with asyncio.timeout(WATCHDOG_SECONDS):
        return await running


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        folder = Path(tempfile.mkdtemp(prefix="tillsync-demo-"))
    else:
        folder = keep.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise click.UsageError(f"{keep} is not empty")
    if os.geteuid() == 0:
        folder.chmod(0o711)  # PostgreSQL runs as nobody then, and must get in
    try:
        yield folder
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _give_up(error: BaseException, keep: Path | None) -> NoReturn:
    if isinstance(error, TimeoutError):
        error = DemoFailed(f"hung: it did not end within {WATCHDOG_SECONDS:.0f} s")
    if not isinstance(error, DemoFailed | EmbeddedPostgresError):
        raise error from None
    hint = f"the logs are in {keep}/logs" if keep else "with --keep DIR the logs stay"
    click.echo(f"demo: {error}\n({hint})", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
