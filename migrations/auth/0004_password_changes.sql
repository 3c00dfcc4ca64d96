-- A session ends when its user has another password than the one that began it.

ALTER TABLE auth.sessions
    ADD COLUMN password_version integer NOT NULL DEFAULT 1, -- Counts the user's passwords; identity says which.
    DROP CONSTRAINT sessions_revoked_reason_check,
    ADD CONSTRAINT sessions_revoked_reason_check
        CHECK (revoked_reason IN ('LOGOUT', 'REFRESH_TOKEN_REUSED', 'USER_GONE', 'PASSWORD_CHANGED'));
