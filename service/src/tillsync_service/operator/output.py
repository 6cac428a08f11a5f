"""What commands print: a table on a terminal, tab-separated lines elsewhere, JSON when asked."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TextIO

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

Row = Mapping[str, object]

_ANY_WIDTH = 10_000
_ENUM_PREFIXES = (
    "POLICY_",
    "MUTATION_OUTCOME_",
    "MUTATION_KIND_",
    "RESOLUTION_CHOICE_",
    "DAY_STATE_",
    "DEAD_LETTER_REASON_",
    "DEAD_LETTER_STATE_",
)


def row_of(message: Message) -> Row:
    """A message as a row: every field by its name, None where it is absent."""
    said = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return {name: said.get(name) for name in columns_of(type(message))}


def columns_of(kind: type[Message]) -> tuple[str, ...]:
    """The columns of rows of such messages."""
    return tuple(field.name for field in kind.DESCRIPTOR.fields)


def spelt(name: str) -> str:
    """The name of an enum's value as a person types it: POLICY_SERVER_WINS is server-wins."""
    for prefix in _ENUM_PREFIXES:
        name = name.removeprefix(prefix)
    return name.replace("_", "-").lower()


def show_rows(columns: Sequence[str], rows: Sequence[Row], *, as_json: bool) -> None:
    """A list: a table, lines of tab-separated values without a heading, or a JSON array."""
    if as_json:
        click.echo(json.dumps([dict(row) for row in rows], indent=2))
    elif sys.stdout.isatty():
        _show_table(columns, rows)
    else:
        for row in rows:
            say("\t".join(_cell(row[column]) for column in columns))


def show_row(row: Row, *, as_json: bool) -> None:
    """One thing: its values by name, a line of tab-separated values, or a JSON object."""
    if as_json:
        click.echo(json.dumps(dict(row), indent=2))
    elif sys.stdout.isatty():
        _show_one_below_the_other(tuple(row), [row])
    else:
        show_rows(tuple(row), [row], as_json=False)


def say(line: str, *, err: bool = False) -> None:
    """A line; what the terminal's encoding lacks becomes a question mark."""
    stream = sys.stderr if err else sys.stdout
    encoding = stream.encoding or "ascii"
    click.echo(line.encode(encoding, "replace").decode(encoding), err=err)


def can_print(text: str, stream: TextIO) -> bool:
    """Whether the stream's encoding knows these characters."""
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


class Advance(Protocol):
    """Is told how many more are done."""

    def __call__(self, done: int = 1) -> None: ...


@contextmanager
def shown_progress(title: str, total: int) -> Iterator[Advance]:
    """Gives what is told of each one done: a bar, where standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done=1: None  # noqa: ARG005 - Advance's
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import, for terminals only
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done=1: bar.advance(task, done)


def _show_table(columns: Sequence[str], rows: Sequence[Row]) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to import, for terminals only
    from rich.measure import Measurement  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    table = Table(*columns)
    for row in rows:
        # Text: a shop called "[red]" is no markup.
        table.add_row(*(Text(_cell(row[column])) for column in columns))
    wide = console.options.update(max_width=_ANY_WIDTH)
    if Measurement.get(console, wide, table).maximum <= console.width:
        console.print(table)
    else:
        _show_one_below_the_other(columns, rows)


def _show_one_below_the_other(columns: Sequence[str], rows: Sequence[Row]) -> None:
    """For a terminal too narrow for a table: an identifier that is cut off is of no use."""
    width = max(map(len, columns))
    for row in rows:
        for column in columns:
            say(f"{column:<{width}}  {_cell(row[column])}".rstrip())
        say("")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(map(_cell, value))
    # Names come from people: a tab would make a column, an escape would steer the terminal.
    return "".join(character if character.isprintable() else " " for character in str(value))
