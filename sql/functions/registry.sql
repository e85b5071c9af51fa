CREATE OR REPLACE FUNCTION rowsync._capture() RETURNS trigger
    LANGUAGE C AS 'MODULE_PATHNAME', 'rowsync_capture';
COMMENT ON FUNCTION rowsync._capture() IS 'Trigger of every registered table: puts each change of a row into the change log at commit';

CREATE OR REPLACE FUNCTION rowsync._capture_truncate() RETURNS trigger
    LANGUAGE C AS 'MODULE_PATHNAME', 'rowsync_capture_truncate';
COMMENT ON FUNCTION rowsync._capture_truncate() IS 'Trigger of every registered table: TRUNCATE reaches the devices as the deletion of every row';

CREATE OR REPLACE FUNCTION rowsync.register_table(table_name regclass, scope_column name DEFAULT NULL)
    RETURNS integer
    LANGUAGE C VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'rowsync_register_table';
COMMENT ON FUNCTION rowsync.register_table(regclass, name) IS
'Lets a table sync and returns its table_id. table_name: an ordinary table with a primary key, owned by the caller. '
'scope_column: the column that holds each row''s scope (user); NULL adds a column _rowsync_scope that defaults to the setting rowsync.scope. '
'Rows that are there already enter the change log. Refuses with RS005 what it cannot sync, and says what to change.';

CREATE OR REPLACE FUNCTION rowsync.unregister_table(table_name regclass)
    RETURNS void
    LANGUAGE C VOLATILE STRICT SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'rowsync_unregister_table';
COMMENT ON FUNCTION rowsync.unregister_table(regclass) IS
'Stops syncing a table: removes the triggers and the versions of its rows; the rows, the scope column and the change log stay. RS006 if it is not registered.';

CREATE OR REPLACE FUNCTION rowsync.schema_version() RETURNS integer
    LANGUAGE C STABLE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'rowsync_schema_version';
COMMENT ON FUNCTION rowsync.schema_version() IS 'Grows whenever the columns that travel change';

CREATE OR REPLACE FUNCTION rowsync.schema() RETURNS text
    LANGUAGE C STABLE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'rowsync_schema';
COMMENT ON FUNCTION rowsync.schema() IS
'The registered tables as the JSON body of GET /sync/schema: columns with their PostgreSQL and SQLite types, keys, references and unique constraints; parents first';
