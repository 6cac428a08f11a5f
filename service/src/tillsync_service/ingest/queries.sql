-- The statements of ingest. $1 is always the tenant, and the caller holds its head row (the order
-- rule): nothing of this tenant changes between one statement and the next.

-- name: look
-- The head, who holds those of the keys that are taken, and which of the presented numbers were
-- presented before (the intersection only, because the whole set of a damaged device may be large):
-- one row at least. A statement of its own after the lock, because only a snapshot taken after the
-- lock was granted sees what the holder before us committed. LATERAL with LIMIT leaves the planner
-- one way, a look into the primary key for each key: with `key = ANY ($2)` it reads the tenant's
-- whole ledger while the table has no statistics yet. Served by the primary keys of event_key and
-- device_progress.
SELECT h.position AS head, h.history_id, found.*
FROM tillsync.tenant_head h
LEFT JOIN (
    SELECT
        held.key, held.position, held.digest,
        NULL::uuid AS device_id, NULL::bigint AS outbox_epoch, NULL::int8multirange AS sequences
    FROM unnest($2::text[]) AS wanted (key)
    CROSS JOIN LATERAL (
        SELECT key, position, digest
        FROM tillsync.event_key
        WHERE tenant_id = $1 AND key = wanted.key
        LIMIT 1
    ) AS held
    UNION ALL
    SELECT
        NULL, NULL, NULL,
        seen.device_id, seen.outbox_epoch, seen.sequences * presented.sequences
    FROM unnest($3::uuid[], $4::bigint[], $5::text[]::int8multirange[])
        AS presented (device_id, outbox_epoch, sequences)
    CROSS JOIN LATERAL (
        SELECT device_id, outbox_epoch, sequences
        FROM tillsync.device_progress
        WHERE tenant_id = $1
            AND device_id = presented.device_id
            AND outbox_epoch = presented.outbox_epoch
        LIMIT 1
    ) AS seen
) AS found ON true
WHERE h.tenant_id = $1 AND h.stream = 'event'

-- name: used
-- Which of the numbers $2 to $4 an event of the history has. Served by event_by_number.
SELECT asked.*
FROM unnest($2::uuid[], $3::bigint[], $4::bigint[])
    AS asked (device_id, outbox_epoch, device_sequence)
CROSS JOIN LATERAL (
    SELECT
    FROM tillsync.event
    WHERE tenant_id = $1
        AND device_id = asked.device_id
        AND outbox_epoch = asked.outbox_epoch
        AND device_sequence = asked.device_sequence
    LIMIT 1
) AS held

-- name: write
-- The ledger, the history, the books, the progress and the head in one round trip. A key that is
-- taken would be an error: `look` has looked under the same lock. The divisor is 2^128.
WITH ledger AS (
    INSERT INTO tillsync.event_key (tenant_id, key, position, digest)
    SELECT $1, e.key, $2 + e.number, e.digest
    FROM unnest($3::text[], $4::bytea[]) WITH ORDINALITY AS e (key, digest, number)
), history AS (
    INSERT INTO tillsync.event (
        tenant_id, position, key, store_id, device_id, outbox_epoch, device_sequence, occurred_at,
        business_day, clock_offset_ms, flags, type_url, body, amounts, traceparent
    )
    SELECT
        $1, $2 + e.number, e.key, e.store_id, e.device_id, e.outbox_epoch, e.device_sequence,
        -- Hours and seconds apart, because one double cannot hold a far year to the microsecond.
        timestamptz '1970-01-01 00:00:00Z' + make_interval(
            hours => (e.occurred_second / 3600)::integer,
            secs => (e.occurred_second % 3600)::float8 + (e.occurred_nano / 1000)::float8 / 1000000
        ),
        e.business_day, e.clock_offset_ms, e.flags, e.type_url, e.body, e.amounts, e.traceparent
    FROM ROWS FROM (
        unnest(
            $3::text[], $5::text::uuid[], $6::text::uuid[], $7::text::bigint[], $8::text::bigint[],
            $9::text::bigint[], $10::text::integer[], $11::text::date[], $12::text::bigint[],
            $13::text::integer[], $14::text[], $15::bytea[], $17::text::text[]
        ),
        jsonb_array_elements($16::jsonb)
    ) WITH ORDINALITY AS e (
        key, store_id, device_id, outbox_epoch, device_sequence, occurred_second, occurred_nano,
        business_day, clock_offset_ms, flags, type_url, body, traceparent, amounts, number
    )
), books AS (
    INSERT INTO tillsync.device_day AS d (
        tenant_id, device_id, business_day, currency, event_count, amount_minor, digest_sum
    )
    SELECT $1, total.*
    FROM unnest(
        $18::uuid[], $19::text[]::date[], $20::text[], $21::bigint[],
        $22::text[]::numeric[], $23::text[]::numeric[]
    ) AS total
    ON CONFLICT (tenant_id, device_id, business_day, currency) DO UPDATE
    SET event_count = d.event_count + excluded.event_count,
        amount_minor = d.amount_minor + excluded.amount_minor,
        digest_sum = mod(
            d.digest_sum + excluded.digest_sum, 340282366920938463463374607431768211456
        )
), progress AS (
    INSERT INTO tillsync.device_progress AS p (tenant_id, device_id, outbox_epoch, sequences)
    SELECT $1, presented.*
    FROM unnest($24::uuid[], $25::bigint[], $26::text[]::int8multirange[]) AS presented
    ON CONFLICT (tenant_id, device_id, outbox_epoch) DO UPDATE
    SET sequences = p.sequences + excluded.sequences, changed_at = now()
)
UPDATE tillsync.tenant_head
SET position = $2 + cardinality($3::text[])
WHERE tenant_id = $1 AND stream = 'event'

-- name: quarantine
-- The same conflicting event may be offered for ever; it is kept once.
INSERT INTO tillsync.quarantine (
    tenant_id, key, digest, held_position, store_id, device_id, envelope
)
SELECT $1, q.*
FROM unnest($2::text[], $3::bytea[], $4::bigint[], $5::uuid[], $6::uuid[], $7::bytea[]) AS q
ON CONFLICT DO NOTHING

-- name: reject
-- The same refused event may be offered for ever; it is explained once.
INSERT INTO tillsync.rejection (
    tenant_id, device_id, outbox_epoch, device_sequence, reason, field
)
SELECT $1, r.*
FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::text[], $6::text[]) AS r
ON CONFLICT DO NOTHING

-- name: forked
-- Notes for operators that the devices $2 used a number that another event has: which (the latest),
-- and how many events that was in all. A device's note has the device's id, so there is one of each.
INSERT INTO tillsync.audit AS a (tenant_id, audit_id, actor, action, detail)
SELECT
    $1, f.device_id, 'till', 'forked',
    jsonb_build_object(
        'device_id', f.device_id, 'epoch', f.epoch, 'sequence', f.sequence, 'events', f.events
    )
FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[])
    AS f (device_id, epoch, sequence, events)
ON CONFLICT (tenant_id, audit_id) DO UPDATE
SET happened_at = now(),
    detail = jsonb_set(
        excluded.detail, '{events}',
        to_jsonb((a.detail ->> 'events')::bigint + (excluded.detail ->> 'events')::bigint)
    )

-- name: device
-- Whether the device that a backlog file names is enrolled. Served by device's primary key.
SELECT FROM tillsync.device WHERE tenant_id = $1 AND device_id = $2 AND store_id = $3
