-- Read backwards as well as forwards, and cheaper to write: what is new goes to the end, and mostly to the page that was written
-- last.

DROP INDEX jobs.jobs_state;
CREATE INDEX jobs_state ON jobs.jobs (state, number);
DROP INDEX jobs.jobs_kind;
CREATE INDEX jobs_kind ON jobs.jobs (queue, kind, number);
