-- Whether a queue's concurrency was asked for. Then it holds over all instances and priorities together; what a queue has without
-- having been asked bounds each priority by itself.

ALTER TABLE jobs.queues
    ADD COLUMN is_exact boolean NOT NULL DEFAULT false;

UPDATE jobs.queues SET is_exact = true WHERE concurrency <> 50;
