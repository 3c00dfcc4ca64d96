-- How often jobs of a queue may begin; both or neither.

ALTER TABLE jobs.queues
    ADD COLUMN rate_per_second double precision,
    ADD COLUMN rate_burst integer,
    ADD CONSTRAINT queues_rate_check CHECK ((rate_per_second IS NULL) = (rate_burst IS NULL));
