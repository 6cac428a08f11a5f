-- The statements of the books: what devices say they recorded, beside what the history holds. $1 is
-- always the tenant. Nothing here takes a head's lock: progress and days only ever grow.

-- name: claim
-- What device $2 says of its outboxes and of the days $5. Its days are said whole: a currency that
-- is here, or was claimed before, and is not named now comes to nothing. A number that was counted
-- once stays counted, whatever a restored disk says later. In order, so that two calls of a device
-- do not wait for each other. At most $11 currencies come to nothing in one call: a till that makes
-- one up for every sale must not write them all down each time.
WITH outboxes AS (
    INSERT INTO tillsync.outbox_claim AS c (tenant_id, device_id, outbox_epoch, last_sequence)
    SELECT $1, $2, said.*
    FROM unnest($3::bigint[], $4::bigint[]) AS said (epoch, last)
    ORDER BY said.epoch
    ON CONFLICT (tenant_id, device_id, outbox_epoch) DO UPDATE
    SET last_sequence = greatest(c.last_sequence, excluded.last_sequence), claimed_at = now()
), said AS (
    SELECT *
    FROM unnest(
        $6::text[]::date[], $7::text[], $8::bigint[], $9::text[]::numeric[], $10::text[]::numeric[]
    ) AS book (business_day, currency, event_count, amount_minor, digest_sum)
), unsaid AS (
    SELECT business_day, currency
    FROM tillsync.device_day
    WHERE tenant_id = $1 AND device_id = $2 AND business_day = ANY ($5::text[]::date[])
    UNION
    SELECT business_day, currency
    FROM tillsync.day_claim
    WHERE tenant_id = $1 AND device_id = $2 AND business_day = ANY ($5::text[]::date[])
    EXCEPT
    SELECT business_day, currency FROM said
    ORDER BY business_day, currency
    LIMIT $11
)
INSERT INTO tillsync.day_claim (
    tenant_id, device_id, business_day, currency, event_count, amount_minor, digest_sum
)
SELECT $1, $2, book.*
FROM (
    SELECT * FROM said
    UNION ALL
    SELECT business_day, currency, 0, 0, 0 FROM unsaid
) AS book
ORDER BY business_day, currency
ON CONFLICT (tenant_id, device_id, business_day, currency) DO UPDATE
SET event_count = excluded.event_count,
    amount_minor = excluded.amount_minor,
    digest_sum = excluded.digest_sum,
    claimed_at = now()

-- name: holes
-- The history, and the lowest $5 spans that are missing up to what is claimed, those that an operator
-- waived behind all others: one row at least, if there is such a device. `whole`: no number of the
-- device is missing, but waived ones: also in outboxes that it claimed before, or never, as far as it
-- presented (as in `holes_of`, which an operator sees). Served by the primary keys of device_progress
-- and outbox_claim, and by waiver_by_device.
WITH waived AS (
    SELECT outbox_epoch, range_agg(numbers) AS numbers
    FROM tillsync.waiver
    WHERE tenant_id = $1 AND device_id = $2 AND numbers IS NOT NULL
    GROUP BY outbox_epoch
)
SELECT
    h.history_id, hole.epoch, hole.first, hole.last, hole.is_waived,
    NOT EXISTS (
        SELECT
        FROM (
            SELECT outbox_epoch, last_sequence
            FROM tillsync.outbox_claim
            WHERE tenant_id = $1 AND device_id = $2
        ) AS said
        FULL JOIN (
            SELECT outbox_epoch, sequences
            FROM tillsync.device_progress
            WHERE tenant_id = $1 AND device_id = $2
        ) AS presented USING (outbox_epoch)
        LEFT JOIN waived USING (outbox_epoch)
        WHERE NOT isempty(
            int8multirange(int8range(1, greatest(last_sequence + 1, upper(sequences), 1)))
            - coalesce(sequences, '{}')
            - coalesce(waived.numbers, '{}')
        )
    ) AS whole
