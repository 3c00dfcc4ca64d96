-- Queues, the history of jobs, and jobs that were given up. The jobs themselves are in the broker's work queue.

CREATE TABLE jobs.queues (
    name            text        PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 64),
    concurrency     integer     NOT NULL,
    backoff_base_ms integer     NOT NULL,
    backoff_max_ms  integer     NOT NULL,
    max_attempts    integer     NOT NULL,
    timeout_ms      integer     NOT NULL,
    updated_at      timestamptz NOT NULL
);

CREATE TABLE jobs.jobs (
    number           bigint      GENERATED ALWAYS AS IDENTITY, -- The order in which they are listed.
    queue            text        NOT NULL,
    kind             text        NOT NULL,
    id               text        NOT NULL,
    state            text        NOT NULL CHECK (state IN ('PENDING', 'RUNNING', 'SUCCEEDED', 'FAILED', 'RETRY_SCHEDULED',
                                                           'WAITING', 'DEAD_LETTER', 'CANCELLED')),
    -- Of the transition that the row shows: by round, attempt, waits and state. A lower one that comes later changes nothing.
    rank             bigint      NOT NULL,
    round            integer     NOT NULL,
    attempt          integer     NOT NULL,
    max_attempts     integer     NOT NULL,
    args             text,       -- JSON as it came, digit by digit.
    progress         text,
    result           text,
    created_at       timestamptz NOT NULL,
    run_at           timestamptz,
    started_at       timestamptz,
    finished_at      timestamptz,
    cancel_requested boolean     NOT NULL DEFAULT false,
    -- The place in the work queue that the jobs service was told when it published the job there.
    sequence         bigint,
    PRIMARY KEY (queue, kind, id)
);

CREATE UNIQUE INDEX jobs_number ON jobs.jobs (number);
CREATE INDEX jobs_id ON jobs.jobs (id);
CREATE INDEX jobs_state ON jobs.jobs (state, number DESC);
CREATE INDEX jobs_finished_at ON jobs.jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_cancel_requested ON jobs.jobs (number) WHERE cancel_requested AND finished_at IS NULL;

CREATE TABLE jobs.errors (
    queue   text        NOT NULL,
    kind    text        NOT NULL,
    id      text        NOT NULL,
    round   integer     NOT NULL,
    attempt integer     NOT NULL,
    at      timestamptz NOT NULL,
    message text        NOT NULL,
    PRIMARY KEY (queue, kind, id, round, attempt),
    FOREIGN KEY (queue, kind, id) REFERENCES jobs.jobs ON DELETE CASCADE
);

CREATE TABLE jobs.dead_letters (
    number       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue        text        NOT NULL,
    kind         text        NOT NULL,
    id           text        NOT NULL,
    round        integer     NOT NULL,
    reason       text        NOT NULL CHECK (reason IN ('EXHAUSTED', 'PERMANENT', 'CRASH_LOOP', 'UNDECODABLE', 'EXPIRED',
                                                        'NO_HANDLER')),
    error        text        NOT NULL,
    headers      jsonb       NOT NULL, -- An object of strings.
    body         bytea       NOT NULL,
    attempt      integer     NOT NULL,
    max_attempts integer     NOT NULL,
    created_at   timestamptz NOT NULL,
    failed_at    timestamptz NOT NULL,
    replayed_at  timestamptz,
    CONSTRAINT dead_letters_job_key UNIQUE (queue, kind, id, round, created_at)
);

CREATE INDEX dead_letters_id ON jobs.dead_letters (id);
CREATE INDEX dead_letters_failed_at ON jobs.dead_letters (failed_at);
