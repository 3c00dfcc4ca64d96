-- Jobs that are submitted many at once are noted before they are stored in the work queue, where they lie in a row: where that
-- begins is noted once for all of them.

CREATE TABLE jobs.batches (
    number     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The place of the first of them, where all lie in a row.
    sequence   bigint,
    created_at timestamptz NOT NULL
);

-- Finds what is old enough to be forgotten.
CREATE INDEX batches_created_at ON jobs.batches (created_at);

-- Of one with a batch, `sequence` counts from the batch's. No foreign key: it would cost each job more than its batch does.
ALTER TABLE jobs.jobs ADD COLUMN batch bigint;
