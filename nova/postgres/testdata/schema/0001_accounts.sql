-- Two statements, a quote, a semicolon; and brackets, on which careless embedding breaks.
CREATE TABLE account (id uuid PRIMARY KEY, tags text[] NOT NULL DEFAULT ARRAY['a;b', '[c]', $$it's$$]);
CREATE INDEX account_tags ON account USING gin (tags);
