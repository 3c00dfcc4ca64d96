-- Pruning deletes refresh tokens from the oldest on, which the references of one to its successor would forbid. The hash of the
-- successor stays unique; both are written in one transaction.

ALTER TABLE auth.refresh_tokens DROP CONSTRAINT refresh_tokens_successor_hash_fkey;

CREATE INDEX refresh_tokens_expires_at ON auth.refresh_tokens (expires_at);
CREATE INDEX sessions_expires_at ON auth.sessions (expires_at);
CREATE INDEX sessions_revoked_at ON auth.sessions (revoked_at) WHERE revoked_at IS NOT NULL;
