-- Tables and columns
audit.tenant_id uuid NOT NULL
audit.audit_id uuid NOT NULL DEFAULT gen_random_uuid()
audit.happened_at timestamp with time zone NOT NULL DEFAULT now()
audit.actor text NOT NULL
audit.action text NOT NULL
audit.detail jsonb NOT NULL
collection.tenant_id uuid NOT NULL
collection.name text NOT NULL COLLATE "C"
collection.policy text NOT NULL
collection.lookup_keys text[] NOT NULL
collection.load_order integer NOT NULL
collection.version bigint NOT NULL
conflict.tenant_id uuid NOT NULL
conflict.conflict_id bigint NOT NULL
conflict.device_id uuid NOT NULL
conflict.epoch bigint NOT NULL
conflict.sequence bigint NOT NULL
conflict.collection text NOT NULL COLLATE "C"
conflict.scope uuid NOT NULL
conflict.record_id text NOT NULL COLLATE "C"
conflict.kind text NOT NULL
conflict.base_version bigint NOT NULL
conflict.edit_body text NOT NULL
conflict.met_version bigint NOT NULL
conflict.met_body text
conflict.outcome text NOT NULL
conflict.reason text NOT NULL
conflict.occurred_at timestamp with time zone NOT NULL DEFAULT now()
conflict.choice text
conflict.decided_by text
conflict.decided_at timestamp with time zone
conflict.decided_version bigint
day_claim.tenant_id uuid NOT NULL
day_claim.device_id uuid NOT NULL
day_claim.business_day date NOT NULL
day_claim.currency text NOT NULL COLLATE "C"
day_claim.event_count bigint NOT NULL
day_claim.amount_minor numeric NOT NULL
day_claim.digest_sum numeric NOT NULL
day_claim.claimed_at timestamp with time zone NOT NULL DEFAULT now()
day_close.tenant_id uuid NOT NULL
day_close.device_id uuid NOT NULL
day_close.business_day date NOT NULL
day_close.revision integer NOT NULL
day_close.event_count bigint NOT NULL
day_close.digest_sum numeric NOT NULL
day_close.closed_at timestamp with time zone NOT NULL DEFAULT now()
day_total.tenant_id uuid NOT NULL
day_total.store_id uuid NOT NULL
day_total.business_day date NOT NULL
day_total.currency text NOT NULL COLLATE "C"
day_total.sale_count bigint NOT NULL
day_total.sale_minor numeric NOT NULL
day_total.return_count bigint NOT NULL
day_total.return_minor numeric NOT NULL
day_total.void_count bigint NOT NULL
day_total.cash_minor numeric NOT NULL
day_total.counted_minor numeric NOT NULL
dead_letter.tenant_id uuid NOT NULL
dead_letter.position bigint NOT NULL
dead_letter.key text NOT NULL COLLATE "C"
dead_letter.store_id uuid NOT NULL
dead_letter.device_id uuid NOT NULL
dead_letter.type_url text NOT NULL
dead_letter.reason text NOT NULL
dead_letter.field text NOT NULL
dead_letter.description text NOT NULL
dead_letter.attempts bigint NOT NULL DEFAULT 1
dead_letter.first_failed_at timestamp with time zone NOT NULL DEFAULT now()
dead_letter.last_failed_at timestamp with time zone NOT NULL DEFAULT now()
dead_letter.state text NOT NULL DEFAULT 'waiting'::text
dead_letter.discarded_by text
dead_letter.discarded_because text
dead_letter.discarded_at timestamp with time zone
device.tenant_id uuid NOT NULL
device.device_id uuid NOT NULL
device.store_id uuid NOT NULL
device.name text NOT NULL
device.enrolled_at timestamp with time zone NOT NULL DEFAULT now()
device.revoked_at timestamp with time zone
device.suspect_since timestamp with time zone
device.placed_version bigint NOT NULL DEFAULT 0
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
feed_consumer.tenant_id uuid NOT NULL
feed_consumer.name text NOT NULL COLLATE "C"
feed_consumer.position bigint NOT NULL
feed_consumer.history_id uuid NOT NULL
feed_consumer.committed_at timestamp with time zone NOT NULL DEFAULT now()
movement.tenant_id uuid NOT NULL
movement.position bigint NOT NULL
movement.number integer NOT NULL
movement.kind text NOT NULL
movement.key text NOT NULL COLLATE "C"
movement.store_id uuid NOT NULL
movement.device_id uuid NOT NULL
movement.business_day date NOT NULL
movement.occurred_at timestamp with time zone
movement.name text NOT NULL
movement.product_id text NOT NULL COLLATE "C"
movement.quantity numeric NOT NULL
movement.currency text NOT NULL COLLATE "C"
movement.amount_minor bigint NOT NULL
movement.drawer_id text NOT NULL
movement.reason text NOT NULL
movement.voided_by bigint
mutation.tenant_id uuid NOT NULL
mutation.device_id uuid NOT NULL
mutation.epoch bigint NOT NULL
mutation.sequence bigint NOT NULL
mutation.digest bytea NOT NULL
mutation.outcome text NOT NULL
mutation.version bigint NOT NULL
mutation.reason text NOT NULL
mutation.field text NOT NULL
mutation.description text NOT NULL
mutation.received_at timestamp with time zone NOT NULL DEFAULT now()
mutation_progress.tenant_id uuid NOT NULL
mutation_progress.device_id uuid NOT NULL
mutation_progress.epoch bigint NOT NULL
mutation_progress.last_sequence bigint NOT NULL
mutation_progress.version bigint NOT NULL
outbox_claim.tenant_id uuid NOT NULL
outbox_claim.device_id uuid NOT NULL
outbox_claim.outbox_epoch bigint NOT NULL
outbox_claim.last_sequence bigint NOT NULL
outbox_claim.claimed_at timestamp with time zone NOT NULL DEFAULT now()
projection.tenant_id uuid NOT NULL
projection.name text NOT NULL COLLATE "C"
projection.position bigint NOT NULL DEFAULT 0
projection.history_id uuid NOT NULL
projection.projected_at timestamp with time zone NOT NULL DEFAULT now()
projection.rebuild_from bigint
projection.rebuild_position bigint
projection.rebuild_until bigint
projection.rebuild_by text
projection.rebuild_started_at timestamp with time zone
projection.rebuild_number bigint NOT NULL DEFAULT 0
quarantine.tenant_id uuid NOT NULL
quarantine.key text NOT NULL COLLATE "C"
quarantine.digest bytea NOT NULL
quarantine.held_position bigint NOT NULL
quarantine.store_id uuid NOT NULL
quarantine.device_id uuid NOT NULL
quarantine.received_at timestamp with time zone NOT NULL DEFAULT now()
quarantine.envelope bytea NOT NULL
record.tenant_id uuid NOT NULL
record.collection text NOT NULL COLLATE "C"
record.scope uuid NOT NULL
record.record_id text NOT NULL COLLATE "C"
record.version bigint NOT NULL
record.body text
record.hash numeric
record.edited_by uuid
record.edited_from bigint
record.changed_at timestamp with time zone NOT NULL DEFAULT now()
record_digest.tenant_id uuid NOT NULL
record_digest.collection text NOT NULL COLLATE "C"
record_digest.scope uuid NOT NULL
record_digest.record_count bigint NOT NULL
record_digest.digest numeric NOT NULL
record_staging.tenant_id uuid NOT NULL
record_staging.import_id uuid NOT NULL
record_staging.number bigint NOT NULL
record_staging.record_id text NOT NULL COLLATE "C"
record_staging.body text
record_staging.hash numeric
record_staging.staged_at timestamp with time zone NOT NULL DEFAULT now()
rejection.tenant_id uuid NOT NULL
rejection.device_id uuid NOT NULL
rejection.outbox_epoch bigint NOT NULL
rejection.device_sequence bigint NOT NULL
rejection.reason text NOT NULL
rejection.field text NOT NULL
rejection.received_at timestamp with time zone NOT NULL DEFAULT now()
sale.tenant_id uuid NOT NULL
sale.position bigint NOT NULL
sale.kind text NOT NULL
sale.key text NOT NULL COLLATE "C"
sale.store_id uuid NOT NULL
sale.device_id uuid NOT NULL
sale.business_day date NOT NULL
sale.occurred_at timestamp with time zone
sale.currency text NOT NULL COLLATE "C"
sale.total_minor bigint NOT NULL
sale.discount_minor bigint NOT NULL
sale.tax_minor bigint NOT NULL
sale.receipt_number text NOT NULL
sale.cashier_id text NOT NULL
sale.customer_id text NOT NULL
sale.returned_key text NOT NULL
sale.reason text NOT NULL
sale.voided_by bigint
sale_line.tenant_id uuid NOT NULL
sale_line.position bigint NOT NULL
sale_line.number integer NOT NULL
sale_line.product_id text NOT NULL COLLATE "C"
sale_line.quantity numeric NOT NULL
sale_line.unit text NOT NULL
sale_line.unit_price_minor bigint NOT NULL
sale_line.discount_minor bigint NOT NULL
sale_line.total_minor bigint NOT NULL
stock_level.tenant_id uuid NOT NULL
stock_level.store_id uuid NOT NULL
stock_level.product_id text NOT NULL COLLATE "C"
stock_level.quantity numeric NOT NULL
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
tenant_head.horizon bigint NOT NULL DEFAULT 0
tender.tenant_id uuid NOT NULL
tender.position bigint NOT NULL
tender.number integer NOT NULL
tender.kind text NOT NULL
tender.amount_minor bigint NOT NULL
tender.reference text NOT NULL
waiver.tenant_id uuid NOT NULL
waiver.waiver_id uuid NOT NULL DEFAULT gen_random_uuid()
waiver.device_id uuid NOT NULL
waiver.outbox_epoch bigint
waiver.numbers int8range
waiver.business_day date
waiver.reason text NOT NULL
waiver.waived_by text NOT NULL
waiver.waived_at timestamp with time zone NOT NULL DEFAULT now()

