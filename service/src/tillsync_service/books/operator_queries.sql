-- The operators' statements of the books: what is missing, from whom, how a day stands, and what was
-- said of it. $1 is the tenant, except in list_tenants.

-- name: find_tenant
SELECT FROM tillsync.tenant WHERE tenant_id = $1

-- name: find_store
SELECT FROM tillsync.store WHERE tenant_id = $1 AND store_id = $2

-- name: devices
-- A page of $4 devices after $3, of store $2 or of all, revoked ones too: what they kept to
-- themselves is missing still. Served by device's primary key.
SELECT
    d.device_id, d.name, d.store_id, s.code AS store_code
FROM tillsync.device d
JOIN tillsync.store s ON s.tenant_id = $1 AND s.store_id = d.store_id
WHERE d.tenant_id = $1 AND d.device_id > $3 AND ($2::uuid IS NULL OR d.store_id = $2)
ORDER BY d.device_id
LIMIT $4

-- name: heard_of
-- When each of the devices $2, in this order, was last heard of: it presented something new, or made
-- a claim. Served by the primary keys of device_progress and the claims.
SELECT
    d.device_id,
    greatest(
        (
            SELECT max(changed_at) FROM tillsync.device_progress
            WHERE tenant_id = $1 AND device_id = d.device_id
        ),
        (
            SELECT max(claimed_at) FROM tillsync.outbox_claim
            WHERE tenant_id = $1 AND device_id = d.device_id
        ),
        (
            SELECT max(claimed_at) FROM tillsync.day_claim
            WHERE tenant_id = $1 AND device_id = d.device_id
        )
    ) AS last_heard_at
FROM unnest($2::uuid[]) WITH ORDINALITY AS d (device_id, number)
ORDER BY d.number

-- name: holes_of
-- The lowest $3 spans of each of the devices $2 that never came and were not waived, and how many
-- numbers are missing of it in all. An outbox counted as far as it claimed, and as far as it
-- presented: an epoch that was never claimed may have holes all the same. Served by the primary keys
-- of outbox_claim and device_progress, and by waiver_by_device.
SELECT device.device_id, hole.*
FROM unnest($2::uuid[]) AS device (device_id)
CROSS JOIN LATERAL (
    SELECT
        outbox_epoch AS epoch, lower(part) AS first, upper(part) - 1 AS last,
        sum(upper(part) - lower(part)) OVER () AS missing_events
    FROM (
        SELECT outbox_epoch, last_sequence
        FROM tillsync.outbox_claim
        WHERE tenant_id = $1 AND device_id = device.device_id
    ) AS claimed
    FULL JOIN (
        SELECT outbox_epoch, sequences
        FROM tillsync.device_progress
        WHERE tenant_id = $1 AND device_id = device.device_id
    ) AS presented USING (outbox_epoch)
    LEFT JOIN (
        SELECT outbox_epoch, range_agg(numbers) AS numbers
        FROM tillsync.waiver
        WHERE tenant_id = $1 AND device_id = device.device_id AND numbers IS NOT NULL
        GROUP BY outbox_epoch
    ) AS waived USING (outbox_epoch)
    CROSS JOIN LATERAL unnest(
        int8multirange(int8range(1, greatest(last_sequence + 1, upper(sequences), 1)))
        - coalesce(sequences, '{}')
        - coalesce(waived.numbers, '{}')
    ) AS part
    ORDER BY outbox_epoch, first
    LIMIT $3
) AS hole

