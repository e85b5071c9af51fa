-- PUBLIC may use nothing. rowsync.grant_gateway gives a role what the gateway needs and no more.
CREATE FUNCTION rowsync.grant_gateway(gateway_role regrole)
    RETURNS void
    LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA rowsync TO %s', gateway_role);
    EXECUTE pg_catalog.format(
        'GRANT EXECUTE ON FUNCTION rowsync.upload(text, text, text), '
        'rowsync.download(text, text, bigint, integer, bigint, boolean, text), '
        'rowsync.snapshot(text, text), rowsync.digest(text, bigint), rowsync.heads(text[]), '
        'rowsync.schema(), rowsync.schema_version() TO %s', gateway_role);
END
$$;
COMMENT ON FUNCTION rowsync.grant_gateway(regrole) IS
'Lets a role call what the gateway calls, and nothing else. Rights on the business tables are granted by you, as for any application role.';

CREATE FUNCTION rowsync.grant_registrar(owner_role regrole)
    RETURNS void
    LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA rowsync TO %s', owner_role);
    EXECUTE pg_catalog.format(
        'GRANT EXECUTE ON FUNCTION rowsync.register_table(regclass, name), '
        'rowsync.unregister_table(regclass), rowsync._capture(), rowsync._capture_truncate() TO %s',
        owner_role);
END
$$;
COMMENT ON FUNCTION rowsync.grant_registrar(regrole) IS
'Lets a role register and unregister the tables that it owns.';

REVOKE ALL ON ALL TABLES IN SCHEMA rowsync FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rowsync FROM PUBLIC;
