-- The revisions of queues and schedules: another number after each edit (`SET revision = DEFAULT`), and never one that was given
-- before. What is noted of a schedule's times is no edit.

ALTER TABLE jobs.queues ADD COLUMN revision bigint NOT NULL GENERATED ALWAYS AS IDENTITY;
ALTER TABLE jobs.schedules ADD COLUMN revision bigint NOT NULL GENERATED ALWAYS AS IDENTITY;
