-- The id first: what tells jobs apart is compared first, and jobs are found by it alone without an index more to write. Those of
-- a queue and kind are listed by an index of their own, which knows the kinds as well.

ALTER TABLE jobs.errors DROP CONSTRAINT errors_queue_kind_id_fkey;
ALTER TABLE jobs.jobs DROP CONSTRAINT jobs_pkey, ADD PRIMARY KEY (id, queue, kind);
ALTER TABLE jobs.errors DROP CONSTRAINT errors_pkey, ADD PRIMARY KEY (id, queue, kind, round, attempt);
ALTER TABLE jobs.errors ADD FOREIGN KEY (queue, kind, id) REFERENCES jobs.jobs (queue, kind, id) ON DELETE CASCADE;
DROP INDEX jobs.jobs_id;
CREATE INDEX jobs_kind ON jobs.jobs (queue, kind, number DESC);
