-- PUBLIC may use nothing. Three functions give a role what its work needs, and no more.

CREATE OR REPLACE FUNCTION rowsync._grant(role_name regrole, functions regprocedure[]) RETURNS void
    LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA rowsync TO %s', role_name);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', array_to_string(functions, ', '), role_name);
END
$$;
COMMENT ON FUNCTION rowsync._grant(regrole, regprocedure[]) IS 'Lets a role enter the schema and call these functions';

CREATE OR REPLACE FUNCTION rowsync.grant_gateway(gateway_role regrole) RETURNS void
    LANGUAGE sql VOLATILE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT rowsync._grant(gateway_role, ARRAY[
        'rowsync.upload(text, text, text)',
        'rowsync.download(text, text, bigint, integer, bigint, boolean, text)',
        'rowsync.snapshot(text, text)', 'rowsync.digest(text, bigint)', 'rowsync.heads(text[])',
        'rowsync.schema()', 'rowsync.schema_version()']::regprocedure[])
$$;
COMMENT ON FUNCTION rowsync.grant_gateway(regrole) IS
'Lets a role call what the gateway calls, and nothing else. Rights on the business tables are granted by you, as for any application role.';

CREATE OR REPLACE FUNCTION rowsync.grant_registrar(owner_role regrole) RETURNS void
    LANGUAGE sql VOLATILE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT rowsync._grant(owner_role, ARRAY[
        'rowsync.register_table(regclass, name)', 'rowsync.unregister_table(regclass)',
        'rowsync._capture()', 'rowsync._capture_truncate()']::regprocedure[])
$$;
COMMENT ON FUNCTION rowsync.grant_registrar(regrole) IS
'Lets a role register and unregister the tables that it owns.';

CREATE OR REPLACE FUNCTION rowsync.grant_operator(operator_role regrole) RETURNS void
    LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM rowsync._grant(operator_role, ARRAY[
        'rowsync.verify(text)', 'rowsync.problem_kinds()', 'rowsync.prune(interval, interval, text)',
        'rowsync.declare_restored(text, timestamptz)', 'rowsync.row_history(regclass, text)',
        'rowsync.forget_source(text, text)', 'rowsync.restore_row(regclass, text, bigint, text)', 'rowsync._row_history(regclass, bytea)',
        'rowsync._kept_version(regclass, text, bigint, text)',
        'rowsync._write_row(regclass, text, text, boolean)', 'rowsync._parse_key(regclass, text)',
        'rowsync._key_text(integer, bytea)', 'rowsync.schema()', 'rowsync.schema_version()']::regprocedure[]);
    EXECUTE format('GRANT SELECT ON rowsync.change, rowsync.row_version, rowsync.source_lag, '
                   'rowsync.scope_status, rowsync.refusal_count, rowsync.table_status TO %s', operator_role);
    -- To prune them one by one; scope_status would count the rows of each.
    EXECUTE format('GRANT SELECT (name) ON rowsync.scope TO %s', operator_role);
END
$$;
COMMENT ON FUNCTION rowsync.grant_operator(regrole) IS
'Lets a role look after rowsync: the views, verify, prune, forget_source, declare_restored, row_history and restore_row. It then sees the history of every row of every user; restore_row writes with the role''s own rights on the table.';

-- In an update this also tells every session that knows the registered tables to look at them again: it
-- then sees that its library and the SQL objects are of different versions.
REVOKE ALL ON ALL TABLES IN SCHEMA rowsync FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rowsync FROM PUBLIC;