-- Storage and row-level security
audit () ENABLE FORCE
collection () ENABLE FORCE
conflict () ENABLE FORCE
day_claim (fillfactor=50) ENABLE FORCE
day_close () ENABLE FORCE
day_total (fillfactor=50) ENABLE FORCE
dead_letter () ENABLE FORCE
device () ENABLE FORCE
device_day (fillfactor=50) ENABLE FORCE
device_progress (fillfactor=50) ENABLE FORCE
device_secret () ENABLE FORCE
enrolment_code () ENABLE FORCE
event () ENABLE FORCE
event_key () ENABLE FORCE
feed_consumer (fillfactor=50) ENABLE FORCE
movement () ENABLE FORCE
mutation () ENABLE FORCE
mutation_progress (fillfactor=50) ENABLE FORCE
outbox_claim (fillfactor=50) ENABLE FORCE
projection (fillfactor=20) ENABLE FORCE
quarantine () ENABLE FORCE
record () ENABLE FORCE
record_digest (fillfactor=50) ENABLE FORCE
record_staging () ENABLE FORCE
rejection () ENABLE FORCE
sale () ENABLE FORCE
sale_line () ENABLE FORCE
stock_level (fillfactor=50) ENABLE FORCE
store () ENABLE FORCE
tenant () ENABLE FORCE
tenant_head (fillfactor=10) ENABLE FORCE
tender () ENABLE FORCE
waiver () ENABLE FORCE

