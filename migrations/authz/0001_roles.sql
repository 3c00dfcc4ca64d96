-- Roles, what they permit, and what they inherit.

CREATE TABLE authz.roles (
    name        text        PRIMARY KEY,
    description text        NOT NULL,
    built_in    boolean     NOT NULL, -- Cannot be deleted or emptied.
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL
);

CREATE TABLE authz.role_permissions (
    role       text NOT NULL REFERENCES authz.roles ON DELETE CASCADE,
    permission text NOT NULL, -- `identity.users.read`, or with wildcards in their shortest form: `audit.*.read`, `*`.
    PRIMARY KEY (role, permission)
);

-- A role with others under it cannot be deleted; no cycle is made by the service, which writes under a lock.
CREATE TABLE authz.role_inherits (
    role     text NOT NULL REFERENCES authz.roles ON DELETE CASCADE,
    inherits text NOT NULL REFERENCES authz.roles,
    PRIMARY KEY (role, inherits),
    CHECK (role <> inherits)
);

CREATE INDEX role_inherits_inherits ON authz.role_inherits (inherits);

INSERT INTO authz.roles (name, description, built_in, created_at, updated_at) VALUES
    ('admin',   'May do everything.',                        true, now(), now()),
    ('auditor', 'Reads the audit log.',                      true, now(), now()),
    ('user',    'Nothing beyond what is one''s own.',        true, now(), now());

INSERT INTO authz.role_permissions (role, permission) VALUES
    ('admin',   '*'),
    ('auditor', 'audit.*.read');
