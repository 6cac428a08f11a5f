"""Alembic's entry point: how a migration reaches the database, or a DBA's eyes (`--sql`)."""

from alembic import context
from sqlalchemy import Connection, text

# Replicas that start together queue here; the number only has to be this project's own.
_ADVISORY_LOCK = 7_155_000_101


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection, transaction_per_migration=False, version_table="tillsync_migration"
    )
    with context.begin_transaction():
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        context.run_migrations()


if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql", literal_binds=True, version_table="tillsync_migration"
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    _run(context.config.attributes["connection"])
