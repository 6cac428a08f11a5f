"""Records that devices hold copies of, their edits, and the books that answer what is missing."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# A version is a position of the tenant's 'record' head. Whatever a device must hear of carries the
# version at which it last changed, so that one rule finds it: version > cursor.
PLACES = (
    # Deletions up to here are forgotten: a device whose copy is older loads everything anew.
    "ALTER TABLE tillsync.tenant_head ADD COLUMN horizon bigint NOT NULL DEFAULT 0",
    # When the device came into its store, as a version; 0: when it enrolled.
    "ALTER TABLE tillsync.device ADD COLUMN placed_version bigint NOT NULL DEFAULT 0",
    # Serves tail_devices: who was moved since.
    """
    CREATE INDEX device_by_placing ON tillsync.device (tenant_id, placed_version)
    WHERE placed_version > 0
    """,
)

RECORDS = (
    """
    CREATE TABLE tillsync.collection (
        tenant_id uuid NOT NULL REFERENCES tillsync.tenant,
        name text COLLATE "C" NOT NULL,
        policy text NOT NULL CHECK (policy IN ('server_wins', 'arrival_wins', 'manual')),
        lookup_keys text[] NOT NULL,
        load_order integer NOT NULL,
        version bigint NOT NULL,
        PRIMARY KEY (tenant_id, name)
    )
    """,
    # Scope: a store, or the nil UUID for the whole tenant. A deleted record has no body and no
    # hash, until the horizon passes its version. Hash: the first 16 bytes of SHA-256 over the id,
    # a zero byte and the body, as a number. Edited_by: the device whose edit made this version,
    # whose run of edits began on the version edited_from.
    """
    CREATE TABLE tillsync.record (
        tenant_id uuid NOT NULL,
        collection text COLLATE "C" NOT NULL,
        scope uuid NOT NULL,
        record_id text COLLATE "C" NOT NULL,
        version bigint NOT NULL,
        body text,
        hash numeric,
        edited_by uuid,
        edited_from bigint,
        changed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, collection, scope, record_id),
        CHECK ((body IS NULL) = (hash IS NULL))
    )
    """,
    # Serves changes and tail_records: what changed since, scope by scope.
    "CREATE UNIQUE INDEX record_by_version ON tillsync.record (tenant_id, scope, version)",
    # Serves forgotten_before and forget: the oldest deletions.
    """
    CREATE INDEX record_deleted ON tillsync.record (tenant_id, changed_at) WHERE body IS NULL
    """,
    # What a part comes to: its live records, and the sum of their hashes modulo 2^128.
    """
    CREATE TABLE tillsync.record_digest (
        tenant_id uuid NOT NULL,
        collection text COLLATE "C" NOT NULL,
        scope uuid NOT NULL,
        record_count bigint NOT NULL,
        digest numeric NOT NULL,
        PRIMARY KEY (tenant_id, collection, scope)
    ) WITH (fillfactor = 50)
    """,
    # Records of an import that is under way, not published yet.
    """
    CREATE TABLE tillsync.record_staging (
        tenant_id uuid NOT NULL,
        import_id uuid NOT NULL,
        number bigint NOT NULL,
        record_id text COLLATE "C" NOT NULL,
        body text,
        hash numeric,
        staged_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, import_id, number)
    )
    """,
)

EDITS = (
    # Every edit with its outcome, kept for ever. Digest: the first 16 bytes of SHA-256 over the
    # edit as it came.
    """
    CREATE TABLE tillsync.mutation (
        tenant_id uuid NOT NULL,
        device_id uuid NOT NULL,
        epoch bigint NOT NULL,
        sequence bigint NOT NULL,
        digest bytea NOT NULL,
        outcome text NOT NULL
            CHECK (outcome IN ('applied', 'won', 'lost', 'parked', 'rejected')),
        version bigint NOT NULL,
        reason text NOT NULL,
        field text NOT NULL,
        description text NOT NULL,
        received_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, device_id, epoch, sequence)
    )
    """,
    # How far a device's edits are dealt with, and since which version that holds.
    """
    CREATE TABLE tillsync.mutation_progress (
        tenant_id uuid NOT NULL,
        device_id uuid NOT NULL,
        epoch bigint NOT NULL,
        last_sequence bigint NOT NULL,
        version bigint NOT NULL,
        PRIMARY KEY (tenant_id, device_id, epoch)
    ) WITH (fillfactor = 50)
    """,
    # Serves tail_marks: whose edits were dealt with since.
    """
    CREATE INDEX mutation_progress_by_version
    ON tillsync.mutation_progress (tenant_id, version)
    """,
    # Both sides of every edit that met a record that had changed. The id is a version.
    """
    CREATE TABLE tillsync.conflict (
        tenant_id uuid NOT NULL,
        conflict_id bigint NOT NULL,
        device_id uuid NOT NULL,
        epoch bigint NOT NULL,
        sequence bigint NOT NULL,
        collection text COLLATE "C" NOT NULL,
        scope uuid NOT NULL,
        record_id text COLLATE "C" NOT NULL,
        kind text NOT NULL CHECK (kind IN ('put', 'patch', 'add', 'delete')),
        base_version bigint NOT NULL,
        edit_body text NOT NULL,
        met_version bigint NOT NULL,
        met_body text,
        outcome text NOT NULL CHECK (outcome IN ('won', 'lost', 'parked')),
        reason text NOT NULL,
        occurred_at timestamptz NOT NULL DEFAULT now(),
        choice text CHECK (choice IN ('keep', 'apply')),
        decided_by text,
        decided_at timestamptz,
        decided_version bigint,
        PRIMARY KEY (tenant_id, conflict_id)
    )
    """,
    # Serves list_conflicts of those that wait for a decision.
    """
    CREATE INDEX conflict_open ON tillsync.conflict (tenant_id, conflict_id)
    WHERE outcome = 'parked' AND choice IS NULL
    """,
)

BOOKS = (
    # Serves span_sums and held_numbers: a device's own numbers.
    """
    CREATE INDEX event_by_number
    ON tillsync.event (tenant_id, device_id, outbox_epoch, device_sequence)
    """,
    # Serves quarantined: what of a device's own was put aside.
    "CREATE INDEX quarantine_by_device ON tillsync.quarantine (tenant_id, device_id)",
    # How far a device says it has counted.
    """
    CREATE TABLE tillsync.outbox_claim (
        tenant_id uuid NOT NULL,
        device_id uuid NOT NULL,
        outbox_epoch bigint NOT NULL,
        last_sequence bigint NOT NULL,
        claimed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, device_id, outbox_epoch)
    ) WITH (fillfactor = 50)
    """,
    # What a device says its business day came to; columns as in device_day.
    """
    CREATE TABLE tillsync.day_claim (
        tenant_id uuid NOT NULL,
        device_id uuid NOT NULL,
        business_day date NOT NULL,
        currency text COLLATE "C" NOT NULL,
        event_count bigint NOT NULL,
        amount_minor numeric NOT NULL,
        digest_sum numeric NOT NULL,
        claimed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, device_id, business_day, currency)
    ) WITH (fillfactor = 50)
    """,
    # Every closing of a device's day, with what it came to then: one that comes to something else
    # now is open again.
    """
    CREATE TABLE tillsync.day_close (
        tenant_id uuid NOT NULL,
        device_id uuid NOT NULL,
        business_day date NOT NULL,
        revision integer NOT NULL,
        event_count bigint NOT NULL,
        digest_sum numeric NOT NULL,
        closed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, device_id, business_day, revision)
    )
    """,
    # An operator's word that something will not come: numbers of an outbox, or a business day.
    """
    CREATE TABLE tillsync.waiver (
        tenant_id uuid NOT NULL,
        waiver_id uuid NOT NULL DEFAULT gen_random_uuid(),
        device_id uuid NOT NULL,
        outbox_epoch bigint,
        numbers int8range,
        business_day date,
        reason text NOT NULL,
        waived_by text NOT NULL,
        waived_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, waiver_id),
        CHECK ((outbox_epoch IS NULL) = (numbers IS NULL)),
        CHECK ((numbers IS NULL) <> (business_day IS NULL))
    )
    """,
    # Serves waivers_of.
    "CREATE INDEX waiver_by_device ON tillsync.waiver (tenant_id, device_id)",
    # What operators did that somebody may ask about later.
    """
    CREATE TABLE tillsync.audit (
        tenant_id uuid NOT NULL,
        audit_id uuid NOT NULL DEFAULT gen_random_uuid(),
        happened_at timestamptz NOT NULL DEFAULT now(),
        actor text NOT NULL,
        action text NOT NULL,
        detail jsonb NOT NULL,
        PRIMARY KEY (tenant_id, audit_id)
    )
    """,
)

TABLES = (
    "collection",
    "record",
    "record_digest",
    "record_staging",
    "mutation",
    "mutation_progress",
    "conflict",
    "outbox_claim",
    "day_claim",
    "day_close",
    "waiver",
    "audit",
)

# The same as in 0001: without a tenant set no row is visible and none can be written.
SECURITY = tuple(
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
)

UPGRADE = (*PLACES, *RECORDS, *EDITS, *BOOKS, *SECURITY)

DOWNGRADE = (
    *(f"DROP TABLE tillsync.{table}" for table in reversed(TABLES)),
    "DROP INDEX tillsync.event_by_number",
    "DROP INDEX tillsync.quarantine_by_device",
    "ALTER TABLE tillsync.device DROP COLUMN placed_version",
    "ALTER TABLE tillsync.tenant_head DROP COLUMN horizon",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
