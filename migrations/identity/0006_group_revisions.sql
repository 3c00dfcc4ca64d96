-- The revision of a group: another number after each edit of it or of its roles (`SET revision = DEFAULT`), and never one that
-- was given before.

ALTER TABLE identity.groups ADD COLUMN revision bigint NOT NULL GENERATED ALWAYS AS IDENTITY;
