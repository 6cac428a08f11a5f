"""A till's program: sells what its file says, one sale after the other, each durable first.

Started again after a kill it goes on behind the last line of its ledger. The sale after that line
may be in the outbox already: its key is the receipt number, so recording it again is harmless.
"""

import time
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path

import click
from google.protobuf.proto import parse_length_prefixed, serialize_length_prefixed

from demo.ledger import Entry, Ledger
from tillsync.v1.event_pb2 import Event
from tillsync.v1.retail_pb2 import Sale
from tillsync_agent import Outbox


def write_sales(path: Path, events: list[Event]) -> None:
    """The file that a till's program sells from."""
    content = BytesIO()
    for event in events:
        serialize_length_prefixed(event, content)
    path.write_bytes(content.getvalue())


def read_sales(path: Path) -> Iterator[Event]:
    """What write_sales wrote."""
    content = BytesIO(path.read_bytes())
    while event := parse_length_prefixed(Event, content):
        yield event


@click.command()
@click.argument("sales", type=click.Path(exists=True, path_type=Path))
@click.option("--outbox", "outbox_path", type=click.Path(path_type=Path), required=True)
@click.option("--ledger", "ledger_path", type=click.Path(path_type=Path), required=True)
@click.option("--pause-seconds", type=float, required=True, help="Between two sales.")
@click.option("--repeat-every", type=int, required=True, help="Each so manieth is recorded twice.")
def main(
    sales: Path, outbox_path: Path, ledger_path: Path, pause_seconds: float, repeat_every: int
) -> None:
    """Sell.

    \b
    Example: python -m demo.pos sales --outbox outbox.db --ledger ledger --pause-seconds 0.1
    """
    ledger = Ledger(ledger_path)
    left = islice(read_sales(sales), ledger.count, None)
    due = time.monotonic()
    with Outbox.open(outbox_path) as outbox:
        for number, event in enumerate(left, start=ledger.count + 1):
            due += pause_seconds
            time.sleep(max(0.0, due - time.monotonic()))
            times = 2 if number % repeat_every == 0 else 1
            ledger.write(sell(outbox, event, times))


def sell(outbox: Outbox, event: Event, times: int) -> Entry:
    """Records one sale, `times` times under the same key, as a program does that lost count."""
    sale = Sale()
    event.body.Unpack(sale)
    receipts = {
        outbox.record(
            sale,
            key=event.key,
            business_day=event.business_day,
            amounts={sale.currency: sale.total_minor},
        )
        for _ in range(times)
    }
    if len(receipts) != 1:
        raise RuntimeError(f"one sale, several receipts: {receipts}")
    return Entry(event.key, sale.currency, sale.total_minor, times)


if __name__ == "__main__":
    main()
