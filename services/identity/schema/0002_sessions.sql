-- Sessions that can be refreshed, listed and revoked; accounts that can be suspended. All new columns have defaults, so
-- that the binary before this one still runs.

ALTER TABLE accounts
  -- Counts changes of the password; a stronger hash of the same password is none.
  ADD COLUMN password_version integer NOT NULL DEFAULT 0,
  ADD COLUMN suspended_at timestamptz,
  -- Whether an event has told the other services about the account.
  ADD COLUMN announced boolean NOT NULL DEFAULT false;
CREATE INDEX accounts_unannounced_idx ON accounts (id) WHERE NOT announced;

-- A session is one family of refresh tokens: each is spent for its successor. Sessions from before this migration have
-- no refresh token; they are listed and revoked like the others, and end by expires_at.
ALTER TABLE sessions
  ADD COLUMN device_name text NOT NULL DEFAULT '' CHECK (char_length(device_name) <= 100),
  -- The device that logged in, from which devices are told apart when the password changes. It may be gone.
  ADD COLUMN device_id uuid,
  ADD COLUMN last_used_at timestamptz NOT NULL DEFAULT now(),
  ADD COLUMN expires_at timestamptz NOT NULL DEFAULT now() + interval '30 days',
  ADD COLUMN revoked_at timestamptz,
  ADD COLUMN revoked_reason text,
  -- Authenticates every token of the family, so that only tokens once issued can count as stolen.
  ADD COLUMN family_key bytea CHECK (octet_length(family_key) = 32),
  -- Which successor of the family's first token is current.
  ADD COLUMN generation integer NOT NULL DEFAULT 0,
  -- SHA-256 of the secret of the current token, and of the one before it.
  ADD COLUMN current_hash bytea CHECK (octet_length(current_hash) = 32),
  ADD COLUMN previous_hash bytea CHECK (octet_length(previous_hash) = 32),
  -- Makes the current secret of the one before it. Neither this row nor the old token alone yields the current one.
  ADD COLUMN successor_salt bytea CHECK (octet_length(successor_salt) = 32),
  ADD COLUMN rotated_at timestamptz,
  ADD CHECK ((revoked_at IS NULL) = (revoked_reason IS NULL)),
  ADD CHECK ((family_key IS NULL) = (current_hash IS NULL)),
  ADD CHECK ((generation = 0) = (previous_hash IS NULL)
             AND (previous_hash IS NULL) = (successor_salt IS NULL)
             AND (previous_hash IS NULL) = (rotated_at IS NULL));

DROP INDEX sessions_account_id_idx;
CREATE INDEX sessions_account_id_id_idx ON sessions (account_id, id);
-- For the purge of dead ones.
CREATE INDEX sessions_end_idx ON sessions ((LEAST(revoked_at, expires_at)));
