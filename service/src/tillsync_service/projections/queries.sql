-- The statements of the projections. $1 is the tenant, except in behind and waiting. Who writes
-- holds the tenant's row of projection (take, take_waiting): nobody else writes these tables.

-- name: behind
-- The tenants that there is something to do for, and how many events each is behind. A read of all
-- heads, once a second; only the worker sees them all.
SELECT
    h.tenant_id, h.position - COALESCE(p.position, 0) AS lag,
    p.rebuild_position IS NOT NULL AS rebuilding
FROM tillsync.tenant_head h
LEFT JOIN tillsync.projection p ON p.tenant_id = h.tenant_id AND p.name = 'retail'
WHERE h.stream = 'event' AND (
    h.position > COALESCE(p.position, 0)
    OR h.history_id <> p.history_id
    OR p.rebuild_position IS NOT NULL
)

-- name: waiting
-- How many dead letters wait, of all tenants that have some. Served by dead_letter_waiting.
SELECT tenant_id, count(*) AS waiting
FROM tillsync.dead_letter
WHERE state = 'waiting'
GROUP BY tenant_id

-- name: begin
-- A tenant's first projection; its history is read again with the lock.
INSERT INTO tillsync.projection (tenant_id, name, history_id)
SELECT tenant_id, 'retail', history_id
FROM tillsync.tenant_head
WHERE tenant_id = $1 AND stream = 'event'
ON CONFLICT DO NOTHING

-- name: take
-- The tenant's turn, or nothing where somebody else has it. The head grows only, so that an older
-- one does no harm.
SELECT
    p.position, p.history_id, p.rebuild_position, p.rebuild_until,
    h.position AS head, h.history_id AS head_history_id
FROM tillsync.projection p
JOIN tillsync.tenant_head h ON h.tenant_id = p.tenant_id AND h.stream = 'event'
WHERE p.tenant_id = $1 AND p.name = 'retail'
FOR UPDATE OF p SKIP LOCKED

-- name: take_waiting
-- The same for an operator, who waits for his turn.
SELECT FROM tillsync.projection WHERE tenant_id = $1 AND name = 'retail' FOR UPDATE

-- name: events
-- A page of at most $4 events after position $2 and up to $3, and no more once $5 bytes are
-- reached. One that an operator discarded is not looked at again. Served by the primary keys.
SELECT
    e.position, e.key, e.store_id, e.device_id, e.business_day::text, e.occurred_at, e.type_url,
    e.body, e.bytes_before, d.position IS NOT NULL AS discarded
FROM (
    SELECT
        *, sum(octet_length(body)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING)
            - octet_length(body) AS bytes_before
    FROM (
        SELECT * FROM tillsync.event
        WHERE tenant_id = $1 AND position > $2 AND position <= $3
        ORDER BY position
        LIMIT $4
    ) AS page
) AS e
LEFT JOIN LATERAL (
    SELECT position FROM tillsync.dead_letter
    WHERE tenant_id = $1 AND position = e.position AND state = 'discarded'
    LIMIT 1
) AS d ON true
WHERE e.bytes_before < $5
ORDER BY e.position

-- name: events_at
-- Those of the events at the positions $2 that are kept. Served by event's primary key.
SELECT
    position, key, store_id, device_id, business_day::text, occurred_at, type_url, body
FROM tillsync.event
WHERE tenant_id = $1 AND position = ANY ($2)

