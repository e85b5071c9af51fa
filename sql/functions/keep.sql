-- Keeping: prune, verify, history.

CREATE FUNCTION rowsync._parse_key(table_name regclass, key text) RETURNS bytea
    LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'rowsync_parse_key';
COMMENT ON FUNCTION rowsync._parse_key(regclass, text) IS 'A pk as devices know it, packed; for several columns a JSON array';

CREATE FUNCTION rowsync._stored_rows(table_name regclass)
    RETURNS TABLE (scope text, row_key bytea, payload text)
    LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'rowsync_stored_rows';
COMMENT ON FUNCTION rowsync._stored_rows(regclass) IS 'The rows of a registered table as the change log would keep them now';

CREATE FUNCTION rowsync._write_row(table_name regclass, scope text, payload text, live boolean)
    RETURNS void
    LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'rowsync_write_row';
COMMENT ON FUNCTION rowsync._write_row(regclass, text, text, boolean) IS 'Writes a row as a payload has it, with the rights of the caller';

CREATE FUNCTION rowsync.prune(keep interval DEFAULT '30 days', give_up interval DEFAULT '90 days',
                              user_id text DEFAULT NULL)
    RETURNS TABLE (scope text, floor bigint, removed_changes bigint, removed_tombstones bigint)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    s rowsync.scope;
    horizon bigint;
BEGIN
    IF keep IS NULL OR give_up IS NULL OR keep < interval '0' OR give_up < interval '0' THEN
        RAISE EXCEPTION 'keep and give_up must not be null or negative' USING ERRCODE = 'RS002';
    END IF;
    FOR s IN SELECT c.* FROM rowsync.scope AS c
              WHERE prune.user_id IS NULL OR c.name = prune.user_id ORDER BY c.scope_id
    LOOP
        -- Uploads of this scope wait from here on, so that a tombstone cannot come alive meanwhile.
        SELECT c.* INTO s FROM rowsync.scope AS c WHERE c.scope_id = s.scope_id FOR NO KEY UPDATE;

        -- Old enough, and read by every source that is not yet given up. No such source: least()
        -- passes over the null.
        SELECT l.seq INTO horizon FROM rowsync.change_log AS l
         WHERE l.scope_id = s.scope_id AND l.ts < clock_timestamp() - keep
         ORDER BY l.seq DESC LIMIT 1;
        CONTINUE WHEN horizon IS NULL;
        SELECT least(horizon, min(d.last_download)) INTO horizon FROM rowsync.source AS d
         WHERE d.scope_id = s.scope_id AND d.last_seen >= clock_timestamp() - give_up;
        CONTINUE WHEN horizon <= s.floor;

        -- What goes: a change that another one up to the horizon supersedes, and a tombstone. So the
        -- state at the horizon, and at every later number, can still be told. The sources' numbers
        -- are remembered: sent again, these changes must have no second effect.
        WITH old AS (
            SELECT l.seq, l.source_no, l.source_change_id, l.table_id, l.row_key,
                   lead(l.seq) OVER (PARTITION BY l.table_id, l.row_key ORDER BY l.seq) AS next
              FROM rowsync.change_log AS l
             WHERE l.scope_id = s.scope_id AND l.seq <= horizon
        ), going AS (
            SELECT o.seq, o.source_no, o.source_change_id
              FROM old AS o
              LEFT JOIN rowsync.row_meta AS m
                ON m.scope_id = s.scope_id AND m.table_id = o.table_id AND m.row_key = o.row_key
             WHERE o.next IS NOT NULL OR (m.deleted AND m.version = o.seq)
        ), remembered AS (
            UPDATE rowsync.source AS d
               SET pruned_change_ids = d.pruned_change_ids + g.ids
              FROM (SELECT w.source_no,
                           range_agg(int8range(w.source_change_id, w.source_change_id, '[]')) AS ids
                      FROM going AS w WHERE w.source_no > 0 GROUP BY w.source_no) AS g
             WHERE d.scope_id = s.scope_id AND d.source_no = g.source_no
        )
        DELETE FROM rowsync.change_log AS l USING going AS g
         WHERE l.scope_id = s.scope_id AND l.seq = g.seq;
        GET DIAGNOSTICS removed_changes = ROW_COUNT;
        -- Changes of tables that sync no more have no version.
        DELETE FROM rowsync.change_log AS l
         WHERE l.scope_id = s.scope_id AND l.seq <= horizon
           AND NOT EXISTS (SELECT FROM rowsync.synced_table AS t WHERE t.table_id = l.table_id);
        DELETE FROM rowsync.row_meta AS m
         WHERE m.scope_id = s.scope_id AND m.deleted AND m.version <= horizon;
        GET DIAGNOSTICS removed_tombstones = ROW_COUNT;
        UPDATE rowsync.scope AS c SET floor = horizon WHERE c.scope_id = s.scope_id;

        scope := s.name;
        floor := horizon;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rowsync.prune(interval, interval, text) IS
