-- The revision of a user: another number after each edit of what is shown of them (`SET revision = DEFAULT`), and never one that was
-- given before.

ALTER TABLE identity.users ADD COLUMN revision bigint NOT NULL GENERATED ALWAYS AS IDENTITY;
