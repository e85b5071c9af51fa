-- A small app whose keys are readable words: a chain of references, a self-reference, a cycle, a
-- cascade. Uses the scope column that registering adds.
CREATE SCHEMA app;
CREATE TABLE app.users (
    id text PRIMARY KEY,
    name text NOT NULL,
    email text UNIQUE,
    age integer CHECK (age >= 0)
);
CREATE TABLE app.posts (
    id text PRIMARY KEY,
    author_id text NOT NULL REFERENCES app.users DEFERRABLE,
    title text NOT NULL
);
CREATE TABLE app.comments (
    id text PRIMARY KEY,
    post_id text NOT NULL REFERENCES app.posts ON DELETE CASCADE DEFERRABLE,
    body text NOT NULL
);
CREATE TABLE app.categories (
    id text PRIMARY KEY,
    parent_id text REFERENCES app.categories DEFERRABLE,
    name text
);
CREATE TABLE app.teams (id text PRIMARY KEY, name text, captain_id text);
CREATE TABLE app.members (id text PRIMARY KEY, team_id text NOT NULL REFERENCES app.teams DEFERRABLE);
ALTER TABLE app.teams ADD CONSTRAINT teams_captain_id_fkey
    FOREIGN KEY (captain_id) REFERENCES app.members DEFERRABLE;
DO $$
BEGIN
    PERFORM rowsync.register_table(format('app.%I', name)::regclass)
    FROM unnest('{users,posts,comments,categories,teams,members}'::text[]) AS name;
END
$$;
