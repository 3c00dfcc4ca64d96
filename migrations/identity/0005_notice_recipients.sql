-- Who is still to be told of a change that concerned many: the members that a group had at its moment.

CREATE TABLE identity.notice_recipients (
    notice_id uuid NOT NULL,
    user_id   uuid NOT NULL, -- No reference: who is deleted meanwhile is passed over when the letter is due.
    PRIMARY KEY (notice_id, user_id)
);
