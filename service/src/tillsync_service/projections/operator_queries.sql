-- What operators ask of the projections, and do with dead letters. $1 is the tenant, except in
-- list_projections.

-- name: list_projections
-- A page of $2 tenants after $1, or the one tenant $3; only the worker sees them all. Served by the
-- primary keys.
SELECT
    h.tenant_id, COALESCE(p.position, 0) AS position,
    h.position - COALESCE(p.position, 0) AS lag, p.projected_at,
    p.rebuild_from, p.rebuild_position, p.rebuild_until, p.rebuild_by, p.rebuild_started_at,
    counted.waiting, counted.discarded
FROM tillsync.tenant_head h
LEFT JOIN tillsync.projection p ON p.tenant_id = h.tenant_id AND p.name = 'retail'
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE state = 'waiting') AS waiting,
        count(*) FILTER (WHERE state = 'discarded') AS discarded
    FROM tillsync.dead_letter d
    WHERE d.tenant_id = h.tenant_id
) AS counted
WHERE h.stream = 'event' AND h.tenant_id > $1 AND ($3::uuid IS NULL OR h.tenant_id = $3)
ORDER BY h.tenant_id
LIMIT $2

-- name: tenants
-- All of them, in order.
SELECT tenant_id FROM tillsync.tenant_head WHERE stream = 'event' ORDER BY tenant_id

-- name: place
-- A tenant's projection and its rebuild, if one is under way.
SELECT
    position, rebuild_from, rebuild_position, rebuild_until, rebuild_by, rebuild_started_at,
    rebuild_number
FROM tillsync.projection
WHERE tenant_id = $1 AND name = 'retail'

-- name: lock
-- The tenant's projection, for as long as this writes; and whether it is of the present history.
SELECT p.history_id = h.history_id AS current
FROM tillsync.projection p
JOIN tillsync.tenant_head h ON h.tenant_id = p.tenant_id AND h.stream = 'event'
WHERE p.tenant_id = $1 AND p.name = 'retail'
FOR UPDATE OF p

-- name: find_tenant
SELECT FROM tillsync.tenant_head WHERE tenant_id = $1 AND stream = 'event'

-- name: list_dead_letters
-- At most $9 after position $2 that fit the filter $3 to $7 and the state $8 (empty: any). Served
-- by the primary key.
SELECT *
FROM tillsync.dead_letter
WHERE tenant_id = $1 AND position > $2 AND position BETWEEN $3 AND $4
    AND ($5 = '' OR reason = $5)
    AND ($6 = '' OR type_url = $6 OR right(type_url, length($6) + 1) IN ('/' || $6, '.' || $6))
    AND ($7::uuid IS NULL OR store_id = $7)
    AND ($8 = '' OR state = $8)
ORDER BY position
LIMIT $9

-- name: dead_letter
SELECT * FROM tillsync.dead_letter WHERE tenant_id = $1 AND position = $2

-- name: event
SELECT
    key, type_url, body, occurred_at, NULLIF(business_day, '-infinity')::text AS business_day,
    outbox_epoch, device_sequence, clock_offset_ms, traceparent
FROM tillsync.event
WHERE tenant_id = $1 AND position = $2

-- name: replayed
-- Waiting dead letters with their events, as list_dead_letters finds them, and no more once $9 bytes
-- are reached; one whose event was pruned has no body. Served by dead_letter_waiting.
SELECT *
FROM (
    SELECT
        d.position, d.key, d.store_id, d.device_id, e.business_day::text, e.occurred_at, d.type_url,
        e.body, d.reason, count(*) OVER () AS found,
        sum(COALESCE(octet_length(e.body), 0)) OVER (
            ORDER BY d.position ROWS UNBOUNDED PRECEDING
        ) - COALESCE(octet_length(e.body), 0) AS bytes_before
    FROM (
        SELECT *
        FROM tillsync.dead_letter
        WHERE tenant_id = $1 AND position > $2 AND position BETWEEN $3 AND $4
            AND ($5 = '' OR reason = $5)
            AND ($6 = '' OR type_url = $6
                OR right(type_url, length($6) + 1) IN ('/' || $6, '.' || $6))
            AND ($7::uuid IS NULL OR store_id = $7)
            AND state = 'waiting'
        ORDER BY position
        LIMIT $8
    ) AS d
    LEFT JOIN LATERAL (
        SELECT business_day, occurred_at, body
        FROM tillsync.event
        WHERE tenant_id = $1 AND position = d.position
        LIMIT 1
    ) AS e ON true
) AS page
WHERE bytes_before < $9
ORDER BY position

-- name: discard
UPDATE tillsync.dead_letter
SET state = 'discarded', discarded_because = $3, discarded_by = $4, discarded_at = now()
WHERE tenant_id = $1 AND position = ANY ($2) AND state = 'waiting'
