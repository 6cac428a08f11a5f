"""How far the named consumers of the feed have come."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = ("feed_consumer",)

UPGRADE = (
    # A position is of the tenant's 'event' head, and of that history: after a restore a consumer
    # must be told.
    """
    CREATE TABLE tillsync.feed_consumer (
        tenant_id uuid NOT NULL REFERENCES tillsync.tenant,
        name text COLLATE "C" NOT NULL,
        position bigint NOT NULL,
        history_id uuid NOT NULL,
        committed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, name)
    ) WITH (fillfactor = 50)
    """,
    # The same as in 0001: without a tenant set no row is visible and none can be written.
    *(
        statement.format(table=table)
        for table in TABLES
        for statement in (
            "ALTER TABLE tillsync.{table} ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE tillsync.{table} FORCE ROW LEVEL SECURITY",
            """
            CREATE POLICY own_tenant ON tillsync.{table} TO tillsync_app, tillsync_worker
            USING (tenant_id = NULLIF(current_setting('tillsync.tenant', true), '')::uuid)
            """,
            "GRANT SELECT, INSERT, UPDATE ON tillsync.{table} TO tillsync_app",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON tillsync.{table} TO tillsync_worker",
        )
    ),
    # For the lag of all of them, as a metric.
    """
    CREATE POLICY worker_lists ON tillsync.feed_consumer FOR SELECT TO tillsync_worker
    USING (true)
    """,
)

DOWNGRADE = ("DROP TABLE tillsync.feed_consumer",)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
