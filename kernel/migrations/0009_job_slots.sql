-- Who runs a queue whose concurrency holds over all instances and priorities: one runner takes its jobs, and others only end those
-- that they have begun.

CREATE TABLE :"service".job_slots (
    queue text NOT NULL,
    holder uuid NOT NULL,
    -- Whether it takes jobs, and how many run with it, or may.
    takes boolean NOT NULL,
    slots integer NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (queue, holder)
);

CREATE UNIQUE INDEX job_slots_takes ON :"service".job_slots (queue) WHERE takes;
