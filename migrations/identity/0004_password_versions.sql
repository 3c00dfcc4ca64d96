-- Which of a user's passwords counts, so that sessions can be told apart by the one that began them.

ALTER TABLE identity.credentials
    ADD COLUMN version         integer NOT NULL DEFAULT 1, -- Counts the passwords. One that is hashed anew is the same.
    ADD COLUMN kept_session_id uuid;                       -- The session by which the user changed it; it goes on.
