"""Tenants, stores, devices, and the ledger that makes every event count once.

Rules for every table here and later: the primary key and every unique key begin with tenant_id
(so that Citus can distribute by it), row-level security is forced, and the serving role owns
nothing and deletes nothing.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Who may do what. The migrator owns the tables and never serves. The application reads and writes
# one tenant at a time. The worker may also list tenants and delete what may be deleted. The lookup
# role owns the functions that find a row before its tenant is known; nobody logs in as it.
ROLES = (
    """
    DO $$
    DECLARE
        name text;
    BEGIN
        FOREACH name IN ARRAY ARRAY['tillsync_app', 'tillsync_worker', 'tillsync_lookup'] LOOP
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOBYPASSRLS', name);
            END IF;
        END LOOP;
    END
    $$
    """,
    # A service looks here, as its bare login, before it serves.
    "GRANT SELECT ON tillsync_migration TO PUBLIC",
    "CREATE SCHEMA tillsync",
    "GRANT USAGE ON SCHEMA tillsync TO tillsync_app, tillsync_worker, tillsync_lookup",
)

FLEET = (
    """
    CREATE TABLE tillsync.tenant (
        tenant_id uuid PRIMARY KEY,
        name text NOT NULL,
        disposable boolean NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    # One row per tenant and stream. Its row lock is the order of all writing (the order rule); the
    # low fillfactor keeps its many updates on one page. Events and records have a row each, so
    # that loading a catalogue never blocks a sale.
    """
    CREATE TABLE tillsync.tenant_head (
        tenant_id uuid NOT NULL REFERENCES tillsync.tenant,
        stream text NOT NULL CHECK (stream IN ('event', 'record')),
        position bigint NOT NULL DEFAULT 0,
        history_id uuid NOT NULL DEFAULT gen_random_uuid(),
        PRIMARY KEY (tenant_id, stream)
    ) WITH (fillfactor = 10)
    """,
    """
    CREATE TABLE tillsync.store (
        tenant_id uuid NOT NULL REFERENCES tillsync.tenant,
        store_id uuid NOT NULL,
        code text NOT NULL,
        name text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, store_id),
        UNIQUE (tenant_id, code)
    )
    """,
    """
    CREATE TABLE tillsync.device (
        tenant_id uuid NOT NULL,
        device_id uuid NOT NULL,
        store_id uuid NOT NULL,
        name text NOT NULL,
        enrolled_at timestamptz NOT NULL DEFAULT now(),
        revoked_at timestamptz,
        suspect_since timestamptz,
        PRIMARY KEY (tenant_id, device_id),
        FOREIGN KEY (tenant_id, store_id) REFERENCES tillsync.store
    )
    """,
    # Serves list_devices of one store.
    "CREATE INDEX device_by_store ON tillsync.device (tenant_id, store_id)",
    # Serves standing_of_devices, which every replica runs every second.
    """
    CREATE INDEX device_out_of_standing ON tillsync.device (revoked_at)
    WHERE revoked_at IS NOT NULL OR suspect_since IS NOT NULL
    """,
    """
    CREATE TABLE tillsync.device_secret (
        tenant_id uuid NOT NULL,
        device_id uuid NOT NULL,
        secret_hash bytea NOT NULL CHECK (octet_length(secret_hash) = 32),
        state text NOT NULL CHECK (state IN ('current', 'proposed', 'retired')),
        changed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, device_id, secret_hash),
        FOREIGN KEY (tenant_id, device_id) REFERENCES tillsync.device
    )
    """,
    # Serves find_secret, before the tenant is known.
    "CREATE INDEX device_secret_by_hash ON tillsync.device_secret (secret_hash)",
    # A device has one current and at most one proposed secret.
    """
    CREATE UNIQUE INDEX device_secret_live ON tillsync.device_secret (tenant_id, device_id, state)
    WHERE state <> 'retired'
    """,
    """
    CREATE TABLE tillsync.enrolment_code (
        tenant_id uuid NOT NULL,
        code_hash bytea NOT NULL CHECK (octet_length(code_hash) = 32),
        store_id uuid NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        used_at timestamptz,
        device_id uuid,
        PRIMARY KEY (tenant_id, code_hash),
        FOREIGN KEY (tenant_id, store_id) REFERENCES tillsync.store
    )
    """,
    # Serves find_code, before the tenant is known.
    "CREATE INDEX enrolment_code_by_hash ON tillsync.enrolment_code (code_hash)",
)

