-- What nova/events keeps in the database of every service: what the service tells others (outbox), and what it has been
-- told (inbox).
CREATE SCHEMA events;

-- The number of each aggregate's last event. The row is locked from an append to the end of its transaction, so numbers
-- have no gaps and follow the order of commits. It stays when the aggregate is gone: numbers never begin again.
CREATE TABLE events.aggregates (
  aggregate text PRIMARY KEY,
  sequence bigint NOT NULL
) WITH (fillfactor = 70);

CREATE TABLE events.outbox (
  -- Rises with the sequence within an aggregate. Between aggregates a later commit may have a lower position, so nobody
  -- reads the outbox by a position remembered: what is not published is found by published_at.
  position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id uuid NOT NULL UNIQUE,
  aggregate text NOT NULL,
  sequence bigint NOT NULL,
  type text NOT NULL,
  payload bytea NOT NULL,
  trace text NOT NULL,
  occurred_at timestamptz NOT NULL,
  -- The three are set together, when the stream has the event: when, and under which id (<ms>-<seq>).
  published_at timestamptz,
  stream_ms bigint,
  stream_seq bigint,
  UNIQUE (aggregate, sequence),
  CHECK ((published_at IS NULL) = (stream_ms IS NULL) AND (published_at IS NULL) = (stream_seq IS NULL))
);
CREATE INDEX outbox_unpublished ON events.outbox (position) WHERE published_at IS NULL;
-- For a stream that lost its end: which events it lacks.
CREATE INDEX outbox_published ON events.outbox (stream_ms, stream_seq) WHERE published_at IS NOT NULL;

-- The last id that the stream must have; it outlives the rows that retention deletes.
CREATE TABLE events.relay_state (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  stream_ms bigint NOT NULL,
  stream_seq bigint NOT NULL
);
INSERT INTO events.relay_state (stream_ms, stream_seq) VALUES (0, 0);

-- The marks of events that took effect here. Ids are UUIDs of version 7, so the key is in order of time, which is what
-- the purge of old marks goes by.
CREATE TABLE events.inbox (
  event_id uuid PRIMARY KEY,
  producer text NOT NULL,
  received_at timestamptz NOT NULL
);

-- Events that were given up, for people to look at. One that could not be read has an id made from its place in the
-- stream.
CREATE TABLE events.dead_letters (
  event_id uuid PRIMARY KEY,
  producer text NOT NULL,
  stream_id text NOT NULL,
  envelope bytea NOT NULL,
  error_code text NOT NULL,
  error_message text NOT NULL,
  attempts integer NOT NULL,
  given_up_at timestamptz NOT NULL
);
