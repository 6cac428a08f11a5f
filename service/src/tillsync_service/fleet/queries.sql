-- The statements of the fleet. $1 is the tenant, except where a row must be found before its tenant
-- is known: those statements run without a tenant and ask the narrow functions of the schema.

-- name: find_code
-- Whose code this is. Served by enrolment_code_by_hash.
SELECT tillsync.find_code($1) AS tenant_id

-- name: find_secrets
-- Whose secret is presented ($1), and who has the one that is proposed ($2, may be NULL) already.
-- Served by device_secret_by_hash.
SELECT holder.tenant_id, holder.device_id, taken.device_id AS proposal_device_id
FROM tillsync.find_secret($1) AS holder, tillsync.find_secret($2) AS taken

-- name: out_of_standing
-- The few devices whose tokens must not be believed. Twice a token's life, so that no difference
-- between the clocks of a replica and of the database lets a revoked one slip out too early.
-- Served by device_out_of_standing.
SELECT device_id, revoked FROM tillsync.standing_of_devices(make_interval(secs => $1))

-- name: lock_code
-- The code, locked: of two devices that come with it together, the second waits here and then sees
-- it used. The database's clock decides, as it did when the code was made.
SELECT c.store_id, s.name AS store_name, c.device_id, c.expires_at <= now() AS is_expired
FROM tillsync.enrolment_code c
JOIN tillsync.store s ON s.tenant_id = $1 AND s.store_id = c.store_id
WHERE c.tenant_id = $1 AND c.code_hash = $2
FOR UPDATE OF c

-- name: enrol_device
-- The device, its first secret, and the code as used: all or nothing. The caller holds the code.
WITH device AS (
    INSERT INTO tillsync.device (tenant_id, device_id, store_id, name) VALUES ($1, $3, $4, $5)
), secret AS (
    INSERT INTO tillsync.device_secret (tenant_id, device_id, secret_hash, state)
    VALUES ($1, $3, $6, 'current')
)
UPDATE tillsync.enrolment_code SET used_at = now(), device_id = $3
WHERE tenant_id = $1 AND code_hash = $2

-- name: lock_device
-- The device, locked: whoever reads or changes its secrets comes through here first, so two calls
-- with one secret are judged one after the other.
SELECT store_id, revoked_at IS NOT NULL AS is_revoked, suspect_since IS NOT NULL AS is_suspect
FROM tillsync.device
WHERE tenant_id = $1 AND device_id = $2
FOR UPDATE

-- name: secrets_of_device
-- The live secrets, and those of the presented and the proposed one ($3) that are known: all that
-- the decision looks at, however many are retired.
SELECT secret_hash, state
FROM tillsync.device_secret
WHERE tenant_id = $1 AND device_id = $2 AND (state <> 'retired' OR secret_hash = ANY ($3::bytea[]))

-- name: write_over_retired
-- A new secret in the row of the one that was retired longest ago, if that is more than $5 days:
-- this role deletes nothing, and nothing may grow for ever. $6 is in use in this transaction.
UPDATE tillsync.device_secret SET secret_hash = $3, state = $4, changed_at = now()
WHERE tenant_id = $1 AND device_id = $2 AND secret_hash = (
    SELECT secret_hash
    FROM tillsync.device_secret
    WHERE tenant_id = $1 AND device_id = $2 AND state = 'retired' AND secret_hash <> $6
        AND changed_at < now() - make_interval(days => $5)
    ORDER BY changed_at
    LIMIT 1
)

-- name: put_secret
-- A new secret, or another state for a known one.
INSERT INTO tillsync.device_secret (tenant_id, device_id, secret_hash, state)
VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant_id, device_id, secret_hash) DO UPDATE
SET state = excluded.state, changed_at = excluded.changed_at

-- name: suspect_device
-- The alarm: since when the secret is known to be in two hands.
UPDATE tillsync.device SET suspect_since = now()
WHERE tenant_id = $1 AND device_id = $2 AND suspect_since IS NULL
