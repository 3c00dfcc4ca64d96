-- Groups of users, and the roles that their members have by them.

CREATE TABLE identity.groups (
    id              uuid        PRIMARY KEY, -- UUIDv7: its order is the order of creation.
    name            text        NOT NULL,
    name_normalised text        NOT NULL CONSTRAINT groups_name_normalised_key UNIQUE,
    description     text        NOT NULL,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL
);

CREATE TABLE identity.group_members (
    group_id uuid        NOT NULL REFERENCES identity.groups ON DELETE CASCADE,
    user_id  uuid        NOT NULL REFERENCES identity.users ON DELETE CASCADE,
    added_at timestamptz NOT NULL,
    PRIMARY KEY (group_id, user_id)
);

CREATE INDEX group_members_user_id ON identity.group_members (user_id);

CREATE TABLE identity.group_roles (
    group_id   uuid        NOT NULL REFERENCES identity.groups ON DELETE CASCADE,
    role       text        NOT NULL,
    granted_at timestamptz NOT NULL,
    PRIMARY KEY (group_id, role)
);

CREATE INDEX group_roles_role ON identity.group_roles (role);
