-- Who may set a new password without the old one.

-- One row per address asked for, whether or not it is an account's: both cost the same work.
CREATE TABLE password_reset_requests (
  -- SHA-256 of the normalised email address.
  subject bytea PRIMARY KEY CHECK (octet_length(subject) = 32),
  requested_at timestamptz NOT NULL
);
CREATE INDEX password_reset_requests_requested_at_idx ON password_reset_requests (requested_at);

CREATE TABLE password_resets (
  id uuid PRIMARY KEY,
  -- Checked at the end of the transaction: for an address without an account the row is written for nobody, to cost the
  -- same, and taken back before.
  account_id uuid NOT NULL REFERENCES accounts (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
  expires_at timestamptz NOT NULL,
  -- SHA-256 of the token's secret; nothing until the token is made for the mail that carries it.
  token_hash bytea CHECK (octet_length(token_hash) = 32)
);
CREATE INDEX password_resets_account_id_idx ON password_resets (account_id);
CREATE INDEX password_resets_expires_at_idx ON password_resets (expires_at);
