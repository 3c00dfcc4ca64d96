-- The outbox in partitions of a day (UTC), so that what need not be kept goes by dropping a table and not row by row.
-- Only the function of the owner makes and drops them: the service itself can remove nothing.

ALTER TABLE :"service".outbox RENAME TO outbox_before;
ALTER INDEX :"service".outbox_pkey RENAME TO outbox_before_pkey;
ALTER INDEX :"service".outbox_unsent RENAME TO outbox_before_unsent;

-- Not an identity column: before PostgreSQL 17 partitions cannot have one.
CREATE SEQUENCE :"service".outbox_number;
SELECT setval(':"service".outbox_number', coalesce(max(id), 0) + 1, false) FROM :"service".outbox_before;

CREATE TABLE :"service".outbox (
    id bigint NOT NULL DEFAULT nextval(':"service".outbox_number'),
    -- The id of the event or record; also its `Nats-Msg-Id`.
    event_id uuid NOT NULL,
    stream text NOT NULL,
    subject text NOT NULL,
    -- An object of strings.
    headers jsonb NOT NULL,
    -- Far below the broker's limit of 1 MiB, so that no row can be one that never leaves.
    payload bytea NOT NULL CHECK (octet_length(payload) <= 262144),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- When the outcome of sending it was last unknown.
    attempted_at timestamptz,
    acked_at timestamptz,
    ack_stream text,
    -- To the microsecond; together with the sequence it names the stored message even after a stream was made anew.
    ack_stream_created timestamptz,
    ack_sequence bigint,
    -- When the broker was found to have lost the message after its acknowledgement; the row was unsent again from then on.
    lost_at timestamptz,
    CHECK (num_nulls(acked_at, ack_stream, ack_stream_created, ack_sequence) IN (0, 4)),
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);

ALTER SEQUENCE :"service".outbox_number OWNED BY :"service".outbox.id;
CREATE INDEX outbox_unsent ON :"service".outbox (stream, id) WHERE acked_at IS NULL;
REVOKE DELETE ON :"service".outbox FROM :"service";

-- Takes what no partition was made for in time: a commit must never fail for that.
CREATE TABLE :"service".outbox_rest PARTITION OF :"service".outbox DEFAULT;
REVOKE INSERT, UPDATE, DELETE ON :"service".outbox_rest FROM :"service";

-- Days of which something was acknowledged late, so that it too is kept for a day after its acknowledgement.
CREATE TABLE :"service".outbox_late (
    day date PRIMARY KEY,
    acked_at timestamptz NOT NULL
);

INSERT INTO :"service".outbox (id, event_id, stream, subject, headers, payload, created_at, attempted_at, acked_at,
    ack_stream, ack_stream_created, ack_sequence, lost_at)
SELECT id, event_id, stream, subject, headers, payload, created_at, attempted_at, acked_at,
    ack_stream, ack_stream_created, ack_sequence, lost_at
FROM :"service".outbox_before;
DROP TABLE :"service".outbox_before;

-- Makes the partitions of today and of the two days after, and drops those that ended more than a day ago and hold nothing
-- that is unsent or was acknowledged within the last day. Waits for nobody for long: what is not done is done next time.
CREATE FUNCTION :"service".outbox_keep_partitions() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = :"service", pg_temp
SET timezone = 'UTC'
SET lock_timeout = '200ms'
AS $$
DECLARE
    service CONSTANT text := current_schema();
    today CONSTANT date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    kept CONSTANT interval := '24 hours';
    of_day date;
    partition text;
    unsent boolean;
BEGIN
    IF NOT pg_try_advisory_xact_lock('outbox'::regclass::oid::bigint) THEN
        RETURN;
    END IF;

    BEGIN
        FOR of_day IN SELECT today + ahead FROM generate_series(0, 2) AS ahead LOOP
            partition := 'outbox_' || to_char(of_day, 'YYYYMMDD');
            CONTINUE WHEN to_regclass(partition) IS NOT NULL;
            -- A day whose rows lie in the rest already stays there.
            CONTINUE WHEN EXISTS (SELECT FROM outbox_rest WHERE created_at >= of_day AND created_at < of_day + 1);
            -- Attached, since making it in place would wait for every transaction that has written to the outbox.
            EXECUTE format('CREATE TABLE %I (LIKE outbox INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition);
            EXECUTE format('REVOKE INSERT, UPDATE, DELETE ON %I FROM %I', partition, service);
            EXECUTE format('ALTER TABLE outbox ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                partition, of_day, of_day + 1);
        END LOOP;
    EXCEPTION
        -- Somebody holds what would have to be locked.
        WHEN lock_not_available THEN
            NULL;
    END;

    BEGIN
        FOR partition, of_day IN
            SELECT relname, to_date(right(relname, 8), 'YYYYMMDD')
            FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
            WHERE inhparent = 'outbox'::regclass AND relname ~ '^outbox_[0-9]{8}$' ORDER BY relname
        LOOP
            CONTINUE WHEN of_day + 1 > clock_timestamp() - kept;
            CONTINUE WHEN EXISTS (SELECT FROM outbox_late WHERE day = of_day AND acked_at > clock_timestamp() - kept);
            EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE acked_at IS NULL)', partition) INTO unsent;
            CONTINUE WHEN unsent;
            -- Looked at again under the lock that dropping takes, so that nothing becomes unsent in between.
            LOCK TABLE ONLY outbox IN ACCESS EXCLUSIVE MODE;
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', partition);
            EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE acked_at IS NULL)', partition) INTO unsent;
            CONTINUE WHEN unsent;
            EXECUTE format('DROP TABLE %I', partition);
            DELETE FROM outbox_late WHERE day = of_day;
        END LOOP;
    EXCEPTION
        -- Somebody holds what would have to be locked.
        WHEN lock_not_available THEN
            NULL;
    END;

    DELETE FROM outbox_rest WHERE (id, created_at) IN (
        SELECT id, created_at FROM outbox_rest WHERE acked_at < clock_timestamp() - kept LIMIT 10000);
END
$$;

REVOKE ALL ON FUNCTION :"service".outbox_keep_partitions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION :"service".outbox_keep_partitions() TO :"service";

SELECT :"service".outbox_keep_partitions();
