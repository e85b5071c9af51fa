-- One row for every key a scope ever had: the version of a live row, or a tombstone. The key
-- begins with the scope, so that one user's rows lie together. Updates touch no indexed column. place
-- saves a snapshot the way through the index of the log; it is a hint and may be wrong, after a
-- restore for example.
CREATE TABLE rowsync.row_meta (
    scope_id bigint  NOT NULL,
    version  bigint  NOT NULL,
    table_id integer NOT NULL,
    deleted  boolean NOT NULL,
    row_key  bytea   NOT NULL,
    place    tid,
    CONSTRAINT row_meta_pkey PRIMARY KEY (scope_id, table_id, row_key)
) WITH (fillfactor = 80);

COMMENT ON TABLE rowsync.row_meta IS 'Version of every row, tombstones included';
COMMENT ON COLUMN rowsync.row_meta.scope_id IS 'Whose';
COMMENT ON COLUMN rowsync.row_meta.table_id IS 'Of which table';
COMMENT ON COLUMN rowsync.row_meta.deleted IS 'True for a tombstone';
COMMENT ON COLUMN rowsync.row_meta.version IS 'seq of the latest change of the row';
COMMENT ON COLUMN rowsync.row_meta.row_key IS 'uuid: 16 bytes; integers: 8 bytes big-endian; text: its bytes; else a JSON array';
COMMENT ON COLUMN rowsync.row_meta.place IS 'Where in the change log that change was written to; a hint';
