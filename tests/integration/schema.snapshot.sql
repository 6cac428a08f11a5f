-- Tables and columns
device.tenant_id uuid NOT NULL
device.device_id uuid NOT NULL
device.store_id uuid NOT NULL
device.name text NOT NULL
device.enrolled_at timestamp with time zone NOT NULL DEFAULT now()
device.revoked_at timestamp with time zone
device.suspect_since timestamp with time zone
device_day.tenant_id uuid NOT NULL
device_day.device_id uuid NOT NULL
device_day.business_day date NOT NULL
device_day.currency text NOT NULL COLLATE "C"
device_day.event_count bigint NOT NULL
device_day.amount_minor numeric NOT NULL
device_day.digest_sum numeric NOT NULL
device_progress.tenant_id uuid NOT NULL
device_progress.device_id uuid NOT NULL
device_progress.outbox_epoch bigint NOT NULL
device_progress.sequences int8multirange NOT NULL
device_progress.changed_at timestamp with time zone NOT NULL DEFAULT now()
device_secret.tenant_id uuid NOT NULL
device_secret.device_id uuid NOT NULL
device_secret.secret_hash bytea NOT NULL
device_secret.state text NOT NULL
device_secret.changed_at timestamp with time zone NOT NULL DEFAULT now()
enrolment_code.tenant_id uuid NOT NULL
enrolment_code.code_hash bytea NOT NULL
enrolment_code.store_id uuid NOT NULL
enrolment_code.created_at timestamp with time zone NOT NULL DEFAULT now()
enrolment_code.expires_at timestamp with time zone NOT NULL
enrolment_code.used_at timestamp with time zone
enrolment_code.device_id uuid
event.tenant_id uuid NOT NULL
event.position bigint NOT NULL
event.key text NOT NULL COLLATE "C"
event.store_id uuid NOT NULL
event.device_id uuid NOT NULL
event.outbox_epoch bigint NOT NULL
event.device_sequence bigint NOT NULL
event.received_at timestamp with time zone NOT NULL DEFAULT now()
event.occurred_at timestamp with time zone
event.business_day date NOT NULL
event.clock_offset_ms bigint
event.flags integer NOT NULL
event.type_url text NOT NULL
event.body bytea NOT NULL
event.amounts jsonb NOT NULL
event.traceparent text NOT NULL
event_key.tenant_id uuid NOT NULL
event_key.key text NOT NULL COLLATE "C"
event_key.position bigint NOT NULL
event_key.digest bytea NOT NULL
quarantine.tenant_id uuid NOT NULL
quarantine.key text NOT NULL COLLATE "C"
quarantine.digest bytea NOT NULL
quarantine.held_position bigint NOT NULL
quarantine.store_id uuid NOT NULL
quarantine.device_id uuid NOT NULL
quarantine.received_at timestamp with time zone NOT NULL DEFAULT now()
quarantine.envelope bytea NOT NULL
rejection.tenant_id uuid NOT NULL
rejection.device_id uuid NOT NULL
rejection.outbox_epoch bigint NOT NULL
rejection.device_sequence bigint NOT NULL
rejection.reason text NOT NULL
rejection.field text NOT NULL
rejection.received_at timestamp with time zone NOT NULL DEFAULT now()
store.tenant_id uuid NOT NULL
store.store_id uuid NOT NULL
store.code text NOT NULL
store.name text NOT NULL
store.created_at timestamp with time zone NOT NULL DEFAULT now()
tenant.tenant_id uuid NOT NULL
tenant.name text NOT NULL
tenant.disposable boolean NOT NULL
tenant.created_at timestamp with time zone NOT NULL DEFAULT now()
tenant_head.tenant_id uuid NOT NULL
tenant_head.stream text NOT NULL
tenant_head.position bigint NOT NULL DEFAULT 0
tenant_head.history_id uuid NOT NULL DEFAULT gen_random_uuid()

