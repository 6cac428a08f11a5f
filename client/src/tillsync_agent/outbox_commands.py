"""The commands that look at what the outbox holds, or carry it away on a stick."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from tillsync_agent import config
from tillsync_agent.config import Settings
from tillsync_agent.entries import DeadLetter
from tillsync_agent.errors import OutboxUnavailable
from tillsync_agent.exits import ATTENTION, EPILOG
from tillsync_agent.export import write_export
from tillsync_agent.outbox import Outbox


@click.command("dead-letters", epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def dead_letters(state_dir: Path | None, *, as_json: bool) -> None:
    """Lists the events that head office refused, and why. They are kept.

    \b
    Example:
        tillsync-agent dead-letters --json
    """
    with existing(config.load(state_dir)) as outbox:
        is_empty = True
        for letter in outbox.dead_letters():
            is_empty = False
            click.echo(json.dumps(_letter(letter)) if as_json else _letter_line(letter))
    if is_empty and not as_json:
        click.echo("no dead letters")


@click.command(epilog=EPILOG)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def export(state_dir: Path | None, file: Path) -> None:
    """Writes what waits to FILE, for `tillsync-service ingest-file`; it goes on waiting here.

    Exit code 1 if it cannot be written there.

    \b
    Example:
        tillsync-agent export /media/usb/till-3.tillsync
    """
    settings = config.load(state_dir)
    if not file.parent.is_dir():
        raise click.UsageError(f"there is no folder {file.parent} to write {file.name} into")
    with existing(settings) as outbox:
        try:
            count = write_export(
                file, outbox.waiting_envelopes(), settings, exported_at=datetime.now(UTC)
            )
        except OSError as error:
            why = error.strerror or error
            click.echo(f"tillsync-agent: {file} cannot be written: {why}", err=True)
            sys.exit(ATTENTION)
    click.echo(f"{count} events written to {file}")


@contextmanager
def existing(settings: Settings) -> Iterator[Outbox]:
    """The outbox, if there is one: a question must not create what it asks about."""
    if not settings.outbox_path.exists():
        raise OutboxUnavailable(
            f"nothing was ever recorded here: no {settings.outbox_path}; is the state folder right "
            "(--state-dir, TILLSYNC_AGENT_STATE_DIR)?"
        )
    with Outbox.open(settings.outbox_path, ballast_bytes=0) as outbox:
        yield outbox


def _letter(letter: DeadLetter) -> dict[str, object]:
    return {
        "key": letter.key,
        "outcome": letter.outcome,
        "reason": letter.reason,
        "field": letter.field,
        "description": letter.description,
        "epoch": letter.epoch,
        "sequence": letter.sequence,
    }


def _letter_line(letter: DeadLetter) -> str:
    why = " ".join(part for part in (letter.reason, letter.field, letter.description) if part)
    return f"{letter.outcome}  {letter.key}  #{letter.sequence}  {why}"
