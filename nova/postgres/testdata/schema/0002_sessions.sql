CREATE TABLE session (id uuid PRIMARY KEY, account uuid NOT NULL REFERENCES account, note text DEFAULT 'back\slash');