FROM tillsync.tenant_head h
JOIN tillsync.device d ON d.tenant_id = $1 AND d.device_id = $2
LEFT JOIN (
    SELECT claimed.epoch, lower(part) AS first, upper(part) - 1 AS last, is_waived
    FROM unnest($3::bigint[], $4::bigint[]) AS claimed (epoch, last)
    LEFT JOIN LATERAL (
        SELECT sequences
        FROM tillsync.device_progress
        WHERE tenant_id = $1 AND device_id = $2 AND outbox_epoch = claimed.epoch
        LIMIT 1
    ) AS seen ON true
    LEFT JOIN waived ON waived.outbox_epoch = claimed.epoch
    CROSS JOIN LATERAL (
        SELECT int8multirange(int8range(1, claimed.last + 1)) - coalesce(seen.sequences, '{}')
    ) AS missing (numbers)
    CROSS JOIN LATERAL (
        SELECT false, unnest(missing.numbers - coalesce(waived.numbers, '{}'))
        UNION ALL
        SELECT true, unnest(missing.numbers * waived.numbers)
    ) AS part (is_waived, part)
    ORDER BY is_waived, claimed.epoch, first
    LIMIT $5
) AS hole ON true
WHERE h.tenant_id = $1 AND h.stream = 'event'
ORDER BY hole.is_waived, hole.epoch, hole.first

-- name: days
-- What the days $3 of device $2 come to, how each was closed last, and whether an operator waived
-- what is missing of it: a row per day and currency, one at least per day and $4 at most, which are
-- more than can be claimed. Served by the primary keys of device_day and day_close, and by
-- waiver_by_device.
SELECT
    day.number, held.currency, held.event_count, held.amount_minor, held.digest_sum,
    coalesce(closing.revision, 0) AS revision,
    closing.event_count AS closed_count, closing.digest_sum AS closed_digest,
    day.business_day IN (
        SELECT business_day
        FROM tillsync.waiver
        WHERE tenant_id = $1 AND device_id = $2 AND business_day IS NOT NULL
    ) AS waived
FROM unnest($3::text[]::date[]) WITH ORDINALITY AS day (business_day, number)
LEFT JOIN LATERAL (
    SELECT revision, event_count, digest_sum
    FROM tillsync.day_close
    WHERE tenant_id = $1 AND device_id = $2 AND business_day = day.business_day
    ORDER BY revision DESC
    LIMIT 1
) AS closing ON true
LEFT JOIN LATERAL (
    SELECT currency, event_count, amount_minor, digest_sum
    FROM tillsync.device_day
    WHERE tenant_id = $1 AND device_id = $2 AND business_day = day.business_day
    ORDER BY currency
    LIMIT $4
) AS held ON true
ORDER BY day.number, held.currency

-- name: close
-- Two calls that close the same day at once close it once.
INSERT INTO tillsync.day_close (
    tenant_id, device_id, business_day, revision, event_count, digest_sum
)
SELECT $1, $2, closing.*
FROM unnest($3::text[]::date[], $4::integer[], $5::bigint[], $6::text[]::numeric[]) AS closing
ON CONFLICT DO NOTHING

-- name: span_sums
-- How many events the history holds of each span, and their digests' sum in four parts, the highest
-- first: 32 bits are what a bit string can be turned into without a sign. An event that was pruned
-- from the history is in no sum any more, because the ledger, which keeps its key, knows no numbers;
-- device_day goes on counting it, so days are compared first and spans only where a day differs.
-- Served by event_by_number and event_key's primary key.
SELECT sums.*
FROM unnest($3::bigint[], $4::bigint[], $5::bigint[])
    WITH ORDINALITY AS asked (epoch, first, last, number)
CROSS JOIN LATERAL (
    SELECT
        count(*) AS event_count,
        sum(('x' || encode(substr(k.digest, 1, 4), 'hex'))::bit(32)::bigint) AS part_1,
        sum(('x' || encode(substr(k.digest, 5, 4), 'hex'))::bit(32)::bigint) AS part_2,
        sum(('x' || encode(substr(k.digest, 9, 4), 'hex'))::bit(32)::bigint) AS part_3,
        sum(('x' || encode(substr(k.digest, 13, 4), 'hex'))::bit(32)::bigint) AS part_4
    FROM (
        SELECT key
        FROM tillsync.event
        WHERE tenant_id = $1 AND device_id = $2 AND outbox_epoch = asked.epoch
            AND device_sequence BETWEEN asked.first AND asked.last
        OFFSET 0
    ) AS held
    CROSS JOIN LATERAL (
        SELECT digest
        FROM tillsync.event_key
        WHERE tenant_id = $1 AND key = held.key
        LIMIT 1
    ) AS k
) AS sums
ORDER BY asked.number

