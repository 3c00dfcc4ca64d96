-- Sessions and their refresh tokens. A session's row is the lock of its tokens: whoever changes one holds it.

CREATE TABLE auth.sessions (
    id               uuid        PRIMARY KEY,
    user_id          uuid        NOT NULL, -- A user of identity's; no reference crosses a schema.
    ip_address       text        NOT NULL, -- As claimed by the client, or empty.
    user_agent       text        NOT NULL,
    authenticated_at timestamptz NOT NULL, -- When the password was last given.
    created_at       timestamptz NOT NULL,
    last_used_at     timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL, -- Absolute; no refresh moves it.
    revoked_at       timestamptz,
    revoked_reason   text        CHECK (revoked_reason IN ('LOGOUT', 'REFRESH_TOKEN_REUSED', 'USER_GONE')),
    CHECK ((revoked_at IS NULL) = (revoked_reason IS NULL))
);

CREATE INDEX sessions_user_id ON auth.sessions (user_id, id DESC);

CREATE TABLE auth.refresh_tokens (
    hash           bytea       PRIMARY KEY CHECK (octet_length(hash) = 32), -- SHA-256; the token itself is nowhere.
    session_id     uuid        NOT NULL REFERENCES auth.sessions ON DELETE CASCADE,
    issued_at      timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    used_at        timestamptz,
    successor_hash bytea       UNIQUE REFERENCES auth.refresh_tokens DEFERRABLE INITIALLY DEFERRED,
    CHECK ((used_at IS NULL) = (successor_hash IS NULL))
);

CREATE INDEX refresh_tokens_session_id ON auth.refresh_tokens (session_id);
