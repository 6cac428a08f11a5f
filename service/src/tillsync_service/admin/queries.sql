-- The statements of administration. $1 is the tenant, except in list_tenants.

-- name: create_tenant
-- The tenant and its two heads. They stand in one statement, because a tenant without a head could
-- never store a sale.
WITH made AS (
    INSERT INTO tillsync.tenant (tenant_id, name, disposable) VALUES ($1, $2, $3)
    RETURNING tenant_id, name, disposable, created_at
), heads AS (
    INSERT INTO tillsync.tenant_head (tenant_id, stream) VALUES ($1, 'event'), ($1, 'record')
)
SELECT tenant_id, name, disposable, created_at FROM made

-- name: list_tenants
-- A page of all tenants after $1; only the worker sees them all. Served by tenant's primary key.
SELECT tenant_id, name, disposable, created_at
FROM tillsync.tenant
WHERE tenant_id > $1
ORDER BY tenant_id
LIMIT $2

-- name: find_tenant
-- Whether there is such a tenant: the list of its stores may be empty either way.
SELECT FROM tillsync.tenant WHERE tenant_id = $1

-- name: create_store
INSERT INTO tillsync.store (tenant_id, store_id, code, name) VALUES ($1, $2, $3, $4)
RETURNING store_id, code, name, created_at

-- name: list_stores
-- Served by store's primary key.
SELECT store_id, code, name, created_at
FROM tillsync.store
WHERE tenant_id = $1 AND store_id > $2
ORDER BY store_id
LIMIT $3

-- name: find_store
SELECT FROM tillsync.store WHERE tenant_id = $1 AND store_id = $2

-- name: create_code
-- The database's clock decides when the code ends, here and when it is used.
INSERT INTO tillsync.enrolment_code (tenant_id, code_hash, store_id, expires_at)
VALUES ($1, $2, $3, now() + make_interval(secs => $4))
RETURNING expires_at

-- name: list_devices
-- Served by device's primary key.
SELECT device_id, store_id, name, enrolled_at, revoked_at, suspect_since
FROM tillsync.device
WHERE tenant_id = $1 AND device_id > $2
ORDER BY device_id
LIMIT $3

-- name: list_devices_of_store
-- Served by device_by_store; a store has few devices to sort.
SELECT device_id, store_id, name, enrolled_at, revoked_at, suspect_since
FROM tillsync.device
WHERE tenant_id = $1 AND device_id > $2 AND store_id = $4
ORDER BY device_id
LIMIT $3

-- name: revoke_device
-- A repeat keeps the first time.
UPDATE tillsync.device SET revoked_at = COALESCE(revoked_at, now())
WHERE tenant_id = $1 AND device_id = $2
RETURNING device_id, store_id, name, enrolled_at, revoked_at, suspect_since

-- name: clear_suspicion
-- Changes nothing, and returns nothing, for a device that is not suspect: its secrets must go on
-- rotating as they are. Locks the device's row, as IssueToken does before it looks at the secrets.
UPDATE tillsync.device SET suspect_since = NULL
WHERE tenant_id = $1 AND device_id = $2 AND suspect_since IS NOT NULL
RETURNING device_id

-- name: retire_secrets
-- Which secret the honest device holds is not known here: none is current until one is presented
-- (fleet/rotation.py). A statement of its own after the lock, so that it sees the secrets that the
-- lock's holder before us has written.
UPDATE tillsync.device_secret SET state = 'retired', changed_at = now()
WHERE tenant_id = $1 AND device_id = $2 AND state <> 'retired'

-- name: find_device
SELECT device_id, store_id, name, enrolled_at, revoked_at, suspect_since
FROM tillsync.device
WHERE tenant_id = $1 AND device_id = $2

-- name: lock_record_head
-- The order rule: first the lock, then a later statement that looks and writes.
SELECT FROM tillsync.tenant_head WHERE tenant_id = $1 AND stream = 'record' FOR UPDATE

-- name: move_device
-- One that is there already stays, and takes no version.
WITH moved AS (
    UPDATE tillsync.device AS d
    SET store_id = $3, placed_version = h.position + 1
    FROM tillsync.tenant_head h
    WHERE d.tenant_id = $1 AND d.device_id = $2 AND d.store_id <> $3
        AND h.tenant_id = $1 AND h.stream = 'record'
    RETURNING d.placed_version
)
UPDATE tillsync.tenant_head SET position = moved.placed_version
FROM moved
WHERE tenant_id = $1 AND stream = 'record'

-- name: list_quarantine
-- A page after the key $2 and digest $3. Served by quarantine's primary key.
SELECT key, digest, store_id, device_id, received_at, held_position
FROM tillsync.quarantine
WHERE tenant_id = $1 AND (key, digest) > ($2, $3) AND ($5::uuid IS NULL OR store_id = $5)
ORDER BY key, digest
LIMIT $4

-- name: quarantined
-- The first with the key, or the one with the digest. Served by quarantine's primary key.
SELECT key, digest, store_id, device_id, received_at, held_position, envelope
FROM tillsync.quarantine
WHERE tenant_id = $1 AND key = $2 AND ($3::bytea IS NULL OR digest = $3)
ORDER BY digest
LIMIT 1

-- name: held_event
-- What a quarantined event's key stands for. Served by event's primary key.
SELECT
    key, store_id, device_id, received_at, occurred_at, outbox_epoch, device_sequence,
    CASE WHEN isfinite(business_day) THEN business_day::text ELSE '' END AS business_day,
    clock_offset_ms, type_url, body, amounts::text AS amounts, traceparent
