"""tillsync-agent: the agent's command line.

Exit codes, the same for every command:
    0  done
    1  not done yet, or something needs a person: sales or edits wait (drain), a problem (status), a
       day that is not equal (reconcile, close-day), no such record (lookup), a file that cannot
       be written (export)
    2  wrong usage: an argument, a setting, an address, an event that can never be recorded
    3  the outbox cannot be used now, or another agent is using it: nothing was recorded
    4  this device is not enrolled, or the service refused to enrol it
"""
# Loading gRPC takes longer than recording a sale, so only the commands that talk import it.

import asyncio
import json
import logging
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NoReturn

import click
from google.protobuf import json_format
from google.protobuf.message import Message

from tillsync.v1 import retail_pb2
from tillsync_agent import config, status
from tillsync_agent.agentnote import NOTE_NAME, AgentNote
from tillsync_agent.config import Settings
from tillsync_agent.errors import (
    AgentError,
    EnrolmentRefused,
    EventNotRecordable,
    NotEnrolled,
    OutboxInUse,
    OutboxUnavailable,
)
from tillsync_agent.exits import ATTENTION, EPILOG, IDENTITY, UNUSABLE, USAGE
from tillsync_agent.files import unusable
from tillsync_agent.outbox import Outbox
from tillsync_agent.outbox_commands import dead_letters, existing, export
from tillsync_agent.progress import shown_progress
from tillsync_agent.reconcile_commands import close_day, reconcile
from tillsync_agent.reconciliation import NOTE_NAME as RECONCILIATION_NOTE
from tillsync_agent.reconciliation import Reconciliation
from tillsync_agent.refresh_secret import RefreshSecret
from tillsync_agent.replica import Replica, ReplicaSummary
from tillsync_agent.replica_commands import edit, list_edits, lookup

MAX_DEVICE_NAME_CHARACTERS = 100

_EXIT_CODES: tuple[tuple[type[Exception], int], ...] = (
    (OutboxUnavailable, UNUSABLE),
    (OutboxInUse, UNUSABLE),
    (NotEnrolled, IDENTITY),
    (EnrolmentRefused, IDENTITY),
    (AgentError, USAGE),
    (OSError, UNUSABLE),
)


