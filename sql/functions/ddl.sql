-- ALTER TABLE and DROP TABLE of registered tables are noticed by event triggers.

CREATE OR REPLACE FUNCTION rowsync._follow_table(relid oid) RETURNS void
    LANGUAGE C VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'rowsync_follow_table';
COMMENT ON FUNCTION rowsync._follow_table(oid) IS
'After ALTER TABLE: refuses with RS005 what can no longer sync, else brings rowsync.synced_table up to date';

CREATE OR REPLACE FUNCTION rowsync._forget_table(relid oid, table_name text) RETURNS void
    LANGUAGE C VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'rowsync_forget_table';
COMMENT ON FUNCTION rowsync._forget_table(oid, text) IS 'After DROP TABLE: removes what is known of the table and its rows';

CREATE OR REPLACE FUNCTION rowsync._on_alter() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    -- What happens to a partition, happens to its table.
    PERFORM rowsync._follow_table(changed.relid)
       FROM (SELECT DISTINCT coalesce(pg_catalog.pg_partition_root(c.objid), c.objid) AS relid
               FROM pg_catalog.pg_event_trigger_ddl_commands() AS c
              WHERE c.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass) AS changed
       JOIN rowsync.synced_table AS t ON t.relid OPERATOR(pg_catalog.=) changed.relid;
END
$$;
COMMENT ON FUNCTION rowsync._on_alter() IS 'Event trigger: follows ALTER TABLE of registered tables, and partitions that come and go';

CREATE OR REPLACE FUNCTION rowsync._on_drop() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    partition text;
BEGIN
    -- A partition that is dropped alone has the trigger of a table that stays. Its rows are gone already.
    SELECT pg_catalog.min(d.object_identity) INTO partition
      FROM pg_catalog.pg_event_trigger_dropped_objects() AS d
      JOIN pg_catalog.pg_event_trigger_dropped_objects() AS g
        ON g.object_type OPERATOR(pg_catalog.=) 'trigger'
       AND g.address_names OPERATOR(pg_catalog.=) (d.address_names OPERATOR(pg_catalog.||) '_rowsync_truncate'::pg_catalog.text)
     WHERE d.object_type OPERATOR(pg_catalog.=) 'table'
       AND pg_catalog.current_setting('check_function_bodies') OPERATOR(pg_catalog.=) 'on'
    HAVING NOT pg_catalog.bool_or(EXISTS (SELECT FROM rowsync.synced_table AS t WHERE t.relid OPERATOR(pg_catalog.=) d.objid));
    IF partition IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'RS005',
            MESSAGE = pg_catalog.format('%s is a partition of a table that syncs: dropped, its rows would stay on the devices', partition),
            HINT = 'Run ALTER TABLE ... DETACH PARTITION first: that deletes them there.';
    END IF;
    PERFORM rowsync._forget_table(dropped.objid, dropped.object_identity)
       FROM pg_catalog.pg_event_trigger_dropped_objects() AS dropped
       JOIN rowsync.synced_table AS t ON t.relid OPERATOR(pg_catalog.=) dropped.objid
      WHERE dropped.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
        AND dropped.objsubid OPERATOR(pg_catalog.=) 0;
END
$$;
COMMENT ON FUNCTION rowsync._on_drop() IS 'Event trigger: follows DROP TABLE of registered tables';
