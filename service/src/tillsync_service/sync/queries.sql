-- The statements of sync. $1 is always the tenant. Writers hold its record head row (the order
-- rule); readers look at one snapshot.

-- name: publish
-- The staged records of import $2 become those of collection $3 in scope $4; with $5, what the
-- import does not name is deleted. What is the same already keeps its version. 2^128 is the modulus
-- of digests. LATERAL with LIMIT, as in ingest's `look`: without statistics the planner reads the
-- whole of the one side for each row of the other. Served by the primary keys of record_staging and
-- record.
WITH staged AS MATERIALIZED (
    -- Of two with the same id the last counts, and one that was refused only if there is no other.
    SELECT DISTINCT ON (record_id) record_id, body, hash, number
    FROM tillsync.record_staging
    WHERE tenant_id = $1 AND import_id = $2
    ORDER BY record_id, hash IS NOT DISTINCT FROM -1, number DESC
), wanted AS (
    -- One that was refused was named: it is neither written nor deleted.
    SELECT record_id, body, hash, number FROM staged WHERE hash IS DISTINCT FROM -1
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

-- name: place
-- Where the records stand, and in which store the device is now, whatever its token says.
SELECT h.position, h.horizon, h.history_id, d.store_id
FROM tillsync.tenant_head h
JOIN tillsync.device d ON d.tenant_id = h.tenant_id
WHERE h.tenant_id = $1 AND h.stream = 'record' AND d.device_id = $2

-- name: head
SELECT position, history_id
FROM tillsync.tenant_head
WHERE tenant_id = $1 AND stream = 'record'

-- name: heads
-- For the worker, of many tenants: $1 is the array of those with live streams.
SELECT tenant_id, history_id, position
FROM tillsync.tenant_head
WHERE tenant_id = ANY ($1::uuid[]) AND stream = 'record'

-- name: part_page
-- The next records of a part after the id $4: at most $5 of them, and no more once $6 bytes are
-- reached. Deleted ones are left out: whoever loads a part has none of it. Served by the primary
-- key.
SELECT $2 AS collection, $3::uuid AS scope, record_id, version, body, looked_at
FROM (
    SELECT
        record_id, version, body, count(*) OVER () AS looked_at,
        sum(octet_length(body)) OVER (ORDER BY record_id ROWS UNBOUNDED PRECEDING)
            - octet_length(body) AS bytes_before
    FROM (
        SELECT record_id, version, body
        FROM tillsync.record
        WHERE tenant_id = $1 AND collection = $2 AND scope = $3 AND record_id > $4
            AND body IS NOT NULL
        ORDER BY record_id
        LIMIT $5
    ) AS nearest
) AS weighed
WHERE bytes_before < $6
ORDER BY record_id

-- name: changes
-- The next changes after the version $3 in the scopes $2, bounded as above. Scope by scope, each in
-- the order of its index record_by_version, and then together.
SELECT collection, scope, record_id, version, body, looked_at
FROM (
    SELECT
        *, count(*) OVER () AS looked_at,
        sum(coalesce(octet_length(body), 0)) OVER (ORDER BY version ROWS UNBOUNDED PRECEDING)
            - coalesce(octet_length(body), 0) AS bytes_before
    FROM (
        SELECT of_scope.*
        FROM unnest($2::uuid[]) AS wanted (scope)
        CROSS JOIN LATERAL (
            SELECT collection, scope, record_id, version, body
            FROM tillsync.record
            WHERE tenant_id = $1 AND scope = wanted.scope AND version > $3
            ORDER BY version
            LIMIT $4
        ) AS of_scope
        ORDER BY version
        LIMIT $4
    ) AS nearest
) AS weighed
WHERE bytes_before < $5
ORDER BY version

-- name: tail
-- Whose edits were dealt with since the version $2, and (without an epoch) who was moved. Served by
-- mutation_progress_by_version and device_by_placing.
SELECT device_id, epoch, last_sequence
FROM tillsync.mutation_progress
WHERE tenant_id = $1 AND version > $2
UNION ALL
SELECT device_id, NULL, NULL
FROM tillsync.device
WHERE tenant_id = $1 AND placed_version > $2 AND placed_version > 0

-- name: marks
SELECT epoch, last_sequence
FROM tillsync.mutation_progress
WHERE tenant_id = $1 AND device_id = $2

-- name: digests
SELECT collection, scope, record_count, digest
FROM tillsync.record_digest
WHERE tenant_id = $1 AND scope = ANY ($2::uuid[]) AND record_count > 0

-- name: digests_of
SELECT d.collection, d.scope, d.record_count, d.digest
FROM unnest($2::text[], $3::uuid[]) AS wanted (collection, scope)
CROSS JOIN LATERAL (
    SELECT collection, scope, record_count, digest
    FROM tillsync.record_digest
    WHERE tenant_id = $1 AND collection = wanted.collection AND scope = wanted.scope
    LIMIT 1
) AS d

-- name: definitions
SELECT name, policy, lookup_keys, load_order, version
FROM tillsync.collection
WHERE tenant_id = $1
ORDER BY name

-- name: push_place
-- Where the records stand and how far this device's edits are dealt with, for whoever holds the
-- head row: a statement of its own after the lock (the order rule).
SELECT
    h.position, h.horizon, h.history_id, d.store_id,
    coalesce(
        (
            SELECT p.last_sequence
            FROM tillsync.mutation_progress p
            WHERE p.tenant_id = $1 AND p.device_id = $2 AND p.epoch = $3
        ), 0
    ) AS last_sequence
FROM tillsync.tenant_head h
JOIN tillsync.device d ON d.tenant_id = h.tenant_id
WHERE h.tenant_id = $1 AND h.stream = 'record' AND d.device_id = $2

-- name: policies
SELECT name, policy FROM tillsync.collection WHERE tenant_id = $1 AND name = ANY ($2::text[])

-- name: records
SELECT r.*
FROM unnest($2::text[], $3::uuid[], $4::text[]) AS wanted (collection, scope, record_id)
CROSS JOIN LATERAL (
    SELECT collection, scope, record_id, version, body, edited_by, edited_from
    FROM tillsync.record
    WHERE tenant_id = $1 AND collection = wanted.collection AND scope = wanted.scope
        AND record_id = wanted.record_id
    LIMIT 1
) AS r

-- name: results
SELECT sequence, digest, outcome, version, reason, field, description
FROM tillsync.mutation
WHERE tenant_id = $1 AND device_id = $2 AND epoch = $3 AND sequence BETWEEN $4 AND $5
ORDER BY sequence

-- name: write_records
-- The records, and what they make of their parts.
WITH written AS (
    INSERT INTO tillsync.record (
        tenant_id, collection, scope, record_id, version, body, hash, edited_by, edited_from
    )
    SELECT $1, r.collection, r.scope, r.record_id, r.version, r.body, r.hash::numeric,
        r.edited_by, r.edited_from
    FROM unnest(
        $2::text[], $3::uuid[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::uuid[],
        $9::bigint[]
    ) AS r (collection, scope, record_id, version, body, hash, edited_by, edited_from)
    ON CONFLICT (tenant_id, collection, scope, record_id) DO UPDATE
    SET version = excluded.version, body = excluded.body, hash = excluded.hash,
        edited_by = excluded.edited_by, edited_from = excluded.edited_from, changed_at = now()
)
INSERT INTO tillsync.record_digest AS d (tenant_id, collection, scope, record_count, digest)
SELECT $1, part.collection, part.scope, part.record_count, part.digest::numeric
FROM unnest($10::text[], $11::uuid[], $12::bigint[], $13::text[])
    AS part (collection, scope, record_count, digest)
ON CONFLICT (tenant_id, collection, scope) DO UPDATE
SET record_count = d.record_count + excluded.record_count,
    digest = mod(d.digest + excluded.digest, 340282366920938463463374607431768211456)

-- name: write_results
-- The edits with their outcomes, how far this device is, and the head.
WITH ledger AS (
    INSERT INTO tillsync.mutation (
        tenant_id, device_id, epoch, sequence, digest, outcome, version, reason, field, description
    )
    SELECT $1, $2, $3, r.*
    FROM unnest(
        $5::bigint[], $6::bytea[], $7::text[], $8::bigint[], $9::text[], $10::text[], $11::text[]
    ) AS r
    RETURNING sequence
), progress AS (
    INSERT INTO tillsync.mutation_progress (tenant_id, device_id, epoch, last_sequence, version)
    SELECT $1, $2, $3, max(sequence), $4 FROM ledger
    ON CONFLICT (tenant_id, device_id, epoch) DO UPDATE
    SET last_sequence = excluded.last_sequence, version = excluded.version
)
UPDATE tillsync.tenant_head SET position = $4 WHERE tenant_id = $1 AND stream = 'record'

-- name: write_conflicts
INSERT INTO tillsync.conflict (
    tenant_id, device_id, epoch, conflict_id, sequence, collection, scope, record_id, kind,
    base_version, edit_body, met_version, met_body, outcome, reason
)
SELECT $1, $2, $3, c.*
FROM unnest(
    $4::bigint[], $5::bigint[], $6::text[], $7::uuid[], $8::text[], $9::text[], $10::bigint[],
    $11::text[], $12::bigint[], $13::text[], $14::text[], $15::text[]
) AS c

-- name: tenants_with_records
-- For the worker, of all tenants.
SELECT tenant_id FROM tillsync.tenant_head WHERE stream = 'record' AND position > 0

-- name: forgotten_before
-- The last version of a deletion that is older than $2 days; none: nothing to forget. Served by
-- record_deleted.
SELECT max(version) AS version
FROM tillsync.record
WHERE tenant_id = $1 AND body IS NULL AND changed_at < now() - make_interval(days => $2)

-- name: move_horizon
-- First the rule, under the head lock: from now on every reader behind $2 starts anew.
UPDATE tillsync.tenant_head
SET horizon = greatest(horizon, $2)
WHERE tenant_id = $1 AND stream = 'record'

-- name: forget
DELETE FROM tillsync.record WHERE tenant_id = $1 AND body IS NULL AND version <= $2

-- name: write_audit
INSERT INTO tillsync.audit (tenant_id, actor, action, detail) VALUES ($1, $2, $3, $4::text::jsonb)

-- The operator's: collections, one record, conflicts.

-- name: lock_head
SELECT position FROM tillsync.tenant_head WHERE tenant_id = $1 AND stream = 'record' FOR UPDATE

-- name: advance_head
UPDATE tillsync.tenant_head SET position = $2 WHERE tenant_id = $1 AND stream = 'record'

-- name: known
-- Whether there are the tenant, its collection $2 and, unless it is the tenant's own scope, the
-- store $3.
SELECT
    EXISTS (SELECT FROM tillsync.tenant_head WHERE tenant_id = $1) AS tenant,
    EXISTS (SELECT FROM tillsync.collection WHERE tenant_id = $1 AND name = $2) AS collection,
    $3::uuid = '00000000-0000-0000-0000-000000000000'
        OR EXISTS (SELECT FROM tillsync.store WHERE tenant_id = $1 AND store_id = $3) AS store

-- name: define_collection
-- One that is so already stays, and takes no version.
WITH defined AS (
    INSERT INTO tillsync.collection AS c
        (tenant_id, name, policy, lookup_keys, load_order, version)
    SELECT $1, $2, $3, $4, $5, h.position + 1
    FROM tillsync.tenant_head h
    WHERE h.tenant_id = $1 AND h.stream = 'record'
    ON CONFLICT (tenant_id, name) DO UPDATE
    SET policy = excluded.policy, lookup_keys = excluded.lookup_keys,
        load_order = excluded.load_order, version = excluded.version
    WHERE (c.policy, c.lookup_keys, c.load_order)
        IS DISTINCT FROM (excluded.policy, excluded.lookup_keys, excluded.load_order)
    RETURNING c.version
)
UPDATE tillsync.tenant_head SET position = defined.version
FROM defined
WHERE tenant_id = $1 AND stream = 'record'

-- name: list_digests
SELECT collection, scope, record_count, digest
FROM tillsync.record_digest
WHERE tenant_id = $1 AND record_count > 0
ORDER BY collection, scope

-- name: record
-- Served by record's primary key.
SELECT body, version, changed_at
FROM tillsync.record
WHERE tenant_id = $1 AND collection = $2 AND scope = $3 AND record_id = $4

-- name: list_conflicts
-- Served by conflict's primary key.
SELECT * FROM tillsync.conflict
WHERE tenant_id = $1 AND conflict_id > $2
ORDER BY conflict_id
LIMIT $3

-- name: list_open_conflicts
-- Served by conflict_open.
SELECT * FROM tillsync.conflict
WHERE tenant_id = $1 AND conflict_id > $2 AND outcome = 'parked' AND choice IS NULL
ORDER BY conflict_id
LIMIT $3

-- name: conflict
SELECT * FROM tillsync.conflict WHERE tenant_id = $1 AND conflict_id = $2

-- name: decide_conflict
UPDATE tillsync.conflict
SET choice = $3, decided_by = $4, decided_at = now(), decided_version = $5
WHERE tenant_id = $1 AND conflict_id = $2
RETURNING *
