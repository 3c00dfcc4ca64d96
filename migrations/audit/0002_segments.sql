-- The log anew, in segments that can be dropped whole, with what is personal apart and with signed checkpoints.
--
-- The encoding of the chain is another (`trunkline.audit.entry.v2`), so a log of the first version cannot be carried over:
-- it stays to be read as `entries_v1` where it has entries.

DO $$
BEGIN
    IF EXISTS (SELECT FROM audit.entries) THEN
        ALTER TABLE audit.entries RENAME TO entries_v1;
        ALTER INDEX audit.entries_pkey RENAME TO entries_v1_pkey;
        ALTER INDEX audit.entries_id_key RENAME TO entries_v1_id_key;
        ALTER INDEX audit.entries_actor RENAME TO entries_v1_actor;
        ALTER INDEX audit.entries_target RENAME TO entries_v1_target;
        ALTER INDEX audit.entries_action RENAME TO entries_v1_action;
        ALTER INDEX audit.entries_time RENAME TO entries_v1_time;
    ELSE
        DROP TABLE audit.entries;
    END IF;
END
$$;

-- `details` is text and not jsonb: the hash covers what was handed over, digit by digit.
CREATE TABLE audit.entries (
    sequence        bigint      PRIMARY KEY CHECK (sequence > 0), -- From 1, without gaps.
    id              uuid        NOT NULL,
    time            timestamptz NOT NULL,
    actor_type      text        NOT NULL CHECK (actor_type IN ('USER', 'SERVICE', 'API_KEY', 'ANONYMOUS')),
    actor_id        text        NOT NULL,
    action          text        NOT NULL,
    target_type     text        NOT NULL,
    target_id       text        NOT NULL,
    outcome         text        NOT NULL CHECK (outcome IN ('SUCCESS', 'DENIED', 'FAILURE')),
    request_id      text        NOT NULL,
    trace_id        text        NOT NULL,
    details         text        NOT NULL,
    personal_digest bytea       NOT NULL CHECK (octet_length(personal_digest) = 32),
    previous_hash   bytea       NOT NULL CHECK (octet_length(previous_hash) = 32),
    hash            bytea       NOT NULL CHECK (octet_length(hash) = 32)
) PARTITION BY RANGE (sequence);

-- Not unique, as it cannot be over segments: who adds to the log does so alone, and looks first.
CREATE INDEX entries_id ON audit.entries (id);
CREATE INDEX entries_actor ON audit.entries (actor_id, sequence DESC);
CREATE INDEX entries_target ON audit.entries (target_id, sequence DESC);
CREATE INDEX entries_action ON audit.entries (action text_pattern_ops, sequence DESC);
CREATE INDEX entries_outcome ON audit.entries (outcome, sequence DESC);
CREATE INDEX entries_time ON audit.entries (time, sequence);

-- What concerns a person, with the salt of its digest: the one part of the log that can be erased, row by row.
CREATE TABLE audit.personal (
    sequence    bigint PRIMARY KEY,
    salt        bytea  NOT NULL CHECK (octet_length(salt) = 16),
    ip_address  text   NOT NULL,
    user_agent  text   NOT NULL,
    actor_name  text   NOT NULL,
    target_name text   NOT NULL
) PARTITION BY RANGE (sequence);

-- The earliest and the latest time in each stretch of the log that is full: times come from many clocks and late, so no
-- order of sequences can be told from them, but a stretch without an entry of the time asked for can be passed over.
CREATE TABLE audit.stretches (
    first_sequence bigint      PRIMARY KEY,
    last_sequence  bigint      NOT NULL,
    earliest       timestamptz NOT NULL,
    latest         timestamptz NOT NULL
);

-- That the log had this hash at this sequence at this time. Kept for ever, also when the entries are not.
CREATE TABLE audit.checkpoints (
    sequence   bigint      PRIMARY KEY CHECK (sequence > 0),
    hash       bytea       NOT NULL CHECK (octet_length(hash) = 32),
    time       timestamptz NOT NULL,
    key_id     text        NOT NULL,
    signature  bytea       NOT NULL CHECK (octet_length(signature) = 64),
    public_key bytea       NOT NULL CHECK (octet_length(public_key) = 32)
);

-- The partitions of the log, in ranges without gaps from 1 on.
CREATE TABLE audit.segments (
    first_sequence bigint PRIMARY KEY,
    last_sequence  bigint NOT NULL UNIQUE CHECK (last_sequence >= first_sequence)
);

