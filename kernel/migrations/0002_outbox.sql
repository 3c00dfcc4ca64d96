-- Messages that leave with the transaction which wrote them, or not at all. The relay sends them in the order of `id` and
-- notes the broker's acknowledgement on the row, so that what the broker loses can be published again.

CREATE TABLE :"service".outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
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
    CHECK (num_nulls(acked_at, ack_stream, ack_stream_created, ack_sequence) IN (0, 4))
);

CREATE INDEX outbox_unsent ON :"service".outbox (stream, id) WHERE acked_at IS NULL;