-- Constraints
audit audit_pkey PRIMARY KEY (tenant_id, audit_id)
collection collection_pkey PRIMARY KEY (tenant_id, name)
collection collection_policy_check CHECK ((policy = ANY (ARRAY['server_wins'::text, 'arrival_wins'::text, 'manual'::text])))
collection collection_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tillsync.tenant(tenant_id)
conflict conflict_choice_check CHECK ((choice = ANY (ARRAY['keep'::text, 'apply'::text])))
conflict conflict_kind_check CHECK ((kind = ANY (ARRAY['put'::text, 'patch'::text, 'add'::text, 'delete'::text])))
conflict conflict_outcome_check CHECK ((outcome = ANY (ARRAY['won'::text, 'lost'::text, 'parked'::text])))
conflict conflict_pkey PRIMARY KEY (tenant_id, conflict_id)
day_claim day_claim_pkey PRIMARY KEY (tenant_id, device_id, business_day, currency)
day_close day_close_pkey PRIMARY KEY (tenant_id, device_id, business_day, revision)
day_total day_total_pkey PRIMARY KEY (tenant_id, store_id, business_day, currency)
dead_letter dead_letter_check CHECK ((num_nonnulls(discarded_by, discarded_because, discarded_at) =
CASE state
    WHEN 'discarded'::text THEN 3
    ELSE 0
END))
dead_letter dead_letter_pkey PRIMARY KEY (tenant_id, "position")
dead_letter dead_letter_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'discarded'::text])))
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
feed_consumer feed_consumer_pkey PRIMARY KEY (tenant_id, name)
feed_consumer feed_consumer_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tillsync.tenant(tenant_id)
movement movement_kind_check CHECK ((kind = ANY (ARRAY['stock'::text, 'cash'::text, 'count'::text])))
movement movement_pkey PRIMARY KEY (tenant_id, "position", number)
mutation mutation_outcome_check CHECK ((outcome = ANY (ARRAY['applied'::text, 'won'::text, 'lost'::text, 'parked'::text, 'rejected'::text])))
mutation mutation_pkey PRIMARY KEY (tenant_id, device_id, epoch, sequence)
mutation_progress mutation_progress_pkey PRIMARY KEY (tenant_id, device_id, epoch)
outbox_claim outbox_claim_pkey PRIMARY KEY (tenant_id, device_id, outbox_epoch)
projection projection_check CHECK ((num_nonnulls(rebuild_from, rebuild_position, rebuild_until, rebuild_by, rebuild_started_at) = ANY (ARRAY[0, 5])))
projection projection_pkey PRIMARY KEY (tenant_id, name)
projection projection_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tillsync.tenant(tenant_id)
quarantine quarantine_pkey PRIMARY KEY (tenant_id, key, digest)
record record_check CHECK (((body IS NULL) = (hash IS NULL)))
record record_pkey PRIMARY KEY (tenant_id, collection, scope, record_id)
record_digest record_digest_pkey PRIMARY KEY (tenant_id, collection, scope)
record_staging record_staging_pkey PRIMARY KEY (tenant_id, import_id, number)
rejection rejection_pkey PRIMARY KEY (tenant_id, device_id, outbox_epoch, device_sequence)
sale sale_kind_check CHECK ((kind = ANY (ARRAY['sale'::text, 'return'::text])))
sale sale_pkey PRIMARY KEY (tenant_id, "position")
sale_line sale_line_pkey PRIMARY KEY (tenant_id, "position", number)
stock_level stock_level_pkey PRIMARY KEY (tenant_id, store_id, product_id)
store store_pkey PRIMARY KEY (tenant_id, store_id)
store store_tenant_id_code_key UNIQUE (tenant_id, code)
store store_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tillsync.tenant(tenant_id)
tenant tenant_pkey PRIMARY KEY (tenant_id)
tenant_head tenant_head_pkey PRIMARY KEY (tenant_id, stream)
tenant_head tenant_head_stream_check CHECK ((stream = ANY (ARRAY['event'::text, 'record'::text])))
tenant_head tenant_head_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tillsync.tenant(tenant_id)
tender tender_pkey PRIMARY KEY (tenant_id, "position", number)
waiver waiver_check CHECK (((outbox_epoch IS NULL) = (numbers IS NULL)))
waiver waiver_check1 CHECK (((numbers IS NULL) <> (business_day IS NULL)))
waiver waiver_pkey PRIMARY KEY (tenant_id, waiver_id)

