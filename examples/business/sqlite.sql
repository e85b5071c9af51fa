-- The example schema on a device: the same tables as postgres.sql, as SQLite has them. The names of
-- tables and columns are those of the server; a uuid is a TEXT, or a 16-byte BLOB where the column
-- says so (files, file_reviews). Foreign keys wait for the end of the transaction, so that a post
-- may be written before its author.
--     sqlite3 app.db < examples/business/sqlite.sql

CREATE TABLE users (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    email TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL DEFAULT 0,
    updated_at INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE posts (
    id TEXT PRIMARY KEY NOT NULL,
    author_id TEXT NOT NULL REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED,
    title TEXT NOT NULL,
    content TEXT NOT NULL DEFAULT '',
    created_at INTEGER NOT NULL DEFAULT 0,
    updated_at INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX posts_author ON posts (author_id);

CREATE TABLE categories (
    id TEXT PRIMARY KEY NOT NULL,
    parent_id TEXT REFERENCES categories (id) DEFERRABLE INITIALLY DEFERRED,
    name TEXT NOT NULL
);

CREATE TABLE teams (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    captain_id TEXT REFERENCES team_members (id) DEFERRABLE INITIALLY DEFERRED
);

CREATE TABLE team_members (
    id TEXT PRIMARY KEY NOT NULL,
    team_id TEXT NOT NULL REFERENCES teams (id) DEFERRABLE INITIALLY DEFERRED,
    name TEXT NOT NULL
);

CREATE TABLE files (
    id BLOB PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    data BLOB NOT NULL
);

CREATE TABLE file_reviews (
    id BLOB PRIMARY KEY NOT NULL,
    file_id BLOB NOT NULL REFERENCES files (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    review TEXT NOT NULL
);
