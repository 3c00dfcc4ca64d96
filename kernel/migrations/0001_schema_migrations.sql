-- What has been applied to this schema, and what the service may do in it.
-- The files of this folder belong to the kernel and are applied to every service's schema before the service's own.
-- `:"service"` is the service's name, written as psql would take it: it names the schema and the runtime role.

GRANT USAGE ON SCHEMA :"service" TO :"service";

-- A service works on the rows of its tables and on nothing else; a table that allows less says so in its own migration.
ALTER DEFAULT PRIVILEGES IN SCHEMA :"service" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"service";
ALTER DEFAULT PRIVILEGES IN SCHEMA :"service" GRANT USAGE ON SEQUENCES TO :"service";

CREATE TABLE :"service".schema_migrations (
    -- Whose folder the file lies in: `kernel` or the service's name.
    module text NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    name text NOT NULL,
    -- SHA-256 of the file.
    checksum bytea NOT NULL CHECK (octet_length(checksum) = 32),
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (module, version)
);

REVOKE INSERT, UPDATE, DELETE ON :"service".schema_migrations FROM :"service";
