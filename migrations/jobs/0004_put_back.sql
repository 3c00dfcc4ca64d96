-- What it takes to put a job back as it was, where its message is gone from the broker; and since when one is to be cancelled.

ALTER TABLE jobs.jobs
    -- Of one that was cancelled, or is to be: pairs of name and value, in order.
    ADD COLUMN headers jsonb,
    ADD COLUMN lane text,
    ADD COLUMN cancel_requested_at timestamptz;

ALTER TABLE jobs.dead_letters
    ADD COLUMN lane text NOT NULL DEFAULT 'normal';
