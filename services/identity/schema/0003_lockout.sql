-- Failed log-ins in a row. Nothing here says whether an account exists: whoever is named is counted.

CREATE TABLE login_attempts (
  -- SHA-256 of what is counted: an identifier, a device, a session.
  subject bytea PRIMARY KEY CHECK (octet_length(subject) = 32),
  failures integer NOT NULL,
  -- No attempt is looked at before.
  locked_until timestamptz,
  last_at timestamptz NOT NULL
);
CREATE INDEX login_attempts_last_at_idx ON login_attempts (last_at);

-- Devices that have logged in before and hold a token that says so. Their attempts are counted apart.
CREATE TABLE devices (
  id uuid PRIMARY KEY,
  account_id uuid NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  -- SHA-256 of the token's secret.
  token_hash bytea NOT NULL CHECK (octet_length(token_hash) = 32),
  created_at timestamptz NOT NULL,
  last_used_at timestamptz NOT NULL
);
CREATE INDEX devices_account_id_idx ON devices (account_id, last_used_at);
CREATE INDEX devices_last_used_at_idx ON devices (last_used_at);
