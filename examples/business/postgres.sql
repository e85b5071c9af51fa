-- The example schema on the server: small, but with every shape of reference that syncing has to
-- order. A chain (posts need users), a self-reference (categories), a cycle (a team has a captain,
-- who is a member of a team), binary data, and a cascade.
--
-- Its twin for devices is sqlite.sql. Run it once, as a role that may create extensions:
--     psql -f examples/business/postgres.sql

BEGIN;

CREATE EXTENSION IF NOT EXISTS rowsync;

CREATE SCHEMA business;

CREATE TABLE business.users (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL UNIQUE,
    created_at bigint NOT NULL DEFAULT 0,
    updated_at bigint NOT NULL DEFAULT 0
);

CREATE TABLE business.posts (
    id uuid PRIMARY KEY,
    author_id uuid NOT NULL REFERENCES business.users DEFERRABLE,
    title text NOT NULL,
    content text NOT NULL DEFAULT '',
    created_at bigint NOT NULL DEFAULT 0,
    updated_at bigint NOT NULL DEFAULT 0
);
CREATE INDEX ON business.posts (author_id);

CREATE TABLE business.categories (
    id uuid PRIMARY KEY,
    parent_id uuid REFERENCES business.categories DEFERRABLE,
    name text NOT NULL
);
CREATE INDEX ON business.categories (parent_id);

CREATE TABLE business.teams (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    captain_id uuid
);
CREATE TABLE business.team_members (
    id uuid PRIMARY KEY,
    team_id uuid NOT NULL REFERENCES business.teams DEFERRABLE,
    name text NOT NULL
);
ALTER TABLE business.teams
    ADD FOREIGN KEY (captain_id) REFERENCES business.team_members DEFERRABLE;
CREATE INDEX ON business.teams (captain_id);
CREATE INDEX ON business.team_members (team_id);

CREATE TABLE business.files (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    data bytea NOT NULL
);
CREATE TABLE business.file_reviews (
    id uuid PRIMARY KEY,
    file_id uuid NOT NULL REFERENCES business.files ON DELETE CASCADE DEFERRABLE,
    review text NOT NULL
);
CREATE INDEX ON business.file_reviews (file_id);

-- From here on every write to these tables is synchronised, whoever makes it.
SELECT rowsync.register_table('business.users');
SELECT rowsync.register_table('business.posts');
SELECT rowsync.register_table('business.categories');
SELECT rowsync.register_table('business.teams');
SELECT rowsync.register_table('business.team_members');
SELECT rowsync.register_table('business.files');
SELECT rowsync.register_table('business.file_reviews');

-- The role the gateway connects as: it may call rowsync's functions, and write these tables as any
-- application would. Give it a password, or a line in pg_hba.conf, before you connect over a network.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'business_gateway') THEN
        CREATE ROLE business_gateway LOGIN;
    END IF;
END
$$;
SELECT rowsync.grant_gateway('business_gateway');
GRANT USAGE ON SCHEMA business TO business_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA business TO business_gateway;

COMMIT;
