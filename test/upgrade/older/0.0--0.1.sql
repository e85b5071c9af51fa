-- The step that brings the made-up version 0.0 of catalog.py to the present: what a step is for, one of
-- each kind.
DROP FUNCTION rowsync.obsolete();
DROP FUNCTION rowsync.verify(text);
DROP VIEW rowsync.source_lag;
ALTER TABLE rowsync.scope SET (fillfactor = 50);
ALTER TABLE rowsync.scope ALTER COLUMN epoch SET DEFAULT 1;
ALTER TABLE rowsync.source DROP CONSTRAINT source_no_positive;
ALTER TABLE rowsync.schema_change ALTER COLUMN columns SET NOT NULL;
DROP INDEX rowsync.change_log_ts_idx;
COMMENT ON COLUMN rowsync.change_log.op IS 'I, U or D';
SELECT pg_catalog.pg_extension_config_dump('rowsync.schema_change', '');
CREATE EVENT TRIGGER _rowsync_drop ON sql_drop EXECUTE FUNCTION rowsync._on_drop();
