-- What the relay asks the broker by, to learn whether a stream still holds what it acknowledged: the last place that each
-- subject's messages were given. A stream made anew has rows of its own beside those of the former one.

CREATE TABLE :"service".outbox_marks (
    stream text NOT NULL,
    subject text NOT NULL,
    stream_created timestamptz NOT NULL,
    sequence bigint NOT NULL,
    PRIMARY KEY (stream, subject, stream_created)
);

INSERT INTO :"service".outbox_marks (stream, subject, stream_created, sequence)
SELECT ack_stream, subject, ack_stream_created, max(ack_sequence)
FROM :"service".outbox WHERE acked_at IS NOT NULL GROUP BY 1, 2, 3;

-- When the broker was found to have lost the message after its acknowledgement; the row was unsent again from then on.
ALTER TABLE :"service".outbox ADD COLUMN lost_at timestamptz;