-- Storage and row-level security
device () ENABLE FORCE
device_day (fillfactor=50) ENABLE FORCE
device_progress (fillfactor=50) ENABLE FORCE
device_secret () ENABLE FORCE
enrolment_code () ENABLE FORCE
event () ENABLE FORCE
event_key () ENABLE FORCE
quarantine () ENABLE FORCE
rejection () ENABLE FORCE
store () ENABLE FORCE
tenant () ENABLE FORCE
tenant_head (fillfactor=10) ENABLE FORCE

-- Constraints
device device_pkey PRIMARY KEY (tenant_id, device_id)
device device_tenant_id_store_id_fkey FOREIGN KEY (tenant_id, store_id) REFERENCES tillsync.store(tenant_id, store_id)
device_day device_day_pkey PRIMARY KEY (tenant_id, device_id, business_day, currency)
device_progress device_progress_pkey PRIMARY KEY (tenant_id, device_id, outbox_epoch)
device_secret device_secret_pkey PRIMARY KEY (tenant_id, device_id, secret_hash)
device_secret device_secret_secret_hash_check CHECK ((octet_length(secret_hash) = 32))
device_secret device_secret_state_check CHECK ((state = ANY (ARRAY['current'::text, 'proposed'::text, 'retired'::text])))
device_secret device_secret_tenant_id_device_id_fkey FOREIGN KEY (tenant_id, device_id) REFERENCES tillsync.device(tenant_id, device_id)
enrolment_code enrolment_code_code_hash_check CHECK ((octet_length(code_hash) = 32))
enrolment_code enrolment_code_pkey PRIMARY KEY (tenant_id, code_hash)
enrolment_code enrolment_code_tenant_id_store_id_fkey FOREIGN KEY (tenant_id, store_id) REFERENCES tillsync.store(tenant_id, store_id)
event event_pkey PRIMARY KEY (tenant_id, "position")
event_key event_key_pkey PRIMARY KEY (tenant_id, key)
quarantine quarantine_pkey PRIMARY KEY (tenant_id, key, digest)
rejection rejection_pkey PRIMARY KEY (tenant_id, device_id, outbox_epoch, device_sequence)
store store_pkey PRIMARY KEY (tenant_id, store_id)
store store_tenant_id_code_key UNIQUE (tenant_id, code)
store store_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tillsync.tenant(tenant_id)
tenant tenant_pkey PRIMARY KEY (tenant_id)
tenant_head tenant_head_pkey PRIMARY KEY (tenant_id, stream)
tenant_head tenant_head_stream_check CHECK ((stream = ANY (ARRAY['event'::text, 'record'::text])))
tenant_head tenant_head_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tillsync.tenant(tenant_id)

-- Indexes
CREATE INDEX device_by_store ON tillsync.device USING btree (tenant_id, store_id)
CREATE INDEX device_out_of_standing ON tillsync.device USING btree (revoked_at) WHERE ((revoked_at IS NOT NULL) OR (suspect_since IS NOT NULL))
CREATE INDEX device_secret_by_hash ON tillsync.device_secret USING btree (secret_hash)
CREATE INDEX enrolment_code_by_hash ON tillsync.enrolment_code USING btree (code_hash)
CREATE UNIQUE INDEX device_day_pkey ON tillsync.device_day USING btree (tenant_id, device_id, business_day, currency)
CREATE UNIQUE INDEX device_pkey ON tillsync.device USING btree (tenant_id, device_id)
CREATE UNIQUE INDEX device_progress_pkey ON tillsync.device_progress USING btree (tenant_id, device_id, outbox_epoch)
CREATE UNIQUE INDEX device_secret_live ON tillsync.device_secret USING btree (tenant_id, device_id, state) WHERE (state <> 'retired'::text)
CREATE UNIQUE INDEX device_secret_pkey ON tillsync.device_secret USING btree (tenant_id, device_id, secret_hash)
CREATE UNIQUE INDEX enrolment_code_pkey ON tillsync.enrolment_code USING btree (tenant_id, code_hash)
CREATE UNIQUE INDEX event_key_pkey ON tillsync.event_key USING btree (tenant_id, key)
CREATE UNIQUE INDEX event_pkey ON tillsync.event USING btree (tenant_id, "position")
CREATE UNIQUE INDEX quarantine_pkey ON tillsync.quarantine USING btree (tenant_id, key, digest)
CREATE UNIQUE INDEX rejection_pkey ON tillsync.rejection USING btree (tenant_id, device_id, outbox_epoch, device_sequence)
CREATE UNIQUE INDEX store_pkey ON tillsync.store USING btree (tenant_id, store_id)
CREATE UNIQUE INDEX store_tenant_id_code_key ON tillsync.store USING btree (tenant_id, code)
CREATE UNIQUE INDEX tenant_head_pkey ON tillsync.tenant_head USING btree (tenant_id, stream)
CREATE UNIQUE INDEX tenant_pkey ON tillsync.tenant USING btree (tenant_id)

