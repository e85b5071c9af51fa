-- ALTER TABLE and DROP TABLE of registered tables are noticed by event triggers.

CREATE OR REPLACE FUNCTION rowsync._follow_table(relid oid) RETURNS void
    LANGUAGE C VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'rowsync_follow_table';
COMMENT ON FUNCTION rowsync._follow_table(oid) IS
'After ALTER TABLE: refuses with RS005 what can no longer sync, else brings rowsync.synced_table up to date';

CREATE OR REPLACE FUNCTION rowsync._forget_table(relid oid) RETURNS void
    LANGUAGE C VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'rowsync_forget_table';
COMMENT ON FUNCTION rowsync._forget_table(oid) IS 'After DROP TABLE: removes what is known of the table and its rows';

CREATE OR REPLACE FUNCTION rowsync._on_alter() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM rowsync._follow_table(changed.objid)
       FROM (SELECT DISTINCT c.objid
               FROM pg_catalog.pg_event_trigger_ddl_commands() AS c
              WHERE c.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass) AS changed
       JOIN rowsync.synced_table AS t ON t.relid OPERATOR(pg_catalog.=) changed.objid;
END
$$;
COMMENT ON FUNCTION rowsync._on_alter() IS 'Event trigger: follows ALTER TABLE of registered tables';

CREATE OR REPLACE FUNCTION rowsync._on_drop() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM rowsync._forget_table(dropped.objid)
       FROM pg_catalog.pg_event_trigger_dropped_objects() AS dropped
       JOIN rowsync.synced_table AS t ON t.relid OPERATOR(pg_catalog.=) dropped.objid
      WHERE dropped.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
        AND dropped.objsubid OPERATOR(pg_catalog.=) 0;
END
$$;
COMMENT ON FUNCTION rowsync._on_drop() IS 'Event trigger: follows DROP TABLE of registered tables';