-- Indexes
CREATE INDEX conflict_open ON tillsync.conflict USING btree (tenant_id, conflict_id) WHERE ((outcome = 'parked'::text) AND (choice IS NULL))
CREATE INDEX dead_letter_waiting ON tillsync.dead_letter USING btree (tenant_id, "position") WHERE (state = 'waiting'::text)
CREATE INDEX device_by_placing ON tillsync.device USING btree (tenant_id, placed_version) WHERE (placed_version > 0)
CREATE INDEX device_by_store ON tillsync.device USING btree (tenant_id, store_id)
CREATE INDEX device_out_of_standing ON tillsync.device USING btree (revoked_at) WHERE ((revoked_at IS NOT NULL) OR (suspect_since IS NOT NULL))
CREATE INDEX device_secret_by_hash ON tillsync.device_secret USING btree (secret_hash)
CREATE INDEX enrolment_code_by_hash ON tillsync.enrolment_code USING btree (code_hash)
CREATE INDEX event_by_number ON tillsync.event USING btree (tenant_id, device_id, outbox_epoch, device_sequence)
CREATE INDEX movement_voided ON tillsync.movement USING btree (tenant_id, voided_by) WHERE (voided_by IS NOT NULL)
CREATE INDEX mutation_progress_by_version ON tillsync.mutation_progress USING btree (tenant_id, version)
CREATE INDEX quarantine_by_device ON tillsync.quarantine USING btree (tenant_id, device_id)
CREATE INDEX record_deleted ON tillsync.record USING btree (tenant_id, changed_at) WHERE (body IS NULL)
CREATE INDEX sale_voided ON tillsync.sale USING btree (tenant_id, voided_by) WHERE (voided_by IS NOT NULL)
CREATE INDEX waiver_by_device ON tillsync.waiver USING btree (tenant_id, device_id)
CREATE UNIQUE INDEX audit_pkey ON tillsync.audit USING btree (tenant_id, audit_id)
CREATE UNIQUE INDEX collection_pkey ON tillsync.collection USING btree (tenant_id, name)
CREATE UNIQUE INDEX conflict_pkey ON tillsync.conflict USING btree (tenant_id, conflict_id)
CREATE UNIQUE INDEX day_claim_pkey ON tillsync.day_claim USING btree (tenant_id, device_id, business_day, currency)
CREATE UNIQUE INDEX day_close_pkey ON tillsync.day_close USING btree (tenant_id, device_id, business_day, revision)
CREATE UNIQUE INDEX day_total_pkey ON tillsync.day_total USING btree (tenant_id, store_id, business_day, currency)
CREATE UNIQUE INDEX dead_letter_pkey ON tillsync.dead_letter USING btree (tenant_id, "position")
CREATE UNIQUE INDEX device_day_pkey ON tillsync.device_day USING btree (tenant_id, device_id, business_day, currency)
CREATE UNIQUE INDEX device_pkey ON tillsync.device USING btree (tenant_id, device_id)
CREATE UNIQUE INDEX device_progress_pkey ON tillsync.device_progress USING btree (tenant_id, device_id, outbox_epoch)
CREATE UNIQUE INDEX device_secret_live ON tillsync.device_secret USING btree (tenant_id, device_id, state) WHERE (state <> 'retired'::text)
CREATE UNIQUE INDEX device_secret_pkey ON tillsync.device_secret USING btree (tenant_id, device_id, secret_hash)
CREATE UNIQUE INDEX enrolment_code_pkey ON tillsync.enrolment_code USING btree (tenant_id, code_hash)
CREATE UNIQUE INDEX event_key_pkey ON tillsync.event_key USING btree (tenant_id, key)
CREATE UNIQUE INDEX event_pkey ON tillsync.event USING btree (tenant_id, "position")
CREATE UNIQUE INDEX feed_consumer_pkey ON tillsync.feed_consumer USING btree (tenant_id, name)
CREATE UNIQUE INDEX movement_pkey ON tillsync.movement USING btree (tenant_id, "position", number)
CREATE UNIQUE INDEX mutation_pkey ON tillsync.mutation USING btree (tenant_id, device_id, epoch, sequence)
CREATE UNIQUE INDEX mutation_progress_pkey ON tillsync.mutation_progress USING btree (tenant_id, device_id, epoch)
CREATE UNIQUE INDEX outbox_claim_pkey ON tillsync.outbox_claim USING btree (tenant_id, device_id, outbox_epoch)
CREATE UNIQUE INDEX projection_pkey ON tillsync.projection USING btree (tenant_id, name)
CREATE UNIQUE INDEX quarantine_pkey ON tillsync.quarantine USING btree (tenant_id, key, digest)
CREATE UNIQUE INDEX record_by_version ON tillsync.record USING btree (tenant_id, scope, version)
CREATE UNIQUE INDEX record_digest_pkey ON tillsync.record_digest USING btree (tenant_id, collection, scope)
CREATE UNIQUE INDEX record_pkey ON tillsync.record USING btree (tenant_id, collection, scope, record_id)
CREATE UNIQUE INDEX record_staging_pkey ON tillsync.record_staging USING btree (tenant_id, import_id, number)
CREATE UNIQUE INDEX rejection_pkey ON tillsync.rejection USING btree (tenant_id, device_id, outbox_epoch, device_sequence)
CREATE UNIQUE INDEX sale_line_pkey ON tillsync.sale_line USING btree (tenant_id, "position", number)
CREATE UNIQUE INDEX sale_pkey ON tillsync.sale USING btree (tenant_id, "position")
CREATE UNIQUE INDEX stock_level_pkey ON tillsync.stock_level USING btree (tenant_id, store_id, product_id)
CREATE UNIQUE INDEX store_pkey ON tillsync.store USING btree (tenant_id, store_id)
CREATE UNIQUE INDEX store_tenant_id_code_key ON tillsync.store USING btree (tenant_id, code)
CREATE UNIQUE INDEX tenant_head_pkey ON tillsync.tenant_head USING btree (tenant_id, stream)
CREATE UNIQUE INDEX tenant_pkey ON tillsync.tenant USING btree (tenant_id)
CREATE UNIQUE INDEX tender_pkey ON tillsync.tender USING btree (tenant_id, "position", number)
CREATE UNIQUE INDEX waiver_pkey ON tillsync.waiver USING btree (tenant_id, waiver_id)