-- name: differences_of
-- The latest $4 rows, from day $3 on, of what each of the devices $2 claimed and what is not held
-- so; days that were waived only where the others leave room. What came after a claim makes it old: then only what is short of it is certain, because what
-- is held never shrinks. Served by the primary keys of day_claim, device_day and device_progress, and
-- by waiver_by_device.
SELECT device.device_id, day.*
FROM unnest($2::uuid[]) AS device (device_id)
CROSS JOIN LATERAL (
    SELECT
        nullif(c.business_day, '-infinity') AS business_day, c.currency, c.claimed_at,
        c.event_count - coalesce(d.event_count, 0) AS missing_events,
        c.amount_minor - coalesce(d.amount_minor, 0) AS missing_minor
    FROM tillsync.day_claim c
    LEFT JOIN tillsync.device_day d
        ON d.tenant_id = $1 AND d.device_id = device.device_id
        AND d.business_day = c.business_day AND d.currency = c.currency
    WHERE c.tenant_id = $1 AND c.device_id = device.device_id
        AND c.business_day >= $3::text::date
        AND (c.event_count, c.amount_minor, c.digest_sum)
            <> (coalesce(d.event_count, 0), coalesce(d.amount_minor, 0), coalesce(d.digest_sum, 0))
        AND (
            c.event_count > coalesce(d.event_count, 0)
            OR NOT EXISTS (
                SELECT FROM tillsync.device_progress p
                WHERE p.tenant_id = $1 AND p.device_id = device.device_id
                    AND p.changed_at > c.claimed_at
            )
        )
    ORDER BY
        c.business_day IN (
            SELECT business_day
            FROM tillsync.waiver
            WHERE tenant_id = $1 AND device_id = device.device_id AND business_day IS NOT NULL
        ),
        c.business_day DESC, c.currency
    LIMIT $4
) AS day

-- name: waivers_of
-- What was waived of the devices $2, oldest first: business days, and numbers of which some never
-- came. Served by waiver_by_device and the primary keys of outbox_claim and device_progress.
SELECT
    w.device_id, coalesce(w.outbox_epoch, 0) AS epoch, coalesce(lower(w.numbers), 0) AS first,
    coalesce(upper(w.numbers) - 1, 0) AS last, w.business_day, w.reason, w.waived_by, w.waived_at
FROM tillsync.waiver w
LEFT JOIN tillsync.outbox_claim c
    ON c.tenant_id = $1 AND c.device_id = w.device_id AND c.outbox_epoch = w.outbox_epoch
LEFT JOIN tillsync.device_progress p
    ON p.tenant_id = $1 AND p.device_id = w.device_id AND p.outbox_epoch = w.outbox_epoch
WHERE w.tenant_id = $1 AND w.device_id = ANY ($2::uuid[])
    AND (
        w.numbers IS NULL
        OR NOT isempty(
            int8multirange(
                w.numbers * int8range(1, greatest(c.last_sequence + 1, upper(p.sequences), 1))
            )
            - coalesce(p.sequences, '{}')
        )
    )
ORDER BY w.device_id, w.waived_at, w.waiver_id

-- name: forks_of
-- Those of the devices $2 that used numbers which another event has: the latest number, how many
-- events in all, and when last. Ingest notes it (`forked`), under the device's id. Served by audit's
-- primary key.
SELECT
    audit_id AS device_id, (detail ->> 'epoch')::bigint AS epoch,
    (detail ->> 'sequence')::bigint AS sequence, (detail ->> 'events')::bigint AS events,
    happened_at AS noticed_at
FROM tillsync.audit
WHERE tenant_id = $1 AND audit_id = ANY ($2::uuid[]) AND action = 'forked'
ORDER BY audit_id

-- name: day_of_store
-- How each device of store $2 that is not revoked stands on day $3: a row per device and currency,
-- one at least per device and $4 at most; columns as in `days`. `claimed`: it said something of the day. Served by
-- device_by_store, the primary keys of day_close, device_day and day_claim, and waiver_by_device.
SELECT
    d.device_id, d.name, held.currency, held.event_count, held.amount_minor, held.digest_sum,
    coalesce(closing.revision, 0) AS revision,
    closing.event_count AS closed_count, closing.digest_sum AS closed_digest,
    EXISTS (
        SELECT FROM tillsync.day_claim
        WHERE tenant_id = $1 AND device_id = d.device_id AND business_day = $3::text::date
    ) AS claimed,
    EXISTS (
        SELECT FROM tillsync.waiver
        WHERE tenant_id = $1 AND device_id = d.device_id AND business_day = $3::text::date
    ) AS waived