-- name: write
-- The rows of a chunk's documents. What they come to is added by add.
WITH lines AS (
    INSERT INTO tillsync.sale_line (
        tenant_id, position, number, product_id, quantity, unit, unit_price_minor, discount_minor,
        total_minor
    )
    SELECT $1, l.*
    FROM unnest(
        $18::text::bigint[], $19::text::integer[], $20::text[], $21::text::numeric[], $22::text[],
        $23::text::bigint[], $24::text::bigint[], $25::text::bigint[]
    ) AS l
), tenders AS (
    INSERT INTO tillsync.tender (tenant_id, position, number, kind, amount_minor, reference)
    SELECT $1, t.*
    FROM unnest(
        $26::text::bigint[], $27::text::integer[], $28::text[], $29::text::bigint[], $30::text[]
    ) AS t
)
INSERT INTO tillsync.sale (
    tenant_id, position, key, store_id, device_id, business_day, occurred_at, kind, currency,
    total_minor, discount_minor, tax_minor, receipt_number, cashier_id, customer_id, returned_key,
    reason
)
SELECT $1, s.*
FROM unnest(
    $2::text::bigint[], $3::text[], $4::text::uuid[], $5::text::uuid[], $6::text::date[],
    $7::timestamptz[], $8::text[], $9::text[], $10::text::bigint[], $11::text::bigint[],
    $12::text::bigint[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[]
) AS s

-- name: write_movements
INSERT INTO tillsync.movement (
    tenant_id, position, key, store_id, device_id, business_day, occurred_at, number, kind, name,
    product_id, quantity, currency, amount_minor, drawer_id, reason
)
SELECT $1, m.*
FROM unnest(
    $2::text::bigint[], $3::text[], $4::text::uuid[], $5::text::uuid[], $6::text::date[],
    $7::timestamptz[], $8::text::integer[], $9::text[], $10::text[], $11::text[],
    $12::text::numeric[], $13::text[], $14::text::bigint[], $15::text[], $16::text[]
) AS m

-- name: add
-- What new documents come to.
WITH stock AS (
    INSERT INTO tillsync.stock_level AS s (tenant_id, store_id, product_id, quantity)
    SELECT $1, c.*
    FROM unnest($2::text::uuid[], $3::text[], $4::text::numeric[]) AS c
    ON CONFLICT (tenant_id, store_id, product_id) DO UPDATE
    SET quantity = s.quantity + excluded.quantity
)
INSERT INTO tillsync.day_total AS d (
    tenant_id, store_id, business_day, currency, sale_count, sale_minor, return_count,
    return_minor, void_count, cash_minor, counted_minor
)
SELECT
    $1, c.store_id, c.business_day, c.currency, c.sale_count, c.sale_minor, c.return_count,
    c.return_minor, 0, c.cash_minor, c.counted_minor
FROM unnest(
    $5::text::uuid[], $6::text::date[], $7::text[], $8::text::bigint[], $9::text::numeric[],
    $10::text::bigint[], $11::text::numeric[], $12::text::numeric[], $13::text::numeric[]
) AS c (
    store_id, business_day, currency, sale_count, sale_minor, return_count, return_minor,
    cash_minor, counted_minor
)
ON CONFLICT (tenant_id, store_id, business_day, currency) DO UPDATE
SET sale_count = d.sale_count + excluded.sale_count,
    sale_minor = d.sale_minor + excluded.sale_minor,
    return_count = d.return_count + excluded.return_count,
    return_minor = d.return_minor + excluded.return_minor,
    cash_minor = d.cash_minor + excluded.cash_minor,
    counted_minor = d.counted_minor + excluded.counted_minor

-- name: count
-- Adds to the sums ($3 = 1), or takes from them ($3 = -1), what the documents at the positions $2
-- come to as they stand now. One that was taken back counts as such and as nothing else. LATERAL
-- leaves the planner one way, a look into the primary key for each position.
WITH sold AS (
    SELECT s.*
    FROM unnest($2::bigint[]) AS asked (position)
    CROSS JOIN LATERAL (
        SELECT position, kind, store_id, business_day, currency, total_minor, voided_by
        FROM tillsync.sale
        WHERE tenant_id = $1 AND position = asked.position
        LIMIT 1
    ) AS s
), moved AS (
    SELECT m.*
    FROM unnest($2::bigint[]) AS asked (position)
    CROSS JOIN LATERAL (
        SELECT
            kind, store_id, business_day, product_id, quantity, currency, amount_minor, voided_by
        FROM tillsync.movement
        WHERE tenant_id = $1 AND position = asked.position
        OFFSET 0
    ) AS m
), stock AS (
    INSERT INTO tillsync.stock_level AS s (tenant_id, store_id, product_id, quantity)
    SELECT $1, c.store_id, c.product_id, sum(c.change) * $3
    FROM (
        SELECT sold.store_id, l.product_id, -l.quantity AS change
        FROM sold
        CROSS JOIN LATERAL (
            SELECT product_id, quantity FROM tillsync.sale_line
            WHERE tenant_id = $1 AND position = sold.position
            OFFSET 0
        ) AS l
        WHERE sold.voided_by IS NULL AND l.product_id <> ''
        UNION ALL
        SELECT store_id, product_id, quantity FROM moved
        WHERE kind = 'stock' AND voided_by IS NULL
    ) AS c
    GROUP BY c.store_id, c.product_id
    ON CONFLICT (tenant_id, store_id, product_id) DO UPDATE
    SET quantity = s.quantity + excluded.quantity
)
INSERT INTO tillsync.day_total AS d (
    tenant_id, store_id, business_day, currency, sale_count, sale_minor, return_count,
    return_minor, void_count, cash_minor, counted_minor
)
SELECT
    $1, c.store_id, c.business_day, c.currency,
    $3 * count(*) FILTER (WHERE c.kind = 'sale' AND c.counts),
    $3 * COALESCE(sum(c.minor) FILTER (WHERE c.kind = 'sale' AND c.counts), 0),
    $3 * count(*) FILTER (WHERE c.kind = 'return' AND c.counts),
    $3 * COALESCE(sum(c.minor) FILTER (WHERE c.kind = 'return' AND c.counts), 0),
    $3 * count(*) FILTER (WHERE NOT c.counts),
    $3 * COALESCE(sum(c.minor) FILTER (WHERE c.kind = 'cash' AND c.counts), 0),
    $3 * COALESCE(sum(c.minor) FILTER (WHERE c.kind = 'count' AND c.counts), 0)
FROM (
    SELECT store_id, business_day, currency, kind, total_minor AS minor, voided_by IS NULL AS counts
    FROM sold
    UNION ALL
    SELECT store_id, business_day, currency, kind, amount_minor, voided_by IS NULL
    FROM moved
    WHERE currency <> ''
) AS c
GROUP BY c.store_id, c.business_day, c.currency
ON CONFLICT (tenant_id, store_id, business_day, currency) DO UPDATE
SET sale_count = d.sale_count + excluded.sale_count,
    sale_minor = d.sale_minor + excluded.sale_minor,
    return_count = d.return_count + excluded.return_count,
    return_minor = d.return_minor + excluded.return_minor,
    void_count = d.void_count + excluded.void_count,
    cash_minor = d.cash_minor + excluded.cash_minor,
    counted_minor = d.counted_minor + excluded.counted_minor

-- name: targets
-- The documents under the keys $2, by way of the ledger, which knows every key for ever. Served by
-- the primary keys.
SELECT wanted.key, held.position, found.voided_by
FROM unnest($2::text[]) AS wanted (key)
CROSS JOIN LATERAL (
    SELECT position FROM tillsync.event_key WHERE tenant_id = $1 AND key = wanted.key LIMIT 1
) AS held
CROSS JOIN LATERAL (
    (SELECT voided_by FROM tillsync.sale
    WHERE tenant_id = $1 AND position = held.position LIMIT 1)
    UNION ALL
    (SELECT voided_by FROM tillsync.movement
    WHERE tenant_id = $1 AND position = held.position LIMIT 1)
    LIMIT 1
) AS found

-- name: mark_sales
-- The documents at the positions $2 were taken back by the events at $3; NULL: they were not.
UPDATE tillsync.sale SET voided_by = ($3::bigint[])[array_position($2::bigint[], position)]
WHERE tenant_id = $1 AND position = ANY ($2)

-- name: mark_movements
UPDATE tillsync.movement SET voided_by = ($3::bigint[])[array_position($2::bigint[], position)]
WHERE tenant_id = $1 AND position = ANY ($2)

-- name: bury
-- An event that fails again keeps its first moment; one that an operator discarded stays so.
INSERT INTO tillsync.dead_letter AS d (
    tenant_id, position, key, store_id, device_id, type_url, reason, field, description
)
SELECT $1, b.*
FROM unnest(
    $2::bigint[], $3::text[], $4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::text[], $9::text[]
) AS b
ON CONFLICT (tenant_id, position) DO UPDATE
SET attempts = d.attempts + 1, last_failed_at = now(), reason = excluded.reason,
    field = excluded.field, description = excluded.description
WHERE d.state = 'waiting'

-- name: raise
-- Those at the positions $2 are dead no longer.
DELETE FROM tillsync.dead_letter
WHERE tenant_id = $1 AND position = ANY ($2) AND state = 'waiting'

-- name: move
-- The cursor, in the transaction of the rows that it passes.
UPDATE tillsync.projection SET position = $2, projected_at = now()
WHERE tenant_id = $1 AND name = 'retail'

-- name: new_history
-- The database was restored: from here on another history is projected, and all of it anew.
UPDATE tillsync.projection AS p SET history_id = $2, position = LEAST(p.position, $3)
WHERE p.tenant_id = $1 AND p.name = 'retail'

-- name: beyond
-- At most $3 positions after $2 that have rows: of a history that ended. Served by the primary keys.
SELECT position FROM tillsync.sale WHERE tenant_id = $1 AND position > $2
UNION SELECT position FROM tillsync.movement WHERE tenant_id = $1 AND position > $2
UNION SELECT position FROM tillsync.dead_letter WHERE tenant_id = $1 AND position > $2
ORDER BY position
LIMIT $3

-- name: start_rebuild
-- All that was projected is projected anew, from the oldest kept event on; one that is under way
-- goes on. Served by event's primary key.
UPDATE tillsync.projection AS p
SET rebuild_from = oldest.before, rebuild_position = oldest.before, rebuild_until = p.position,
    rebuild_by = $2, rebuild_started_at = now(), rebuild_number = p.rebuild_number + 1
FROM (
    SELECT COALESCE(min(position) - 1, 0) AS before FROM tillsync.event WHERE tenant_id = $1
) AS oldest
WHERE p.tenant_id = $1 AND p.name = 'retail' AND p.rebuild_position IS NULL

-- name: move_rebuild
UPDATE tillsync.projection SET rebuild_position = $2
WHERE tenant_id = $1 AND name = 'retail'

-- name: end_rebuild
UPDATE tillsync.projection
SET rebuild_from = NULL, rebuild_position = NULL, rebuild_until = NULL, rebuild_by = NULL,
    rebuild_started_at = NULL
WHERE tenant_id = $1 AND name = 'retail'

-- name: voided_between
-- The documents that were taken back by the events from $2 to $3. Served by sale_voided and
-- movement_voided.
SELECT position, voided_by FROM tillsync.sale WHERE tenant_id = $1 AND voided_by BETWEEN $2 AND $3
UNION
SELECT position, voided_by FROM tillsync.movement
WHERE tenant_id = $1 AND voided_by BETWEEN $2 AND $3

-- name: documents_between
-- The documents from $2 to $3. Served by the primary keys.
SELECT position, voided_by FROM tillsync.sale WHERE tenant_id = $1 AND position BETWEEN $2 AND $3
UNION
SELECT position, voided_by FROM tillsync.movement
WHERE tenant_id = $1 AND position BETWEEN $2 AND $3

-- name: remove_between
-- Their rows; what they came to was taken from the sums by count.
WITH lines AS (
    DELETE FROM tillsync.sale_line WHERE tenant_id = $1 AND position BETWEEN $2 AND $3
), tenders AS (
    DELETE FROM tillsync.tender WHERE tenant_id = $1 AND position BETWEEN $2 AND $3
), moved AS (
    DELETE FROM tillsync.movement WHERE tenant_id = $1 AND position BETWEEN $2 AND $3
)
DELETE FROM tillsync.sale WHERE tenant_id = $1 AND position BETWEEN $2 AND $3

-- name: remove_dead_between
DELETE FROM tillsync.dead_letter WHERE tenant_id = $1 AND position BETWEEN $2 AND $3