-- Policies
audit own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
collection own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
conflict own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
day_claim own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
day_close own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
day_total own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
dead_letter own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
dead_letter worker_lists FOR SELECT TO tillsync_worker USING true
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
feed_consumer own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
feed_consumer worker_lists FOR SELECT TO tillsync_worker USING true
movement own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
mutation own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
mutation_progress own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
outbox_claim own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
projection own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
projection worker_lists FOR SELECT TO tillsync_worker USING true
quarantine own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
record own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
record_digest own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
record_staging own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
rejection own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
sale own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
sale_line own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
stock_level own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
store own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
tenant own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
tenant worker_lists FOR SELECT TO tillsync_worker USING true
tenant_head own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
tenant_head worker_lists FOR SELECT TO tillsync_worker USING true
tender own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)
waiver own_tenant FOR ALL TO tillsync_app, tillsync_worker USING (tenant_id = (NULLIF(current_setting('tillsync.tenant'::text, true), ''::text))::uuid)

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
TABLE audit TO tillsync_app: INSERT, SELECT, UPDATE
TABLE audit TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE collection TO tillsync_app: INSERT, SELECT, UPDATE
TABLE collection TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE conflict TO tillsync_app: INSERT, SELECT, UPDATE
TABLE conflict TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE day_claim TO tillsync_app: INSERT, SELECT, UPDATE
TABLE day_claim TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE day_close TO tillsync_app: INSERT, SELECT, UPDATE
TABLE day_close TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE day_total TO tillsync_app: INSERT, SELECT, UPDATE
TABLE day_total TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE dead_letter TO tillsync_app: INSERT, SELECT, UPDATE
TABLE dead_letter TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
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
TABLE feed_consumer TO tillsync_app: INSERT, SELECT, UPDATE
TABLE feed_consumer TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE movement TO tillsync_app: INSERT, SELECT, UPDATE
TABLE movement TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE mutation TO tillsync_app: INSERT, SELECT, UPDATE
TABLE mutation TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE mutation_progress TO tillsync_app: INSERT, SELECT, UPDATE
TABLE mutation_progress TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE outbox_claim TO tillsync_app: INSERT, SELECT, UPDATE
TABLE outbox_claim TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE projection TO tillsync_app: INSERT, SELECT, UPDATE
TABLE projection TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE quarantine TO tillsync_app: INSERT, SELECT, UPDATE
TABLE quarantine TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE record TO tillsync_app: INSERT, SELECT, UPDATE
TABLE record TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE record_digest TO tillsync_app: INSERT, SELECT, UPDATE
TABLE record_digest TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE record_staging TO tillsync_app: INSERT, SELECT, UPDATE
TABLE record_staging TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE rejection TO tillsync_app: INSERT, SELECT, UPDATE
TABLE rejection TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE sale TO tillsync_app: INSERT, SELECT, UPDATE
TABLE sale TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE sale_line TO tillsync_app: INSERT, SELECT, UPDATE
TABLE sale_line TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE stock_level TO tillsync_app: INSERT, SELECT, UPDATE
TABLE stock_level TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE store TO tillsync_app: INSERT, SELECT, UPDATE
TABLE store TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE tenant TO tillsync_app: INSERT, SELECT, UPDATE
TABLE tenant TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE tenant_head TO tillsync_app: INSERT, SELECT, UPDATE
TABLE tenant_head TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE tender TO tillsync_app: INSERT, SELECT, UPDATE
TABLE tender TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
TABLE waiver TO tillsync_app: INSERT, SELECT, UPDATE
TABLE waiver TO tillsync_worker: DELETE, INSERT, SELECT, UPDATE
