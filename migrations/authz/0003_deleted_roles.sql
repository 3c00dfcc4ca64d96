-- When roles were deleted, for as long as a request may still be under way that found one of that name.

CREATE TABLE authz.deleted_roles (
    name       text        PRIMARY KEY,
    deleted_at timestamptz NOT NULL
);
