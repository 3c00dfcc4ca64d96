-- The keys that sign access tokens. The private halves are sealed under a key that is not in this database.

CREATE TABLE auth.signing_keys (
    id           text        PRIMARY KEY, -- RFC 7638 thumbprint; the `kid` of tokens.
    public_key   bytea       NOT NULL CHECK (octet_length(public_key) = 32),
    sealed_seed  bytea       NOT NULL, -- AES-256-GCM: 12 bytes of nonce, 32 of seed, 16 of tag; the id is bound to it.
    created_at   timestamptz NOT NULL,
    activates_at timestamptz NOT NULL, -- Signs from here on, unless a later key does.
    retires_at   timestamptz           -- No longer published from here on.
);
