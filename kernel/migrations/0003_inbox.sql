-- Messages whose effect has been committed. The row is written in the effect's own transaction, so that a message which
-- comes twice has its effect once.

CREATE TABLE :"service".inbox (
    -- The durable's name.
    consumer text NOT NULL,
    message_id text NOT NULL CHECK (octet_length(message_id) <= 256),
    processed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, message_id)
);

-- Finds what is old enough to be forgotten.
CREATE INDEX inbox_processed_at ON :"service".inbox USING brin (processed_at);
