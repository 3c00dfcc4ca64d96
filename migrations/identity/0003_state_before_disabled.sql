-- Who is enabled again is what they were before.

ALTER TABLE identity.users
    ADD COLUMN state_before_disabled text CHECK (state_before_disabled IN ('ACTIVE', 'UNVERIFIED'));
