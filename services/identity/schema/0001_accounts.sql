-- Accounts and the sessions opened for them. Ids are UUIDs of version 7, made by the service.

CREATE TABLE accounts (
  id uuid PRIMARY KEY,
  -- Both as the service normalises them (NFKC_Casefold), so that two spellings of one name meet here.
  email text NOT NULL CONSTRAINT accounts_email_key UNIQUE CHECK (octet_length(email) <= 254),
  username text NOT NULL CONSTRAINT accounts_username_key UNIQUE CHECK (octet_length(username) <= 30),
  -- argon2id in its own text form, with salt and parameters.
  password_hash text NOT NULL,
  created_at timestamptz NOT NULL,
  -- The idempotency key of the request that made the account, and the SHA-256 of what it asked for. The password is no
  -- part of it: a plain hash could be guessed faster than argon2id allows.
  registration_key uuid NOT NULL CONSTRAINT accounts_registration_key_key UNIQUE,
  registration_fingerprint bytea NOT NULL CHECK (octet_length(registration_fingerprint) = 32)
);

-- One row per log-in; access tokens name it in their claim `sid`.
CREATE TABLE sessions (
  id uuid PRIMARY KEY,
  account_id uuid NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  created_at timestamptz NOT NULL
);
CREATE INDEX sessions_account_id_idx ON sessions (account_id);
