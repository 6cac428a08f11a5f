"""What the events come to: sales with their lines and tenders, stock, days, and what could not be
understood."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

PROGRESS = (
    # How far a tenant's events are in the tables below: position is of its 'event' head, and of
    # that history. A rebuild makes the rows anew of the events after rebuild_position up to
    # rebuild_until; without one they are NULL.
    """
    CREATE TABLE tillsync.projection (
        tenant_id uuid NOT NULL REFERENCES tillsync.tenant,
        name text COLLATE "C" NOT NULL,
        position bigint NOT NULL DEFAULT 0,
        history_id uuid NOT NULL,
        projected_at timestamptz NOT NULL DEFAULT now(),
        rebuild_from bigint,
        rebuild_position bigint,
        rebuild_until bigint,
        rebuild_by text,
        rebuild_started_at timestamptz,
        rebuild_number bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (tenant_id, name),
        CHECK (num_nonnulls(
            rebuild_from, rebuild_position, rebuild_until, rebuild_by, rebuild_started_at
        ) IN (0, 5))
    ) WITH (fillfactor = 20)
    """,
)

# Each row is of one event, whose position it bears. What takes goods or money back is negative:
# sums over these tables need no case for returns. Voided_by: the position of the event that took
# the document back; such a one counts neither in stock nor in money.
DOCUMENTS = (
    # Business_day '-infinity': none was declared. Returned_key: the event key of the sale that a
    # return is of, where the till knew it.
    """
    CREATE TABLE tillsync.sale (
        tenant_id uuid NOT NULL,
        position bigint NOT NULL,
        kind text NOT NULL CHECK (kind IN ('sale', 'return')),
        key text COLLATE "C" NOT NULL,
        store_id uuid NOT NULL,
        device_id uuid NOT NULL,
        business_day date NOT NULL,
        occurred_at timestamptz,
        currency text COLLATE "C" NOT NULL,
        total_minor bigint NOT NULL,
        discount_minor bigint NOT NULL,
        tax_minor bigint NOT NULL,
        receipt_number text NOT NULL,
        cashier_id text NOT NULL,
        customer_id text NOT NULL,
        returned_key text NOT NULL,
        reason text NOT NULL,
        voided_by bigint,
        PRIMARY KEY (tenant_id, position)
    )
    """,
    # Serves voided_between.
    """
    CREATE INDEX sale_voided ON tillsync.sale (tenant_id, voided_by) WHERE voided_by IS NOT NULL
    """,
    # Quantity: what left the store. Discount_minor: those of this line, which total_minor is less.
    """
    CREATE TABLE tillsync.sale_line (
        tenant_id uuid NOT NULL,
        position bigint NOT NULL,
        number integer NOT NULL,
        product_id text COLLATE "C" NOT NULL,
        quantity numeric NOT NULL,
        unit text NOT NULL,
        unit_price_minor bigint NOT NULL,
        discount_minor bigint NOT NULL,
        total_minor bigint NOT NULL,
        PRIMARY KEY (tenant_id, position, number)
    )
    """,
    """
    CREATE TABLE tillsync.tender (
        tenant_id uuid NOT NULL,
        position bigint NOT NULL,
        number integer NOT NULL,
        kind text NOT NULL,
        amount_minor bigint NOT NULL,
        reference text NOT NULL,
        PRIMARY KEY (tenant_id, position, number)
    )
    """,
    # What changes stock or a drawer outside a sale. Kind: 'stock' changes the stock of product_id
    # by quantity; 'cash' was put into the drawer, 'count' was counted in it at a day's close. Name:
    # the till's own word for it ("delivery", "pickup").
    """
    CREATE TABLE tillsync.movement (
        tenant_id uuid NOT NULL,
        position bigint NOT NULL,
        number integer NOT NULL,
        kind text NOT NULL CHECK (kind IN ('stock', 'cash', 'count')),
        key text COLLATE "C" NOT NULL,
        store_id uuid NOT NULL,
        device_id uuid NOT NULL,
        business_day date NOT NULL,
        occurred_at timestamptz,
        name text NOT NULL,
        product_id text COLLATE "C" NOT NULL,
        quantity numeric NOT NULL,
        currency text COLLATE "C" NOT NULL,
        amount_minor bigint NOT NULL,
        drawer_id text NOT NULL,
        reason text NOT NULL,
        voided_by bigint,
        PRIMARY KEY (tenant_id, position, number)
    )
    """,
    # Serves voided_between.
    """
    CREATE INDEX movement_voided ON tillsync.movement (tenant_id, voided_by)
    WHERE voided_by IS NOT NULL
    """,
)

# Sums of the tables above, kept in the transactions that write them. A row may come to nothing.
SUMS = (
    """
    CREATE TABLE tillsync.stock_level (
        tenant_id uuid NOT NULL,
        store_id uuid NOT NULL,
        product_id text COLLATE "C" NOT NULL,
        quantity numeric NOT NULL,
        PRIMARY KEY (tenant_id, store_id, product_id)
    ) WITH (fillfactor = 50)
    """,
    # Void_count: documents of that day that were taken back; they are in no other column.
    """
    CREATE TABLE tillsync.day_total (
        tenant_id uuid NOT NULL,
        store_id uuid NOT NULL,
        business_day date NOT NULL,
        currency text COLLATE "C" NOT NULL,
        sale_count bigint NOT NULL,
        sale_minor numeric NOT NULL,
        return_count bigint NOT NULL,
        return_minor numeric NOT NULL,
        void_count bigint NOT NULL,
        cash_minor numeric NOT NULL,
        counted_minor numeric NOT NULL,
        PRIMARY KEY (tenant_id, store_id, business_day, currency)
    ) WITH (fillfactor = 50)
    """,
)

DEAD = (
    # Events that could not be projected. One that could be after all leaves this table. The
    # envelope's columns are here because the event itself may be pruned.
    """
    CREATE TABLE tillsync.dead_letter (
        tenant_id uuid NOT NULL,
        position bigint NOT NULL,
        key text COLLATE "C" NOT NULL,
        store_id uuid NOT NULL,
        device_id uuid NOT NULL,
        type_url text NOT NULL,
        reason text NOT NULL,
        field text NOT NULL,
        description text NOT NULL,
        attempts bigint NOT NULL DEFAULT 1,
        first_failed_at timestamptz NOT NULL DEFAULT now(),
        last_failed_at timestamptz NOT NULL DEFAULT now(),
        state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'discarded')),
        discarded_by text,
        discarded_because text,
        discarded_at timestamptz,
        PRIMARY KEY (tenant_id, position),
        CHECK (num_nonnulls(discarded_by, discarded_because, discarded_at)
            = CASE state WHEN 'discarded' THEN 3 ELSE 0 END)
    )
    """,
    # Serves replayed and dead_letters_waiting: those that wait, among many that were discarded.
    """
    CREATE INDEX dead_letter_waiting ON tillsync.dead_letter (tenant_id, position)
    WHERE state = 'waiting'
    """,
)

TABLES = (
    "projection",
    "sale",
    "sale_line",
    "tender",
    "movement",
    "stock_level",
    "day_total",
    "dead_letter",
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
) + tuple(
    # To find who is behind, and how many dead letters wait, of all tenants.
    f"CREATE POLICY worker_lists ON tillsync.{table} FOR SELECT TO tillsync_worker USING (true)"
    for table in ("projection", "dead_letter")
)

UPGRADE = (*PROGRESS, *DOCUMENTS, *SUMS, *DEAD, *SECURITY)

DOWNGRADE = tuple(f"DROP TABLE tillsync.{table}" for table in reversed(TABLES))


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
