"""tillsync-service: one program, each of whose commands is imported when it is used.

host_commands        on the service's own machine: they need its database or its keys
health_command       the same, without the database's libraries: containers ask every few seconds
operator.commands    from anywhere: they speak gRPC, with an operator's token
"""

from importlib import import_module
from typing import NamedTuple

import click


class _Place(NamedTuple):
    """Where a command is, and what the list in --help says of it."""

    module: str
    name: str
    says: str


_HOST = "tillsync_service.host_commands"
_HEALTH = "tillsync_service.health_command"
_OPERATOR = "tillsync_service.operator.commands"
_RECORDS = "tillsync_service.operator.record_commands"
_CONFLICTS = "tillsync_service.operator.conflict_commands"
_QUARANTINE = "tillsync_service.operator.quarantine_commands"
_BOOKS = "tillsync_service.operator.books_commands"
_FEED = "tillsync_service.operator.feed_commands"
_PROJECTIONS = "tillsync_service.operator.projection_commands"
_TRIALS = "tillsync_service.operator.trial_commands"
_COMMANDS = {
    "serve": _Place(_HOST, "serve", "Serve until SIGTERM or SIGINT."),
    "migrate": _Place(_HOST, "migrate", "The database's schema: up, down, status, sql."),
    "settings": _Place(_HOST, "settings", "Every setting: TILLSYNC_… variables and defaults."),
    "keys": _Place(_HOST, "keys_group", "The keys that sign tokens: new, rotate."),
    "operator-token": _Place(_HOST, "operator_token", "Print a token for the commands below."),
    "integrator-token": _Place(_HOST, "integrator_token", "Print a token to read a feed with."),
    "ingest-file": _Place(_HOST, "ingest_file", "Take in what a till without a link exported."),
    "tenants": _Place(_OPERATOR, "tenants", "Retailers: create, list, delete."),
    "stores": _Place(_OPERATOR, "stores", "A tenant's shops: create, list."),
    "enrolment-code": _Place(_OPERATOR, "enrolment_code", "Make a code for one till to join with."),
    "devices": _Place(_OPERATOR, "devices", "Tills: list, move, revoke, clear-suspicion."),
    "collections": _Place(_RECORDS, "collections", "What tills hold copies of: define, list."),
    "records": _Place(_RECORDS, "records", "Prices, customers, stock: import, show, delete."),
    "conflicts": _Place(_CONFLICTS, "conflicts", "Edits that collided: list, show, resolve."),
    "quarantine": _Place(_QUARANTINE, "quarantine", "Sales whose key another one has: list, show."),
    "missing": _Place(_BOOKS, "missing", "Is anything missing, from whom, since when?"),
    "day": _Place(_BOOKS, "day", "How a store's tills stand on a business day."),
    "waive": _Place(_BOOKS, "waive", "Say that something missing will not come, and why."),
    "restored": _Place(_BOOKS, "restored", "Say that the database was restored from a backup."),
    "health": _Place(_HEALTH, "health", "Ask a service whether it is well: exit status 0 or 1."),
    "feed": _Place(_FEED, "feed", "Who reads the events: consumers, tail, delete-consumer."),
    "projections": _Place(_PROJECTIONS, "projections", "Sales as tables: list, rebuild."),
    "dead-letters": _Place(
        _PROJECTIONS, "dead_letters", "Events nobody understood: list, show, replay, discard."
    ),
    "smoke": _Place(_TRIALS, "smoke", "Try a running service out: pass or fail."),
    "loadtest": _Place(_TRIALS, "loadtest", "Many sales at once; does each count once?"),
}


class _Commands(click.Group):
    """A group that imports a command's module when the command is asked for: the database's
    libraries alone take a second, which --help and a look at a list need not pay."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        found: click.Command = getattr(import_module(place.module), place.name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.says) for name, place in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tillsync-service")
def main() -> None:
    """Takes events of store devices in, each exactly once.

    Settings are environment variables TILLSYNC_*; without any, an embedded PostgreSQL is used.

    \b
    Example: tillsync-service serve
    """
