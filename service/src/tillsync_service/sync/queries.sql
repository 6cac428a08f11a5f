-- The statements of sync. $1 is always the tenant. Writers hold its record head row (the order
-- rule); readers look at one snapshot.

-- name: publish
-- The staged records of import $2 become those of collection $3 in scope $4; with $5, what the
-- import does not name is deleted. What is the same already keeps its version. 2^128 is the modulus
-- of digests. LATERAL with LIMIT, as in ingest's `look`: without statistics the planner reads the
-- whole of the one side for each row of the other. Served by the primary keys of record_staging and
-- record.
WITH staged AS MATERIALIZED (
    -- Of two with the same id the last counts.
    SELECT DISTINCT ON (record_id) record_id, body, hash, number
    FROM tillsync.record_staging
    WHERE tenant_id = $1 AND import_id = $2
    ORDER BY record_id, number DESC
), wanted AS (
    SELECT record_id, body, hash, number FROM staged
    UNION ALL
    SELECT r.record_id, NULL, NULL, 0
    FROM tillsync.record r
    WHERE $5 AND r.tenant_id = $1 AND r.collection = $3 AND r.scope = $4 AND r.body IS NOT NULL
        AND NOT EXISTS (SELECT FROM staged s WHERE s.record_id = r.record_id)
), changed AS MATERIALIZED (
    SELECT
        w.record_id, w.body, w.hash, r.hash AS old_hash,
        h.position + row_number() OVER (ORDER BY w.number, w.record_id) AS version
    FROM tillsync.tenant_head h
    CROSS JOIN wanted w
    LEFT JOIN LATERAL (
        SELECT hash
        FROM tillsync.record
        WHERE tenant_id = $1 AND collection = $3 AND scope = $4 AND record_id = w.record_id
        LIMIT 1
    ) AS r ON true
    WHERE h.tenant_id = $1 AND h.stream = 'record' AND r.hash IS DISTINCT FROM w.hash
), written AS (
    INSERT INTO tillsync.record (tenant_id, collection, scope, record_id, version, body, hash)
    SELECT $1, $3, $4, record_id, version, body, hash FROM changed
    ON CONFLICT (tenant_id, collection, scope, record_id) DO UPDATE
    SET version = excluded.version, body = excluded.body, hash = excluded.hash,
        edited_by = NULL, edited_from = NULL, changed_at = now()
), total AS (
    SELECT
        count(*) AS changed,
        count(*) FILTER (WHERE hash IS NULL) AS deleted,
        count(hash) - count(old_hash) AS record_count,
        coalesce(sum(hash), 0) - coalesce(sum(old_hash), 0) AS digest
    FROM changed
), digests AS (
    INSERT INTO tillsync.record_digest AS d (tenant_id, collection, scope, record_count, digest)
    SELECT
        $1, $3, $4, record_count,
        mod(mod(digest, 340282366920938463463374607431768211456)
            + 340282366920938463463374607431768211456, 340282366920938463463374607431768211456)
    FROM total
    WHERE total.changed > 0
    ON CONFLICT (tenant_id, collection, scope) DO UPDATE
    SET record_count = d.record_count + excluded.record_count,
        digest = mod(d.digest + excluded.digest, 340282366920938463463374607431768211456)
)
UPDATE tillsync.tenant_head h
SET position = h.position + total.changed
FROM total
WHERE h.tenant_id = $1 AND h.stream = 'record'
RETURNING
    h.position AS version, total.changed - total.deleted AS changed, total.deleted,
    (SELECT count(*) FROM staged WHERE body IS NOT NULL) AS named

-- name: stage
INSERT INTO tillsync.record_staging (tenant_id, import_id, number, record_id, body, hash)
SELECT $1, $2, $3 + s.number, s.record_id, s.body, s.hash
FROM unnest($4::text[], $5::text[], $6::text[]::numeric[])
    WITH ORDINALITY AS s (record_id, body, hash, number)

-- name: unstage
-- This import's, and what others left behind that ended without a word.
DELETE FROM tillsync.record_staging
WHERE tenant_id = $1 AND (import_id = $2 OR staged_at < now() - interval '1 day')

-- name: lock_head
SELECT FROM tillsync.tenant_head WHERE tenant_id = $1 AND stream = 'record' FOR UPDATE

-- name: collection
SELECT name, policy, lookup_keys, load_order, version
FROM tillsync.collection
WHERE tenant_id = $1 AND name = $2