FROM tillsync.device d
LEFT JOIN LATERAL (
    SELECT revision, event_count, digest_sum
    FROM tillsync.day_close
    WHERE tenant_id = $1 AND device_id = d.device_id AND business_day = $3::text::date
    ORDER BY revision DESC
    LIMIT 1
) AS closing ON true
LEFT JOIN LATERAL (
    SELECT currency, event_count, amount_minor, digest_sum
    FROM tillsync.device_day
    WHERE tenant_id = $1 AND device_id = d.device_id AND business_day = $3::text::date
    ORDER BY currency
    LIMIT $4
) AS held ON true
WHERE d.tenant_id = $1 AND d.store_id = $2 AND d.revoked_at IS NULL
ORDER BY d.device_id, held.currency

-- name: counted
-- How far device $2 is known to have counted in the outbox $3: as far as it claimed, or presented; no
-- row if there is no such device. Served by the primary keys of outbox_claim and device_progress.
SELECT
    greatest(
        (
            SELECT last_sequence FROM tillsync.outbox_claim
            WHERE tenant_id = $1 AND device_id = $2 AND outbox_epoch = $3
        ),
        (
            SELECT upper(sequences) - 1 FROM tillsync.device_progress
            WHERE tenant_id = $1 AND device_id = $2 AND outbox_epoch = $3
        ),
        0
    ) AS last
FROM tillsync.device
WHERE tenant_id = $1 AND device_id = $2

-- name: waive
-- Numbers $4 to $5 of the outbox $3, or the day $6, of device $2, for the reason $7, says $8; no row
-- if there is no such device. Noted where an operator's deeds are.
WITH waived AS (
    INSERT INTO tillsync.waiver (
        tenant_id, device_id, outbox_epoch, numbers, business_day, reason, waived_by
    )
    SELECT
        $1, d.device_id, $3::bigint,
        CASE WHEN $3::bigint IS NOT NULL THEN int8range($4::bigint, $5::bigint, '[]') END,
        $6::text::date, $7::text, $8::text
    FROM tillsync.device d
    WHERE d.tenant_id = $1 AND d.device_id = $2
    RETURNING *
), noted AS (
    INSERT INTO tillsync.audit (tenant_id, actor, action, detail)
    SELECT
        $1, $8::text, 'waive',
        jsonb_strip_nulls(
            jsonb_build_object(
                'waiver_id', waiver_id, 'device_id', device_id, 'epoch', outbox_epoch,
                'first', lower(numbers), 'last', upper(numbers) - 1,
                'business_day', business_day, 'reason', reason
            )
        )
    FROM waived
)
SELECT
    coalesce(outbox_epoch, 0) AS epoch, coalesce(lower(numbers), 0) AS first,
    coalesce(upper(numbers) - 1, 0) AS last, business_day, reason, waived_by, waived_at
FROM waived

-- name: list_tenants
-- A page of all tenants after $1; only the worker sees them all. Served by tenant's primary key.
SELECT tenant_id FROM tillsync.tenant WHERE tenant_id > $1 ORDER BY tenant_id LIMIT $2

-- name: lock_heads
-- Both histories as they are, locked: whoever writes now still says that it was in them. In the
-- order of their names, as everybody does who locks both.
SELECT stream, history_id FROM tillsync.tenant_head WHERE tenant_id = $1 ORDER BY stream FOR UPDATE

-- name: renew_histories
-- New ids for both, with the note of who ($2) declared that and why ($3).
WITH renewed AS (
    UPDATE tillsync.tenant_head SET history_id = gen_random_uuid() WHERE tenant_id = $1
)
INSERT INTO tillsync.audit (tenant_id, actor, action, detail)
VALUES ($1, $2, 'restored', $3::text::jsonb)
