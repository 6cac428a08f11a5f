-- The statements of the feed. $1 is the tenant, where nothing else is said.

-- name: head
-- Where the history ends. Read before the page of the same snapshot. Served by the primary key.
SELECT position, history_id FROM tillsync.tenant_head WHERE tenant_id = $1 AND stream = 'event'

-- name: heads
-- For the worker, of many tenants: $1 is the array of those with live streams.
SELECT tenant_id, position, history_id
FROM tillsync.tenant_head
WHERE tenant_id = ANY ($1::uuid[]) AND stream = 'event'

-- name: page
-- The events after position $2 and up to $3 that pass the filter ($6 types, $7 stores, $8 and $9
-- times; NULL: any): at most $4 of them, and no more once $5 bytes are reached. $3 bounds what a
-- filter looks at. The sizes are those before any text is made of them: lengths, no contents, so a
-- large body is read only when it is sent. Positions ascend by commit (the order rule), so nothing
-- turns up between two that were sent. Served by the primary key.
SELECT
    position, key, store_id, device_id, outbox_epoch, device_sequence, received_at, occurred_at,
    business_day, clock_offset_ms, flags, type_url, body, amounts, traceparent, bytes_so_far
FROM (
    SELECT *, sum(bytes) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) AS bytes_so_far
    FROM (
        SELECT
            *,
            octet_length(body) + octet_length(key) + octet_length(type_url)
                + pg_column_size(amounts) + 300 AS bytes
        FROM tillsync.event
        WHERE tenant_id = $1 AND position > $2 AND position <= $3
            AND ($6::text[] IS NULL OR type_url = ANY ($6))
            AND ($7::uuid[] IS NULL OR store_id = ANY ($7))
            AND ($8::timestamptz IS NULL OR received_at >= $8)
            AND ($9::timestamptz IS NULL OR received_at < $9)
        ORDER BY position
        LIMIT $4
    ) AS passed
) AS summed
WHERE bytes_so_far - bytes < $5
ORDER BY position

-- name: consumer
-- Where the consumer $2 stands.
SELECT position, history_id FROM tillsync.feed_consumer WHERE tenant_id = $1 AND name = $2

-- name: consumers
-- All of them. Served by the primary key.
SELECT name, position, history_id, committed_at
FROM tillsync.feed_consumer
WHERE tenant_id = $1
ORDER BY name

-- name: other_consumers
-- How many there are beside $2.
SELECT count(*) AS others FROM tillsync.feed_consumer WHERE tenant_id = $1 AND name <> $2

-- name: commit
-- The consumer $2 is at $3 of history $4. No row: it is further, and $5 does not let it go back.
INSERT INTO tillsync.feed_consumer AS c (tenant_id, name, position, history_id)
VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant_id, name) DO UPDATE
SET position = excluded.position, history_id = excluded.history_id, committed_at = now()
WHERE $5 OR c.history_id <> excluded.history_id OR c.position <= excluded.position
RETURNING name, position, history_id, committed_at

-- name: delete_consumer
-- For the worker, because the serving role deletes nothing.
DELETE FROM tillsync.feed_consumer WHERE tenant_id = $1 AND name = $2

-- name: lags
-- For the worker, of every tenant: how many events each consumer has not committed. At most $1.
SELECT
    c.tenant_id, c.name,
    h.position - CASE WHEN c.history_id = h.history_id THEN c.position ELSE 0 END AS lag_events
FROM tillsync.feed_consumer c
JOIN tillsync.tenant_head h ON h.tenant_id = c.tenant_id AND h.stream = 'event'
ORDER BY c.tenant_id, c.name
LIMIT $1