FROM tillsync.event
WHERE tenant_id = $1 AND position = $2

-- name: lock_tenant
-- Locked, so that nothing new can refer to it before it is gone.
SELECT disposable FROM tillsync.tenant WHERE tenant_id = $1 FOR UPDATE

-- name: remove_tenant_head
-- First of all: without a head no further event can be stored.
DELETE FROM tillsync.tenant_head WHERE tenant_id = $1

-- name: remove_event
-- In chunks of $2, so that no statement runs into its timeout.
DELETE FROM tillsync.event
WHERE tenant_id = $1 AND position IN (
    SELECT position FROM tillsync.event WHERE tenant_id = $1 ORDER BY position LIMIT $2
)

-- name: remove_event_key
-- In chunks, as above.
DELETE FROM tillsync.event_key
WHERE tenant_id = $1 AND key IN (
    SELECT key FROM tillsync.event_key WHERE tenant_id = $1 ORDER BY key LIMIT $2
)

-- name: remove_record
-- In chunks, as above.
DELETE FROM tillsync.record
WHERE tenant_id = $1 AND (collection, scope, record_id) IN (
    SELECT collection, scope, record_id FROM tillsync.record
    WHERE tenant_id = $1 ORDER BY collection, scope, record_id LIMIT $2
)

-- name: remove_projection
-- In chunks, as above.
DELETE FROM tillsync.projection
WHERE tenant_id = $1 AND name IN (
    SELECT name FROM tillsync.projection
    WHERE tenant_id = $1 ORDER BY name LIMIT $2
)

-- name: remove_sale
-- In chunks, as above.
DELETE FROM tillsync.sale
WHERE tenant_id = $1 AND position IN (
    SELECT position FROM tillsync.sale
    WHERE tenant_id = $1 ORDER BY position LIMIT $2
)

-- name: remove_sale_line
-- In chunks, as above.
DELETE FROM tillsync.sale_line
WHERE tenant_id = $1 AND (position, number) IN (
    SELECT position, number FROM tillsync.sale_line
    WHERE tenant_id = $1 ORDER BY position, number LIMIT $2
)

-- name: remove_tender
-- In chunks, as above.
DELETE FROM tillsync.tender
WHERE tenant_id = $1 AND (position, number) IN (
    SELECT position, number FROM tillsync.tender
    WHERE tenant_id = $1 ORDER BY position, number LIMIT $2
)

-- name: remove_movement
-- In chunks, as above.
DELETE FROM tillsync.movement
WHERE tenant_id = $1 AND (position, number) IN (
    SELECT position, number FROM tillsync.movement
    WHERE tenant_id = $1 ORDER BY position, number LIMIT $2
)

-- name: remove_stock_level
-- In chunks, as above.
DELETE FROM tillsync.stock_level
WHERE tenant_id = $1 AND (store_id, product_id) IN (
    SELECT store_id, product_id FROM tillsync.stock_level
    WHERE tenant_id = $1 ORDER BY store_id, product_id LIMIT $2
)

-- name: remove_dead_letter
-- In chunks, as above.
DELETE FROM tillsync.dead_letter
WHERE tenant_id = $1 AND position IN (
    SELECT position FROM tillsync.dead_letter
    WHERE tenant_id = $1 ORDER BY position LIMIT $2
)

-- name: remove_day_total
DELETE FROM tillsync.day_total WHERE tenant_id = $1

-- name: remove_record_digest
DELETE FROM tillsync.record_digest WHERE tenant_id = $1

-- name: remove_record_staging
DELETE FROM tillsync.record_staging WHERE tenant_id = $1

-- name: remove_collection
DELETE FROM tillsync.collection WHERE tenant_id = $1

-- name: remove_mutation
DELETE FROM tillsync.mutation WHERE tenant_id = $1

-- name: remove_mutation_progress
DELETE FROM tillsync.mutation_progress WHERE tenant_id = $1

-- name: remove_conflict
DELETE FROM tillsync.conflict WHERE tenant_id = $1

-- name: remove_outbox_claim
DELETE FROM tillsync.outbox_claim WHERE tenant_id = $1

-- name: remove_day_claim
DELETE FROM tillsync.day_claim WHERE tenant_id = $1

-- name: remove_day_close
DELETE FROM tillsync.day_close WHERE tenant_id = $1

-- name: remove_waiver
DELETE FROM tillsync.waiver WHERE tenant_id = $1

-- name: remove_audit
DELETE FROM tillsync.audit WHERE tenant_id = $1

-- name: remove_feed_consumer
DELETE FROM tillsync.feed_consumer WHERE tenant_id = $1

-- name: remove_quarantine
DELETE FROM tillsync.quarantine WHERE tenant_id = $1

-- name: remove_rejection
DELETE FROM tillsync.rejection WHERE tenant_id = $1

-- name: remove_device_progress
DELETE FROM tillsync.device_progress WHERE tenant_id = $1

-- name: remove_device_day
DELETE FROM tillsync.device_day WHERE tenant_id = $1

-- name: remove_enrolment_code
DELETE FROM tillsync.enrolment_code WHERE tenant_id = $1

-- name: remove_device_secret
DELETE FROM tillsync.device_secret WHERE tenant_id = $1

-- name: remove_device
DELETE FROM tillsync.device WHERE tenant_id = $1

-- name: remove_store
DELETE FROM tillsync.store WHERE tenant_id = $1

-- name: remove_tenant
-- Last: whatever refers to it is gone.
DELETE FROM tillsync.tenant WHERE tenant_id = $1
