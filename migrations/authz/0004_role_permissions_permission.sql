-- Whether any role names a permission is asked without looking at all of them. By `LIKE`, whatever the database's order of texts.

CREATE INDEX role_permissions_permission ON authz.role_permissions (permission text_pattern_ops);
