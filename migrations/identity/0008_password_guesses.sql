-- Whoever changes their password shows the present one first. Each time that somebody is about to, this is put three minutes further
-- into the future, and it may not lie further than twelve minutes in it: five tries at once, then one in three minutes.

ALTER TABLE identity.credentials ADD COLUMN guess_until timestamptz; -- NULL once the password was right.
