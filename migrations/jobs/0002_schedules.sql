-- Schedules, and what was decided at each of their times.

CREATE TABLE jobs.schedules (
    id            text        PRIMARY KEY CHECK (octet_length(id) BETWEEN 1 AND 52), -- Part of the ids of its jobs.
    name          text        NOT NULL CONSTRAINT schedules_name_key UNIQUE,
    service       text,       -- Whose contract declares it.
    cron          text        NOT NULL,
    time_zone     text        NOT NULL,
    queue         text        NOT NULL,
    kind          text        NOT NULL,
    args          text        NOT NULL, -- JSON as it came, digit by digit.
    overlap       text        NOT NULL CHECK (overlap IN ('ALLOW', 'SKIP', 'QUEUE_ONE')),
    catch_up      text        NOT NULL CHECK (catch_up IN ('SKIP', 'LAST', 'ALL')),
    catch_up_max  integer     NOT NULL,
    jitter_ms     integer     NOT NULL,
    max_attempts  integer     NOT NULL, -- 0: as the queue has it.
    timeout_ms    integer     NOT NULL, -- 0: as the queue has it.
    paused        boolean     NOT NULL,
    -- Only times behind this count: when it was made, resumed, or got other times.
    active_since  timestamptz NOT NULL,
    -- Every time up to this was given to the broker.
    planned_until timestamptz NOT NULL,
    -- When the stream was created that they were given to.
    store         timestamptz,
    -- The time whose job is submitted when the others have ended.
    queued_at     timestamptz,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL
);

CREATE INDEX schedules_queue ON jobs.schedules (queue, name);

CREATE TABLE jobs.ticks (
    schedule_id text        NOT NULL REFERENCES jobs.schedules ON DELETE CASCADE,
    due_at      timestamptz NOT NULL,
    outcome     text        NOT NULL CHECK (outcome IN ('STARTED', 'OVERLAPPED', 'QUEUED', 'MISSED')),
    job_id      text,
    -- Whether its job may not have ended.
    is_open     boolean     NOT NULL,
    PRIMARY KEY (schedule_id, due_at)
);

CREATE INDEX ticks_open ON jobs.ticks (schedule_id) WHERE is_open;
CREATE INDEX ticks_open_job ON jobs.ticks (job_id) WHERE is_open;
CREATE INDEX ticks_due_at ON jobs.ticks (due_at) WHERE NOT is_open;
