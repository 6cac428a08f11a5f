"""The commands that look at this device's copy of head office's records, and edit it."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from tillsync.v1.sync_service_pb2 import MutationKind, MutationOutcome
from tillsync_agent import config
from tillsync_agent.config import Settings
from tillsync_agent.errors import CollectionUnknown, OutboxUnavailable
from tillsync_agent.exits import ATTENTION, EPILOG
from tillsync_agent.overlay import Record
from tillsync_agent.replica import LocalEdit, Replica
from tillsync_agent.replica_reading import Scope

F = TypeVar("F", bound=Callable[..., object])

_WAITING = "waiting"


@click.command(epilog=EPILOG)
@click.argument("collection")
@click.argument("record_id", required=False)
@click.option("--key", help="Find by one of the collection's lookup keys: barcode=4006381333931.")
@click.option("--prefix", help="List the records whose ids begin so; --prefix '' lists all.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def lookup(
    state_dir: Path | None,
    *,
    collection: str,
    record_id: str | None,
    key: str | None,
    prefix: str | None,
    as_json: bool,
) -> None:
    """Shows records as this device has them, its own edits included. Exit code 1 if there is none,
    2 for a collection, or a lookup key, that there is not.

    \b
    Example:
        tillsync-agent lookup product --key barcode=4006381333931
    """
    if [record_id, key, prefix].count(None) != 2:  # noqa: PLR2004 -- one of three is given
        raise click.UsageError("give one of RECORD_ID, --key NAME=VALUE and --prefix TEXT")
    is_empty = True
    with _existing(config.load(state_dir)) as replica:
        _must_be_known(replica.collections(), collection, key)
        for record in _asked_for(replica, collection, record_id, key, prefix):
            is_empty = False
            click.echo(json.dumps(asdict(record)) if as_json else _record_line(record))
        loaded = replica.summary().checkpoint_at_ms is not None
    if is_empty:
        why = "" if loaded else ": nothing was loaded yet, is the agent running?"
        click.echo(f"tillsync-agent: there is no such record here{why}", err=True)
        sys.exit(ATTENTION)


def _must_be_known(known: dict[str, list[str]], collection: str, key: str | None) -> None:
    """Raises for what can never be found here, whatever is loaded; before the first load, anything
    may still come."""
    name, equals, _ = (key or "").partition("=")
    if key is not None and not equals:
        raise click.UsageError(f"--key {key}: write it as NAME=VALUE")
    if known and collection not in known:
        raise CollectionUnknown(collection, list(known))
    if known and key is not None and name not in known[collection]:
        keys = ", ".join(known[collection]) or "none"
        raise click.UsageError(f"--key {key}: the lookup keys of {collection} are: {keys}")


def _asked_for(
    replica: Replica, collection: str, record_id: str | None, key: str | None, prefix: str | None
) -> Iterator[Record]:
    if record_id is not None:
        record = replica.lookup(collection, record_id)
        yield from [record] if record else []
    elif key is not None:
        name, _, value = key.partition("=")
        yield from replica.find(collection, **{name: value})
    else:
        yield from replica.scan(collection, prefix=prefix or "")


def _record_line(record: Record) -> str:
    scope = record.store_id or "tenant"
    edited = "  edited here" if record.pending else ""
    body = json.dumps(record.fields, ensure_ascii=False)
    return f"{record.record_id}  {scope}  version {record.version}{edited}  {body}"


@click.group()
def edit() -> None:
    """Changes a record here at once, and at head office when the agent has pushed it.

    \b
    Example:
        tillsync-agent edit add stock p-4711 '{"on_hand": -2}'
    """


def _of_record(command: F) -> F:
    """The arguments of every edit, but for its fields."""
    scope = click.option(
        "--scope",
        type=click.Choice(["shown", "store", "tenant"]),
        default="shown",
        show_default=True,
        help="Whose record it is: the one that `lookup` shows, the own store's or the tenant's.",
    )
    record_id = click.argument("record_id")
    return click.argument("collection")(record_id(scope(command)))


@edit.command(epilog=EPILOG)
@_of_record
@click.argument("fields")
@click.pass_obj
def put(
    state_dir: Path | None, *, collection: str, record_id: str, fields: str, scope: Scope
) -> None:
    """Makes the record these FIELDS, a JSON object, whatever it was; creates it too.

    \b
    Example:
        tillsync-agent edit put customer c-17 '{"name": "Ada", "points": 0}'
    """
    with _opened(state_dir) as replica:
        _say(replica.put(collection, record_id, _fields(fields), scope=scope))


@edit.command(epilog=EPILOG)
@_of_record
@click.argument("fields")
@click.pass_obj
def patch(
    state_dir: Path | None, *, collection: str, record_id: str, fields: str, scope: Scope
) -> None:
    """Replaces these FIELDS, a JSON object; null takes one away.

    \b
    Example:
        tillsync-agent edit patch customer c-17 '{"phone": "555-0100", "fax": null}'
    """
    with _opened(state_dir) as replica:
        _say(replica.patch(collection, record_id, _fields(fields), scope=scope))


@edit.command(epilog=EPILOG)
@_of_record
@click.argument("deltas")
@click.pass_obj
def add(
    state_dir: Path | None, *, collection: str, record_id: str, deltas: str, scope: Scope
) -> None:
    """Lets fields grow by whole numbers: DELTAS, a JSON object. For stock and points.

    \b
    Example:
        tillsync-agent edit add stock p-4711 '{"on_hand": -2}'
    """
    with _opened(state_dir) as replica:
        _say(replica.add(collection, record_id, _fields(deltas), scope=scope))


@edit.command(epilog=EPILOG)
@_of_record
@click.pass_obj
def delete(state_dir: Path | None, *, collection: str, record_id: str, scope: Scope) -> None:
    """Deletes the record.

    \b
    Example:
        tillsync-agent edit delete customer c-17
    """
    with _opened(state_dir) as replica:
        _say(replica.delete(collection, record_id, scope=scope))


@click.command("edits", epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def list_edits(state_dir: Path | None, *, as_json: bool) -> None:
    """Lists the edits made here, oldest first, and what became of each.

    They are kept for a fortnight after head office has them, as far as this device's copy says.

    \b
    waiting   head office has not answered yet
    applied   the record is as the edit wanted it
    won       so it is, although somebody else had changed it meanwhile
    lost      the record stayed as somebody else had changed it
    parked    the record stayed until an operator of head office decides. The decision comes here
              as the record; the edit goes on being called parked. Whether it was decided, and how,
              says `tillsync-service conflicts list` there
    rejected  it can never be applied; the line says why

    \b
    Example:
        tillsync-agent edits --json
    """
    with _existing(config.load(state_dir)) as replica:
        made = replica.edits()
    for each in made:
        click.echo(json.dumps(_edit_dict(each)) if as_json else _edit_line(each))
    if not made and not as_json:
        click.echo("no edits")


def _edit_dict(made: LocalEdit) -> dict[str, object]:
    return asdict(made) | {"kind": _kind(made), "outcome": _outcome(made)}


def _edit_line(made: LocalEdit) -> str:
    place = f"{made.collection} {made.record_id} of {made.store_id or 'tenant'}"
    why = " ".join(part for part in (made.reason, made.description) if part)
    parts = (f"#{made.sequence}", _outcome(made), _kind(made), place, made.body, why)
    return "  ".join(part for part in parts if part)


def _kind(made: LocalEdit) -> str:
    return MutationKind.Name(made.kind).removeprefix("MUTATION_KIND_").lower()


def _outcome(made: LocalEdit) -> str:
    if made.outcome == MutationOutcome.MUTATION_OUTCOME_UNSPECIFIED:
        return _WAITING
    if made.outcome not in MutationOutcome.values():
        return f"outcome {made.outcome} of a newer service"
    return MutationOutcome.Name(made.outcome).removeprefix("MUTATION_OUTCOME_").lower()


def _fields(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{text[:60]!r} is no JSON: {error}") from None


def _say(sequence: int) -> None:
    click.echo(json.dumps({"sequence": sequence}))


def _opened(state_dir: Path | None) -> Replica:
    return Replica.open(config.load(state_dir).replica_path)


@contextmanager
def _existing(settings: Settings) -> Iterator[Replica]:
    """The replica, if there is one: a question must not create what it asks about."""
    if not settings.replica_path.exists():
        raise OutboxUnavailable(
            f"no records were ever loaded here: no {settings.replica_path}; is the state folder "
            "right (--state-dir, TILLSYNC_AGENT_STATE_DIR), and does the agent run?"
        )
    with Replica.open(settings.replica_path) as replica:
        yield replica
