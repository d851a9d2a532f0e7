-- Profiles and settings. A user's id is the id of the account, so no two accounts share a row and no row is made twice.

CREATE TABLE users (
  id uuid PRIMARY KEY,
  -- As identity stored it, in NFKC_Casefold, so that all spellings of one name meet here.
  username text CONSTRAINT users_username_key UNIQUE CHECK (octet_length(username) <= 30),
  display_name text NOT NULL CHECK (char_length(display_name) <= 50),
  bio text NOT NULL DEFAULT '' CHECK (char_length(bio) <= 500),
  location text NOT NULL DEFAULT '' CHECK (char_length(location) <= 100),
  website text NOT NULL DEFAULT '' CHECK (char_length(website) <= 200),
  -- The UUID of a medium as text; empty: none.
  avatar text NOT NULL DEFAULT '' CHECK (octet_length(avatar) IN (0, 36)),
  -- Settings of the user that decide what others see; the rest stands in user_settings.
  is_private boolean NOT NULL DEFAULT false,
  discoverable boolean NOT NULL DEFAULT true,
  verified_at timestamptz,
  banned_at timestamptz,
  ban_reason text NOT NULL DEFAULT '' CHECK (char_length(ban_reason) <= 500),
  -- The row of a deleted user stays, so that an event that comes again makes no profile of it; the person goes.
  deleted_at timestamptz,
  version bigint NOT NULL CHECK (version > 0),
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  CONSTRAINT users_tombstone_check CHECK (
    CASE WHEN deleted_at IS NULL THEN username IS NOT NULL
    ELSE username IS NULL AND display_name = '' AND bio = '' AND location = '' AND website = '' AND avatar = ''
      AND verified_at IS NULL AND banned_at IS NULL AND ban_reason = '' END)
);

CREATE TABLE user_settings (
  user_id uuid PRIMARY KEY REFERENCES users (id),
  language text NOT NULL CHECK (octet_length(language) <= 35),
  time_zone text NOT NULL CHECK (octet_length(time_zone) <= 64),
  allow_messages_from text NOT NULL CHECK (allow_messages_from IN ('everyone', 'followers', 'nobody')),
  email_notifications boolean NOT NULL,
  push_notifications boolean NOT NULL,
  version bigint NOT NULL CHECK (version > 0),
  updated_at timestamptz NOT NULL
);