-- Policies
device lookup_finds FOR SELECT TO tillsync_lookup USING true
device own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
device_day own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
device_progress own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
device_secret lookup_finds FOR SELECT TO tillsync_lookup USING true
device_secret own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
enrolment_code lookup_finds FOR SELECT TO tillsync_lookup USING true
enrolment_code own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
event own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
event_key own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
quarantine own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
rejection own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
store own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
tenant own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
tenant worker_lists FOR SELECT TO tillsync_worker USING true
tenant_head own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
tenant_head worker_lists FOR SELECT TO tillsync_worker USING true

-- Functions
find_code(hash bytea) OWNER tillsync_lookup SECURITY DEFINER search_path=""
find_secret(hash bytea, OUT tenant_id uuid, OUT device_id uuid) OWNER tillsync_lookup SECURITY DEFINER search_path=""
standing_of_devices(revoked_since interval) OWNER tillsync_lookup SECURITY DEFINER search_path=""

-- Grants
FUNCTION find_code TO tillsync_app: EXECUTE
FUNCTION find_code TO tillsync_worker: EXECUTE
FUNCTION find_secret TO tillsync_app: EXECUTE
FUNCTION find_secret TO tillsync_worker: EXECUTE
FUNCTION standing_of_devices TO tillsync_app: EXECUTE
FUNCTION standing_of_devices TO tillsync_worker: EXECUTE
SCHEMA tillsync TO tillsync_app: USAGE
SCHEMA tillsync TO tillsync_lookup: USAGE
SCHEMA tillsync TO tillsync_worker: USAGE
TABLE device TO tillsync_app: INSERT, SELECT, UPDATE
TABLE device TO tillsync_lookup: SELECT
TABLE device TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE device_day TO tillsync_app: INSERT, SELECT, UPDATE
TABLE device_day TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE device_progress TO tillsync_app: INSERT, SELECT, UPDATE
TABLE device_progress TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE device_secret TO tillsync_app: INSERT, SELECT, UPDATE
TABLE device_secret TO tillsync_lookup: SELECT
TABLE device_secret TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE enrolment_code TO tillsync_app: INSERT, SELECT, UPDATE
TABLE enrolment_code TO tillsync_lookup: SELECT
TABLE enrolment_code TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE event TO tillsync_app: INSERT, SELECT, UPDATE
TABLE event TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE event_key TO tillsync_app: INSERT, SELECT, UPDATE
TABLE event_key TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE quarantine TO tillsync_app: INSERT, SELECT, UPDATE
TABLE quarantine TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE rejection TO tillsync_app: INSERT, SELECT, UPDATE
TABLE rejection TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE store TO tillsync_app: INSERT, SELECT, UPDATE
TABLE store TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE tenant TO tillsync_app: INSERT, SELECT, UPDATE
TABLE tenant TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE tenant_head TO tillsync_app: INSERT, SELECT, UPDATE
TABLE tenant_head TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
