CREATE TABLE rowsync.synced_table (
    table_id       integer  GENERATED ALWAYS AS IDENTITY,
    relid          regclass NOT NULL,
    upsert_order   integer  NOT NULL,
    schema_version integer  NOT NULL DEFAULT 1,
    scope_added    boolean  NOT NULL,
    scope_column   name     NOT NULL,
    key_format     text     NOT NULL,
    key_columns    name[]   NOT NULL,
    columns        text[]   NOT NULL,
    CONSTRAINT synced_table_pkey PRIMARY KEY (table_id),
    CONSTRAINT synced_table_relid_key UNIQUE (relid)
);

COMMENT ON TABLE rowsync.synced_table IS 'Registered tables';
COMMENT ON COLUMN rowsync.synced_table.table_id IS 'Short name of the table in the other tables; never given again';
COMMENT ON COLUMN rowsync.synced_table.relid IS 'The table';
COMMENT ON COLUMN rowsync.synced_table.scope_column IS 'Holds each row''s user';
COMMENT ON COLUMN rowsync.synced_table.key_columns IS 'The primary key';
COMMENT ON COLUMN rowsync.synced_table.upsert_order IS 'Parents first; tables of one reference cycle share a number';
COMMENT ON COLUMN rowsync.synced_table.schema_version IS 'The schema version in which its columns last changed';
COMMENT ON COLUMN rowsync.synced_table.key_format IS 'How keys are packed into row_key; fixed while the table is registered';
COMMENT ON COLUMN rowsync.synced_table.columns IS 'The columns that travel, each with its type, as devices last saw them';
COMMENT ON COLUMN rowsync.synced_table.scope_added IS 'True where registering added the scope column';

-- The schema version is the highest one here, or 1.
CREATE TABLE rowsync.schema_change (
    version    integer     NOT NULL,
    ts         timestamptz NOT NULL,
    table_name text        NOT NULL,
    columns    text[]      NOT NULL,
    CONSTRAINT schema_change_pkey PRIMARY KEY (version)
);

COMMENT ON TABLE rowsync.schema_change IS 'Every change of the columns that travel, one for each schema version after the first; also that a table syncs no more';
COMMENT ON COLUMN rowsync.schema_change.version IS 'The schema version that begins with it';
COMMENT ON COLUMN rowsync.schema_change.ts IS 'When';
COMMENT ON COLUMN rowsync.schema_change.table_name IS 'The table that changed';
COMMENT ON COLUMN rowsync.schema_change.columns IS 'The columns that travel since then, each with its type; none: it syncs no more';
