"""The verdict as a person reads it: a line for each till, the sums, and a sentence."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from demo.chronicle import EVERYBODY, Chronicle
from demo.verdict import Verdict

# Narrower, and the stories stand below the table.
_WIDE = 110
_COUNTS = {
    "recorded": "recorded",
    "stored": "stored",
    "duplicates": "sent\nagain",
    "lost": "lost",
    "doubled": "doubled",
}
_MONEY = {"money_recorded": "money\nrecorded", "money_stored": "money\nstored"}


def pronounce(out: Console, verdict: Verdict, chronicle: Chronicle) -> None:
    """Prints all of it."""
    is_wide = out.width >= _WIDE
    out.print(_table(verdict, with_stories=is_wide))
    if not is_wide:
        for account in verdict.accounts:
            if account.story:
                out.print(f"till {account.number}: {account.story}", highlight=False)
    out.print("all tills: " + "; ".join(chronicle.past.get(EVERYBODY, ())))
    out.print(
        f"{verdict.total('recorded_twice'):,} sales were recorded twice at a till, and "
        f"{verdict.total('duplicates'):,} times head office was sent one it had: each counts once."
    )
    records = verdict.records
    out.print(
        f"{records.products:,} products are on every till: {records.replicas_equal} copies are "
        f"what PostgreSQL holds. A price that changed in the middle of the day was on "
        f"{_half_and_last(records.price_seconds)}."
    )
    out.print(
        f"{records.missing_found} sales that head office had lost were found missing, and "
        f"{records.missing_healed} came home; {records.conflicts_audited} edit met another one, "
        "and both sides are kept."
    )
    for fault in verdict.faults:
        out.print(fault, style="bold red")
    if verdict.is_good:
        out.print("Nothing is lost, nothing is doubled, and the money agrees.", style="bold green")


def _half_and_last(seconds: Sequence[float]) -> str:
    if not seconds:
        return "no till"
    half, last = seconds[len(seconds) // 2], seconds[-1]
    return (
        f"half of the tills after {half:.1f} s, and on the last, cut off or not, after {last:.1f} s"
    )


def _table(verdict: Verdict, *, with_stories: bool) -> Table:
    shown = Table(
        title="The tills' own ledgers against PostgreSQL",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_footer=True,
    )
    shown.add_column("till", "all", justify="right", no_wrap=True)
    shown.add_column("store", no_wrap=True)
    for name, heading in _COUNTS.items():
        shown.add_column(heading, f"{verdict.total(name):,}", justify="right", no_wrap=True)
    for name, heading in _MONEY.items():
        shown.add_column(heading, _major(verdict.total(name)), justify="right", no_wrap=True)
    if with_stories:
        shown.add_column("what happened to it")
    for account in verdict.accounts:
        cells = [
            str(account.number),
            account.store,
            *(f"{getattr(account, name):,}" for name in _COUNTS),
            *(_major(getattr(account, name)) for name in _MONEY),
        ]
        story = [account.story] if with_stories else []
        shown.add_row(*cells, *story, style="red" if account.faults else None)
    return shown


def _major(minor_units: int) -> str:
    return f"{minor_units / 100:,.2f}"