class _Group(click.Group):
    """Turns the agent's errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except AgentError as error:
            _fail(error, str(error))
        except OSError as error:
            folder = config.state_folder(ctx.obj)
            ours = error.filename and Path(error.filename).parent == folder
            _fail(error, unusable(folder, error) if ours else str(error))


def _fail(error: Exception, words: str) -> NoReturn:
    click.echo(f"tillsync-agent: {words}", err=True)
    sys.exit(next(code for kind, code in _EXIT_CODES if isinstance(error, kind)))


@click.group(cls=_Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    help="Where the agent keeps outbox and identity. Also TILLSYNC_AGENT_STATE_DIR.",
)
@click.version_option(package_name="tillsync-agent")
@click.pass_context
def main(ctx: click.Context, state_dir: Path | None) -> None:
    """Records sales durably on this device and brings each of them to head office exactly once.

    \b
    Example, a first day:
        tillsync-agent enroll --service sync.example.com:443 --code ABCD-EFGH --name 'till 3'
        echo '{"receiptNumber": "1", "totalMinor": 1250}' |
            tillsync-agent record --amount USD=1250 --business-day 2026-11-22
        tillsync-agent drain
    """
    ctx.obj = state_dir


@main.command(epilog=EPILOG)
@click.option("--service", required=True, help="Head office, HOST:PORT.")
@click.option("--code", required=True, help="The one-time code from the operator.")
@click.option("--name", required=True, help="What people call this device.")
@click.option("--ca-file", type=click.Path(exists=True, dir_okay=False), help="PEM of your own CA.")
@click.option("--plaintext", is_flag=True, help="No TLS, to another machine: everybody can read.")
@click.option(
    "--replace",
    "again",
    is_flag=True,
    help="Give up the identity this device has. Sales and edits that wait are sent as the new "
    "device's; edits that head office has answered are not sent again.",
)
@click.option(
    "--restored",
    is_flag=True,
    help="With --replace, where head office was restored from a backup that does not know this "
    "device: sales that it had answered and that are kept here are sent again, too.",
)
@click.pass_obj
def enroll(
    state_dir: Path | None,
    *,
    service: str,
    code: str,
    name: str,
    ca_file: str | None,
    plaintext: bool,
    again: bool,
    restored: bool,
) -> None:
    """Trades a one-time code for this device's identity.

    \b
    Example:
        tillsync-agent enroll --service sync.example.com:443 --code ABCD-EFGH --name 'till 3'
    """
    from tillsync_agent import link  # noqa: PLC0415 - gRPC, when it is used

    if not name.strip() or len(name) > MAX_DEVICE_NAME_CHARACTERS:
        raise click.UsageError(f"--name: 1 to {MAX_DEVICE_NAME_CHARACTERS} characters, not blank")
    settings = config.load(state_dir)
    if settings.device_id and not again:
        raise click.UsageError(f"this device is enrolled as {settings.device_id}; see --replace")
    absolute = str(Path(ca_file).resolve()) if ca_file else ""
    settings = replace(
        settings, service=service, device_name=name, ca_file=absolute, plaintext=plaintext
    )
    # The lock: a running agent would go on with the old identity.
    with Outbox.open(settings.outbox_path) as outbox, outbox.agent_lock():
        secret = RefreshSecret(settings.secret_path)
        identity = asyncio.run(link.enroll(settings, secret, code, name))
        if settings.device_id not in {"", identity.device_id}:
            if restored and settings.tenant_id == identity.tenant_id:
                # A key counts once per tenant, so it harms nothing where head office has them.
                outbox.books.offer_everything_again()
            outbox.start_new_epoch(another_device=True)  # the new device's numbers begin at 1
            if settings.replica_path.exists():
                with Replica.open(settings.replica_path) as replica:
                    replica.renumber()  # and what the former one pushed is not the new one's
        config.save(replace(settings, **asdict(identity)))
    click.echo(json.dumps(asdict(identity)))


@main.command(epilog=EPILOG)
@click.option(
    "--type",
    "kind",
    default="Sale",
    show_default=True,
    help="A message of retail.proto (Sale, Return, …), read as JSON; or any other type URL, whose "
    "bytes are kept as they are.",
)
@click.option("--body-file", type=click.File("rb"), default="-", help="Default: standard input.")
@click.option("--amount", "amounts", multiple=True, help="In minor units: USD=1250.")
@click.option("--business-day", help="The shop's day as the till declares it: 2026-11-22.")
@click.option("--key", help="Your own idempotency key: the same key and sale again counts once.")
@click.pass_obj
def record(
    state_dir: Path | None,
    *,
    kind: str,
    body_file: BinaryIO,
    amounts: tuple[str, ...],
    business_day: str | None,
    key: str | None,
) -> None:
    """Records one event durably and prints its receipt as JSON.

    \b
    Example:
        echo '{"receiptNumber": "1", "currency": "USD", "totalMinor": 1250}' |
            tillsync-agent record --amount USD=1250 --business-day 2026-11-22
    """
    body = _body(kind, body_file.read())
    with Outbox.open(config.load(state_dir).outbox_path) as outbox:
        receipt = outbox.record(body, business_day=business_day, amounts=_amounts(amounts), key=key)
    click.echo(json.dumps(asdict(receipt)))


@main.command(epilog=EPILOG)
@click.option("--gateway-port", type=int, help="Serve programs in other languages on 127.0.0.1.")
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False),
    default="INFO",
    show_default=True,
)
@click.pass_obj
def run(state_dir: Path | None, gateway_port: int | None, log_level: str) -> None:
    """Sends what is recorded, until it is stopped (SIGINT, SIGTERM, Ctrl-Break).

    With tillsync-agent[telemetry] installed, spans go where OTEL_EXPORTER_OTLP_ENDPOINT says.

    \b
    Example:
        tillsync-agent run --gateway-port 7411
    """
    from tillsync_agent import tracing  # noqa: PLC0415 - when it is used
    from tillsync_agent.agent import Agent  # noqa: PLC0415 - gRPC, when it is used

    logging.basicConfig(level=log_level, format="%(asctime)s %(levelname)s %(message)s")
    with tracing.exported():
        Agent(config.load(state_dir, gateway_port=gateway_port)).run()


@main.command(epilog=EPILOG)
@click.option("--timeout", "timeout_seconds", default=60.0, show_default=True, help="Seconds.")
@click.pass_obj
def drain(state_dir: Path | None, timeout_seconds: float) -> None:
    """Sends until no sale and no edit waits: exit code 0. After the timeout: 1, and why.

    If an agent is running already, it does the sending, and this command watches.

    \b
    Example:
        tillsync-agent drain --timeout 300
    """
    from tillsync_agent.agent import Agent  # noqa: PLC0415 - gRPC, when it is used
    from tillsync_agent.draining import Drained, watch  # noqa: PLC0415 - gRPC, when it is used

    settings = config.load(state_dir, gateway_port=0)

    async def send() -> Drained:
        async with Agent(settings) as agent:
            return await agent.drain(timeout_seconds, progress)

    with shown_progress() as progress:
        try:
            drained = asyncio.run(send())
        except OutboxInUse:
            with Outbox.open(settings.outbox_path) as outbox:
                looking = watch(outbox, settings.replica_path, timeout_seconds, progress)
                drained = asyncio.run(looking)
    if drained.waiting or drained.edits:
        parts = ((drained.waiting, "events"), (drained.edits, "edits"))
        left = " and ".join(f"{count} {noun}" for count, noun in parts if count)
        click.echo(f"{left} still wait: {drained.why}", err=True)
        sys.exit(ATTENTION)
    click.echo("nothing waits")


@main.command("status", epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def show_status(state_dir: Path | None, *, as_json: bool) -> None:
    """What waits, since when, how much money, and why. Exit code 1 if something needs a person.

    \b
    Example:
        tillsync-agent status --json
    """
    settings = config.load(state_dir)
    with existing(settings) as outbox:
        notes = outbox.notes()
        held = status.of(
            settings,
            outbox.summary(),
            AgentNote.parse(notes.get(NOTE_NAME, "")),
            clock_offset_ms=outbox.clock_offset_ms,
            agent_running=_is_running(outbox),
            now=datetime.now(UTC),
            set_aside=outbox.set_aside,
            reconciliation=Reconciliation.parse(notes.get(RECONCILIATION_NOTE, "")),
            replica=_replica(settings),
        )
    if as_json:
        click.echo(json.dumps(held.as_dict(), indent=2))
    else:
        for name, text in status.lines(held):
            click.echo(f"{name:<18} {text}")
    sys.exit(ATTENTION if held.problems else 0)


for _command in (dead_letters, export, reconcile, close_day, lookup, edit, list_edits):
    main.add_command(_command)


def _replica(settings: Settings) -> ReplicaSummary | None:
    """How the copy of the records stands; None if there never was one."""
    if not settings.replica_path.exists():
        return None
    with Replica.open(settings.replica_path) as replica:
        return replica.summary()


def _is_running(outbox: Outbox) -> bool:
    with suppress(OutboxInUse), outbox.agent_lock():
        return False
    return True


def _body(kind: str, raw: bytes) -> Message | tuple[str, bytes]:
    known = retail_pb2.DESCRIPTOR.message_types_by_name
    if "/" in kind:
        return kind, raw
    if kind not in known:
        raise EventNotRecordable(
            "body",
            f"{kind!r} is none of the types {', '.join(known)}; a type of your own is a URL with "
            "a slash, like example.com/Thing",
        )
    message: Message = getattr(retail_pb2, kind)()
    try:
        return json_format.Parse(raw, message)
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise click.UsageError(f"the body is no {kind} in JSON: {error}") from None


def _amounts(texts: tuple[str, ...]) -> dict[str, int]:
    amounts: dict[str, int] = {}
    for text in texts:
        currency, equals, minor = text.partition("=")
        try:
            amounts[currency] = amounts.get(currency, 0) + int(minor)
        except ValueError:
            equals = ""
        if not equals:
            raise click.UsageError(
                f"--amount {text}: write it in whole minor units, USD=1250 for 12.50"
            )
    return amounts
