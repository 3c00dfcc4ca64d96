-- Users, what they sign in with, and the roles they hold.

CREATE TABLE identity.users (
    id               uuid        PRIMARY KEY, -- UUIDv7: its order is the order of creation.
    email            text        NOT NULL,    -- As given.
    email_normalised text        NOT NULL CONSTRAINT users_email_normalised_key UNIQUE,
    display_name     text        NOT NULL,
    state            text        NOT NULL CHECK (state IN ('ACTIVE', 'UNVERIFIED', 'DISABLED')),
    email_verified   boolean     NOT NULL,
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL
);

CREATE INDEX users_state_id ON identity.users (state, id DESC);

CREATE TABLE identity.credentials (
    user_id       uuid        PRIMARY KEY REFERENCES identity.users ON DELETE CASCADE,
    password_hash text        NOT NULL, -- PHC string; says with which parameters it was made.
    updated_at    timestamptz NOT NULL
);

CREATE TABLE identity.user_roles (
    user_id    uuid        NOT NULL REFERENCES identity.users ON DELETE CASCADE,
    role       text        NOT NULL,
    granted_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, role)
);

CREATE INDEX user_roles_role ON identity.user_roles (role);
