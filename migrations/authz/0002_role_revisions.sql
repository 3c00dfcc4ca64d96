-- The revision of a role: another number after each edit (`SET revision = DEFAULT`), and never one that was given before, so that
-- a role which is made again under an old name is not taken for the old one.

ALTER TABLE authz.roles ADD COLUMN revision bigint NOT NULL GENERATED ALWAYS AS IDENTITY;