'Removes superseded changes and tombstones that are older than keep and that every source seen within give_up has read; a source not seen for so long must hydrate again. Keeps the latest change of every live row. user_id: that user''s scope alone. Returns a line for each scope that it moved: run it daily. Its locks last until the end of the transaction.';

CREATE FUNCTION rowsync.declare_restored(user_id text DEFAULT NULL)
    RETURNS bigint
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    WITH moved AS (
        UPDATE rowsync.scope AS s SET epoch = s.epoch + 1
         WHERE declare_restored.user_id IS NULL OR s.name = declare_restored.user_id
        RETURNING 1)
    SELECT count(*) FROM moved
$$;
COMMENT ON FUNCTION rowsync.declare_restored(text) IS
'After restoring a backup: bumps the epoch of all scopes (or of one user''s), so that devices that are ahead of the server notice and bring back what it lost. Returns the number of scopes.';

CREATE FUNCTION rowsync.row_history(table_name regclass, key text)
    RETURNS TABLE (scope text, version bigint, ts timestamptz, source_id text, op text, payload json)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    wanted CONSTANT bytea := rowsync._parse_key(row_history.table_name, row_history.key);
BEGIN
    RETURN QUERY
    WITH RECURSIVE chain AS (
        SELECT l.* FROM rowsync.synced_table AS t
          JOIN rowsync.row_meta AS m ON m.table_id = t.table_id
           AND m.row_key = wanted
          JOIN rowsync.change_log AS l ON l.scope_id = m.scope_id AND l.seq = m.version
         WHERE t.relid = row_history.table_name
        UNION ALL
        SELECT l.* FROM chain AS c
          JOIN rowsync.change_log AS l ON l.scope_id = c.scope_id AND l.seq = c.prior_version)
    SELECT s.name, c.seq, c.ts, coalesce(d.source_id, ''),
           CASE c.op WHEN 'I' THEN 'INSERT' WHEN 'U' THEN 'UPDATE' ELSE 'DELETE' END,
           c.payload::json
      FROM chain AS c
      JOIN rowsync.scope AS s USING (scope_id)
      LEFT JOIN rowsync.source AS d USING (scope_id, source_no)
     ORDER BY c.scope_id, c.seq DESC;
END
$$;
COMMENT ON FUNCTION rowsync.row_history(regclass, text) IS
'Every version of a row that is still kept, latest first. key: the pk as devices know it (several columns: a JSON array). The payload of a DELETE is the row that went. RS006: the table is not registered; RS002: key does not fit.';

CREATE FUNCTION rowsync.restore_row(table_name regclass, key text, version bigint)
    RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    kept record;
    live boolean;
BEGIN
    SELECT h.scope, h.payload INTO kept
      FROM rowsync.row_history(restore_row.table_name, restore_row.key) AS h
     WHERE h.version = restore_row.version;
    IF kept.payload IS NULL THEN
        RAISE EXCEPTION 'version % of % % is not in the history', restore_row.version,
              restore_row.table_name, restore_row.key
              USING ERRCODE = 'RS002',
                    HINT = 'rowsync.row_history shows the versions that are kept.';
    END IF;
    SELECT h.op <> 'DELETE' INTO live
      FROM rowsync.row_history(restore_row.table_name, restore_row.key) AS h
     WHERE h.scope = kept.scope ORDER BY h.version DESC LIMIT 1;
    PERFORM rowsync._write_row(restore_row.table_name, kept.scope, kept.payload::text, live);
END
$$;
COMMENT ON FUNCTION rowsync.restore_row(regclass, text, bigint) IS
'Gives a row the state of an earlier version, or brings a deleted row back (version: that of the DELETE, or an earlier one), as an ordinary write of the caller that reaches every device. RS002: no such version is kept; RS006: the table is not registered.';