INGEST = (
    # The dedup ledger, kept for ever. Digest: the first 16 bytes of SHA-256 over the body's
    # type_url, a zero byte and the body. Keys compare byte by byte.
    """
    CREATE TABLE tillsync.event_key (
        tenant_id uuid NOT NULL,
        key text COLLATE "C" NOT NULL,
        position bigint NOT NULL,
        digest bytea NOT NULL,
        PRIMARY KEY (tenant_id, key)
    )
    """,
    # The history itself. It may be pruned by age: the ledger remembers the keys. Flags is a bit
    # set of 1 << EventFlag; amounts maps currency to minor units; business_day '-infinity' means
    # that none was declared.
    """
    CREATE TABLE tillsync.event (
        tenant_id uuid NOT NULL,
        position bigint NOT NULL,
        key text COLLATE "C" NOT NULL,
        store_id uuid NOT NULL,
        device_id uuid NOT NULL,
        outbox_epoch bigint NOT NULL,
        device_sequence bigint NOT NULL,
        received_at timestamptz NOT NULL DEFAULT now(),
        occurred_at timestamptz,
        business_day date NOT NULL,
        clock_offset_ms bigint,
        flags integer NOT NULL,
        type_url text NOT NULL,
        body bytea NOT NULL,
        amounts jsonb NOT NULL,
        traceparent text NOT NULL,
        PRIMARY KEY (tenant_id, position)
    )
    """,
    # Events whose key was taken by another body; the envelope is the Event as it came.
    """
    CREATE TABLE tillsync.quarantine (
        tenant_id uuid NOT NULL,
        key text COLLATE "C" NOT NULL,
        digest bytea NOT NULL,
        held_position bigint NOT NULL,
        store_id uuid NOT NULL,
        device_id uuid NOT NULL,
        received_at timestamptz NOT NULL DEFAULT now(),
        envelope bytea NOT NULL,
        PRIMARY KEY (tenant_id, key, digest)
    )
    """,
    # What was refused for good, so that a hole in a device's numbers is explained.
    """
    CREATE TABLE tillsync.rejection (
        tenant_id uuid NOT NULL,
        device_id uuid NOT NULL,
        outbox_epoch bigint NOT NULL,
        device_sequence bigint NOT NULL,
        reason text NOT NULL,
        field text NOT NULL,
        received_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, device_id, outbox_epoch, device_sequence)
    )
    """,
    # Which of a device's numbers were dealt with. The complement is what is missing.
    """
    CREATE TABLE tillsync.device_progress (
        tenant_id uuid NOT NULL,
        device_id uuid NOT NULL,
        outbox_epoch bigint NOT NULL,
        sequences int8multirange NOT NULL,
        changed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, device_id, outbox_epoch)
    ) WITH (fillfactor = 50)
    """,
    # What a device's business day came to. Digest sum: the digests of its events as 128-bit
    # numbers, added modulo 2^128. An event without amounts counts under currency 'XXX'.
    """
    CREATE TABLE tillsync.device_day (
        tenant_id uuid NOT NULL,
        device_id uuid NOT NULL,
        business_day date NOT NULL,
        currency text COLLATE "C" NOT NULL,
        event_count bigint NOT NULL,
        amount_minor numeric NOT NULL,
        digest_sum numeric NOT NULL,
        PRIMARY KEY (tenant_id, device_id, business_day, currency)
    ) WITH (fillfactor = 50)
    """,
)

TABLES = (
    "tenant",
    "tenant_head",
    "store",
    "device",
    "device_secret",
    "enrolment_code",
    "event_key",
    "event",
    "quarantine",
    "rejection",
    "device_progress",
    "device_day",
)

# Without a tenant set, NULLIF makes the comparison NULL: no row is visible and none can be written.
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
) + tuple(
    f"CREATE POLICY worker_lists ON tillsync.{table} FOR SELECT TO tillsync_worker USING (true)"
    for table in ("tenant", "tenant_head")
)

# What must be found before the tenant is known: each function answers one narrow question.
LOOKUPS = (
    *(
        f"CREATE POLICY lookup_finds ON tillsync.{table} FOR SELECT TO tillsync_lookup USING (true)"
        for table in ("device", "device_secret", "enrolment_code")
    ),
    """
    GRANT SELECT ON tillsync.device, tillsync.device_secret, tillsync.enrolment_code
    TO tillsync_lookup
    """,
    """
    CREATE FUNCTION tillsync.find_code(hash bytea) RETURNS uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
    RETURN (SELECT c.tenant_id FROM tillsync.enrolment_code c WHERE c.code_hash = hash)
    """,
    """
    CREATE FUNCTION tillsync.find_secret(hash bytea, OUT tenant_id uuid, OUT device_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
    BEGIN ATOMIC
        SELECT s.tenant_id, s.device_id FROM tillsync.device_secret s WHERE s.secret_hash = hash;
    END
    """,
    # Devices whose tokens must not be believed as they are: suspect ones, and those revoked so
    # lately that a token of theirs may still run.
    """
    CREATE FUNCTION tillsync.standing_of_devices(revoked_since interval)
    RETURNS TABLE (device_id uuid, revoked boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
    BEGIN ATOMIC
        SELECT d.device_id, d.revoked_at IS NOT NULL
        FROM tillsync.device d
        WHERE (d.revoked_at IS NOT NULL OR d.suspect_since IS NOT NULL)
          AND (d.revoked_at IS NULL OR d.revoked_at > now() - revoked_since);
    END
    """,
    "GRANT tillsync_lookup TO CURRENT_USER",
    "GRANT CREATE ON SCHEMA tillsync TO tillsync_lookup",
    *(
        statement
        for function in (
            "tillsync.find_code(bytea)",
            "tillsync.find_secret(bytea)",
            "tillsync.standing_of_devices(interval)",
        )
        for statement in (
            f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC",
            f"GRANT EXECUTE ON FUNCTION {function} TO tillsync_app, tillsync_worker",
            f"ALTER FUNCTION {function} OWNER TO tillsync_lookup",
        )
    ),
    "REVOKE CREATE ON SCHEMA tillsync FROM tillsync_lookup",
)

UPGRADE = (*ROLES, *FLEET, *INGEST, *SECURITY, *LOOKUPS)

# The roles stay: other databases of the same server may use them.
DOWNGRADE = ("DROP SCHEMA tillsync CASCADE",)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
