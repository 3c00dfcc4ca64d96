-- Jobs that wait for a key are found by when they expire, and those that wait no more by when that was.

CREATE INDEX job_waiting_expires_at ON :"service".job_waiting (expires_at) WHERE dispatched_at IS NULL;

CREATE INDEX job_waiting_dispatched_at ON :"service".job_waiting (dispatched_at) WHERE dispatched_at IS NOT NULL;
