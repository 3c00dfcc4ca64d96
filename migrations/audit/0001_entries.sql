-- The immutable log. `details` is text and not jsonb: the hash covers what was handed over, digit by digit.

CREATE TABLE audit.entries (
    sequence      bigint      PRIMARY KEY CHECK (sequence > 0), -- From 1, without gaps.
    id            uuid        NOT NULL CONSTRAINT entries_id_key UNIQUE,
    time          timestamptz NOT NULL,
    actor_type    text        NOT NULL CHECK (actor_type IN ('USER', 'SERVICE', 'API_KEY', 'ANONYMOUS')),
    actor_id      text        NOT NULL,
    action        text        NOT NULL,
    target_type   text        NOT NULL,
    target_id     text        NOT NULL,
    outcome       text        NOT NULL CHECK (outcome IN ('SUCCESS', 'DENIED', 'FAILURE')),
    ip_address    text        NOT NULL,
    user_agent    text        NOT NULL,
    request_id    text        NOT NULL,
    trace_id      text        NOT NULL,
    details       text        NOT NULL,
    previous_hash bytea       NOT NULL CHECK (octet_length(previous_hash) = 32),
    hash          bytea       NOT NULL CHECK (octet_length(hash) = 32)
);

CREATE INDEX entries_actor ON audit.entries (actor_id, sequence DESC);
CREATE INDEX entries_target ON audit.entries (target_id, sequence DESC);
CREATE INDEX entries_action ON audit.entries (action text_pattern_ops, sequence DESC);
CREATE INDEX entries_time ON audit.entries (time);

CREATE FUNCTION audit.refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only: % refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER entries_are_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.entries
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();
ALTER TABLE audit.entries ENABLE ALWAYS TRIGGER entries_are_immutable;

-- The second lock: a service has the data statements on its schema by default; of the log it keeps reading and adding.
REVOKE UPDATE, DELETE ON audit.entries FROM audit;
