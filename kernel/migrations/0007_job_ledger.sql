-- Jobs that came back to their runner without having ended, and how often each was begun since, alone: a job that takes its
-- process down is known by it, and its neighbours are not.

CREATE TABLE :"service".job_ledger (
    queue text NOT NULL,
    kind text NOT NULL,
    job_id text NOT NULL CHECK (octet_length(job_id) <= 64),
    -- Each round and attempt of the job counts by itself.
    round integer NOT NULL,
    attempt integer NOT NULL,
    begun integer NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (queue, kind, job_id, round, attempt)
);

-- Finds what is old enough to be forgotten.
CREATE INDEX job_ledger_begun_at ON :"service".job_ledger (begun_at);