-- name: quarantined
-- The device's own events in quarantine, at most $3 of them, and no more once $4 bytes are reached:
-- their numbers stand in the envelopes.
SELECT envelope
FROM (
    SELECT
        envelope,
        sum(octet_length(envelope)) OVER (ORDER BY key, digest ROWS UNBOUNDED PRECEDING)
            - octet_length(envelope) AS bytes_before
    FROM (
        SELECT key, digest, envelope
        FROM tillsync.quarantine
        WHERE tenant_id = $1 AND device_id = $2
        ORDER BY key, digest
        LIMIT $3
    ) AS earliest
) AS weighed
WHERE bytes_before < $4

-- name: dispositions
-- Numbers within the spans $3 to $5 that were presented and are not part of the history, the lowest
-- $9 of them: refused ones, those in quarantine (given as $6 and $7), and, in the spans of at most
-- $8 numbers that were asked for ($10), those whose event came under another number. A number that
-- was used twice and is part of the history once is no hole. One whose event was pruned is told like
-- one that came under another number: the service had it, and need not be offered it. Served by
-- rejection's primary key and event_by_number.
WITH refused AS (
    SELECT DISTINCT asked.epoch, found.sequence, found.reason, found.field
    FROM unnest($3::bigint[], $4::bigint[], $5::bigint[]) AS asked (epoch, first, last)
    CROSS JOIN LATERAL (
        SELECT r.device_sequence AS sequence, r.reason, r.field
        FROM tillsync.rejection r
        WHERE r.tenant_id = $1 AND r.device_id = $2 AND r.outbox_epoch = asked.epoch
            AND r.device_sequence BETWEEN asked.first AND asked.last
        ORDER BY r.device_sequence
        LIMIT $9
    ) AS found
), parked AS (
    SELECT DISTINCT named.epoch, named.sequence
    FROM unnest($6::bigint[], $7::bigint[]) AS named (epoch, sequence)
    JOIN unnest($3::bigint[], $4::bigint[], $5::bigint[]) AS asked (epoch, first, last)
        ON named.epoch = asked.epoch AND named.sequence BETWEEN asked.first AND asked.last
), presented AS (
    SELECT DISTINCT asked.epoch, number.sequence
    FROM unnest($3::bigint[], $4::bigint[], $5::bigint[], $10::boolean[])
        AS asked (epoch, first, last, is_span)
    CROSS JOIN LATERAL (
        SELECT p.sequences * int8multirange(int8range(asked.first, asked.last + 1)) AS sequences
        FROM tillsync.device_progress p
        WHERE p.tenant_id = $1 AND p.device_id = $2 AND p.outbox_epoch = asked.epoch
        LIMIT 1
    ) AS seen
    CROSS JOIN LATERAL unnest(seen.sequences) AS part
    CROSS JOIN LATERAL generate_series(lower(part), upper(part) - 1) AS number (sequence)
    WHERE asked.is_span AND asked.last - asked.first < $8
)
SELECT one.epoch, one.sequence, one.outcome, one.reason, one.field
FROM (
    SELECT epoch, sequence, 'REJECTED' AS outcome, reason, field FROM refused
    UNION ALL
    SELECT epoch, sequence, 'CONFLICT', '', ''
    FROM parked
    WHERE (epoch, sequence) NOT IN (SELECT epoch, sequence FROM refused)
    UNION ALL
    SELECT epoch, sequence, 'DUPLICATE', '', ''
    FROM presented
    WHERE (epoch, sequence) NOT IN (SELECT epoch, sequence FROM refused)
        AND (epoch, sequence) NOT IN (SELECT epoch, sequence FROM parked)
) AS one
LEFT JOIN LATERAL (
    SELECT true AS is_held
    FROM tillsync.event e
    WHERE e.tenant_id = $1 AND e.device_id = $2 AND e.outbox_epoch = one.epoch
        AND e.device_sequence = one.sequence
    LIMIT 1
) AS history ON true
WHERE history.is_held IS NULL
ORDER BY one.epoch, one.sequence
LIMIT $9