-- What is left of a segment that was dropped: how it was chained to what was before and is behind it, and the checkpoint
-- under which it lay.
CREATE TABLE audit.dropped_segments (
    first_sequence      bigint      PRIMARY KEY,
    last_sequence       bigint      NOT NULL UNIQUE,
    previous_hash       bytea       NOT NULL,
    last_hash           bytea       NOT NULL,
    checkpoint_sequence bigint      NOT NULL REFERENCES audit.checkpoints (sequence),
    dropped_at          timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A service has the data statements on its schema by default; of the log it keeps reading and adding, of the personal
-- fields erasing too.
REVOKE UPDATE, DELETE ON audit.entries, audit.checkpoints, audit.stretches FROM audit;
REVOKE UPDATE ON audit.personal FROM audit;
REVOKE INSERT, UPDATE, DELETE ON audit.segments, audit.dropped_segments FROM audit;

-- The second lock, for the owner: only a superuser can pass it, by disabling the triggers.
CREATE TRIGGER entries_are_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.entries
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();
CREATE TRIGGER checkpoints_are_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();
CREATE TRIGGER personal_fields_are_only_erased BEFORE UPDATE OR TRUNCATE ON audit.personal
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();
CREATE TRIGGER proofs_are_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.dropped_segments
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change();

-- Makes segments of `size` entries until there is room for `room` more. Done by the owner on the service's behalf.
CREATE FUNCTION audit.make_segments(size bigint, room bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dropped bigint;
    head bigint;
    first bigint;
BEGIN
    IF size < 1000 OR size > 100000000 OR room < 0 OR room > 100000000 THEN
        RAISE EXCEPTION 'a segment has 1,000 to 100,000,000 entries';
    END IF;
    -- That of the chain: who adds to the log holds it already.
    PERFORM pg_advisory_xact_lock(hashtextextended('audit.entries', 0));
    SELECT coalesce(max(last_sequence), 0) INTO dropped FROM audit.dropped_segments;
    SELECT greatest(coalesce(max(sequence), 0), dropped) INTO head FROM audit.entries;
    SELECT greatest(coalesce(max(last_sequence), 0), dropped) + 1 INTO first FROM audit.segments;
    WHILE first <= head + room LOOP
        -- Made apart and attached, which keeps nobody from reading or adding meanwhile.
        EXECUTE format('CREATE TABLE audit.entries_%s (LIKE audit.entries INCLUDING ALL)', first);
        EXECUTE format('CREATE TABLE audit.personal_%s (LIKE audit.personal INCLUDING ALL)', first);
        EXECUTE format('REVOKE INSERT, UPDATE, DELETE ON audit.entries_%1$s, audit.personal_%1$s FROM audit', first);
        EXECUTE format('CREATE TRIGGER entries_are_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.entries_%s '
                       'FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change()', first);
        EXECUTE format('CREATE TRIGGER personal_fields_are_only_erased BEFORE UPDATE OR TRUNCATE ON audit.personal_%s '
                       'FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_change()', first);
        EXECUTE format('ALTER TABLE audit.entries ATTACH PARTITION audit.entries_%s FOR VALUES FROM (%s) TO (%s)',
                       first, first, first + size);
        EXECUTE format('ALTER TABLE audit.personal ATTACH PARTITION audit.personal_%s FOR VALUES FROM (%s) TO (%s)',
                       first, first, first + size);
        INSERT INTO audit.segments VALUES (first, first + size - 1);
        first := first + size;
    END LOOP;
END
$$;

-- Drops the oldest segments that are full and lie under a checkpoint signed before `older_than`, at most `number`, and
-- leaves their proof. Says how many it dropped. Done by the owner on the service's behalf, which has checked the signature.
CREATE FUNCTION audit.drop_segments(older_than timestamptz, number int) RETURNS int
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    segment record;
    dropped int := 0;
BEGIN
    -- That of the chain, so that nobody adds while a segment goes.
    PERFORM pg_advisory_xact_lock(hashtextextended('audit.entries', 0));
    WHILE dropped < number LOOP
        SELECT s.first_sequence, s.last_sequence, f.previous_hash, l.hash AS last_hash, c.sequence AS checkpoint
        INTO segment
        FROM (SELECT * FROM audit.segments ORDER BY first_sequence LIMIT 1) s
        JOIN audit.entries f ON f.sequence = s.first_sequence
        JOIN audit.entries l ON l.sequence = s.last_sequence
        CROSS JOIN LATERAL (SELECT sequence, time FROM audit.checkpoints
                            WHERE sequence >= s.last_sequence ORDER BY sequence LIMIT 1) c
        WHERE c.time < older_than;
        EXIT WHEN NOT FOUND;
        INSERT INTO audit.dropped_segments (first_sequence, last_sequence, previous_hash, last_hash, checkpoint_sequence)
        VALUES (segment.first_sequence, segment.last_sequence, segment.previous_hash, segment.last_hash,
                segment.checkpoint);
        EXECUTE format('DROP TABLE audit.entries_%1$s, audit.personal_%1$s', segment.first_sequence);
        DELETE FROM audit.segments WHERE first_sequence = segment.first_sequence;
        DELETE FROM audit.stretches WHERE last_sequence <= segment.last_sequence;
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$$;

REVOKE ALL ON FUNCTION audit.make_segments(bigint, bigint), audit.drop_segments(timestamptz, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.make_segments(bigint, bigint), audit.drop_segments(timestamptz, int) TO audit;
