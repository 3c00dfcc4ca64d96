-- What runners of a service share beside the broker: how often jobs of a queue may begin, which keys are taken and who waits
-- for them, and the ids of jobs that must not be run again.

-- Turns are given out in advance: the next is at `next_at`, the one behind it an interval later.
CREATE TABLE :"service".job_rates (
    queue text PRIMARY KEY,
    interval_s double precision NOT NULL,
    next_at timestamptz NOT NULL
);

-- A key is taken by one run until it ends, or until its runner has not been heard of for a while.
CREATE TABLE :"service".job_keys (
    queue text NOT NULL,
    key text NOT NULL,
    holder uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (queue, key)
);

CREATE INDEX job_keys_holder ON :"service".job_keys (holder);

-- Jobs that wait for a key to be free, whole: they are in no stream meanwhile.
CREATE TABLE :"service".job_waiting (
    number bigint GENERATED ALWAYS AS IDENTITY,
    queue text NOT NULL,
    key text NOT NULL,
    kind text NOT NULL,
    job_id text NOT NULL,
    created_at timestamptz NOT NULL,
    lane text NOT NULL,
    round integer NOT NULL,
    attempt integer NOT NULL,
    waits integer NOT NULL,
    expires_at timestamptz,
    headers jsonb NOT NULL, -- Pairs of name and value, in order.
    body bytea NOT NULL,
    -- When it was put back into its queue; it is forgotten here when it is taken from there.
    dispatched_at timestamptz,
    PRIMARY KEY (queue, kind, job_id, created_at)
);

-- Finds who is next, of one key and of all.
CREATE INDEX job_waiting_next ON :"service".job_waiting (queue, key, number) WHERE dispatched_at IS NULL;

-- Jobs that asked for an id that stays unique: the message that was taken first is the job.
CREATE TABLE :"service".job_ids (
    queue text NOT NULL,
    kind text NOT NULL,
    job_id text NOT NULL,
    published_at timestamptz NOT NULL,
    sequence bigint NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    PRIMARY KEY (queue, kind, job_id)
);

CREATE INDEX job_ids_noted_at ON :"service".job_ids (noted_at);
