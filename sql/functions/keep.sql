-- Keeping: prune, verify, history.

CREATE OR REPLACE FUNCTION rowsync._parse_key(table_name regclass, key text) RETURNS bytea
    LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'rowsync_parse_key';
COMMENT ON FUNCTION rowsync._parse_key(regclass, text) IS 'A pk as devices know it, packed; for several columns a JSON array';

CREATE OR REPLACE FUNCTION rowsync._stored_rows(table_name regclass)
    RETURNS TABLE (scope text, row_key bytea, payload text)
    LANGUAGE C STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'rowsync_stored_rows';
COMMENT ON FUNCTION rowsync._stored_rows(regclass) IS 'The rows of a registered table as the change log would keep them now';

CREATE OR REPLACE FUNCTION rowsync._write_row(table_name regclass, scope text, payload text, live boolean)
    RETURNS void
    LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'rowsync_write_row';
COMMENT ON FUNCTION rowsync._write_row(regclass, text, text, boolean) IS 'Writes a row as a payload has it, with the rights of the caller';

CREATE OR REPLACE FUNCTION rowsync.prune(keep interval DEFAULT '30 days', give_up interval DEFAULT '90 days',
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

        -- What goes: a change that another one up to the horizon supersedes, a tombstone, and what is
        -- left of tables that sync no more. So the state at the horizon, and at every later number,
        -- can still be told. The sources' numbers are remembered: sent again, these changes must
        -- have no second effect.
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
                OR NOT EXISTS (SELECT FROM rowsync.synced_table AS t WHERE t.table_id = o.table_id)
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
        DELETE FROM rowsync.row_meta AS m
         WHERE m.scope_id = s.scope_id AND m.deleted AND m.version <= horizon;
        GET DIAGNOSTICS removed_tombstones = ROW_COUNT;
        DELETE FROM rowsync.batch AS b
         WHERE b.scope_id = s.scope_id AND b.last_seq <= horizon
           AND NOT EXISTS (SELECT FROM rowsync.change_log AS l
                            WHERE l.scope_id = s.scope_id AND l.seq BETWEEN b.first_seq AND b.last_seq
                              AND l.source_no = b.source_no);
        UPDATE rowsync.scope AS c SET floor = horizon WHERE c.scope_id = s.scope_id;

        scope := s.name;
        floor := horizon;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION rowsync.prune(interval, interval, text) IS
'Removes superseded changes and tombstones that are older than keep and that every source seen within give_up has read; a source not seen for so long must hydrate again. Keeps the latest change of every live row. user_id: that user''s scope alone. Returns a line for each scope that it moved: run it daily. Its locks last until the end of the transaction.';

CREATE OR REPLACE FUNCTION rowsync.forget_source(user_id text, source_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    -- Its row stays: what it sent counts as sent, should it come back.
    UPDATE rowsync.source AS d SET last_seen = '-infinity'
      FROM rowsync.scope AS s
     WHERE s.scope_id = d.scope_id AND s.name = forget_source.user_id AND d.source_id = forget_source.source_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'user "%" has no source "%"', user_id, source_id
              USING ERRCODE = 'RS002', HINT = 'rowsync.source_lag shows the sources of each user.';
    END IF;
END
$$;
COMMENT ON FUNCTION rowsync.forget_source(text, text) IS
'A device is gone for good, detached or lost: prune no longer keeps anything for it. Its last_seen is -infinity from then on. Should it come back, it counts again; what it sent before has no second effect, and if it has missed what is pruned by then, it hydrates again. RS002: the user has no such source.';

CREATE OR REPLACE FUNCTION rowsync.declare_restored(user_id text DEFAULT NULL, restored_at timestamptz DEFAULT NULL)
    RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    scopes bigint;
BEGIN
    IF restored_at > clock_timestamp() THEN
        RAISE EXCEPTION 'restored_at must not be in the future' USING ERRCODE = 'RS002';
    END IF;
    WITH ended AS (
        SELECT s.scope_id, greatest(s.epoch + 1, (extract(epoch FROM statement_timestamp()) * 1000000)::bigint) AS epoch,
               CASE WHEN restored_at IS NULL THEN s.head
                    ELSE greatest(s.floor, coalesce((SELECT l.seq FROM rowsync.change_log AS l
                                                      WHERE l.scope_id = s.scope_id AND l.ts < restored_at
                                                      ORDER BY l.seq DESC LIMIT 1), 0)) END AS head
          FROM rowsync.scope AS s
         WHERE declare_restored.user_id IS NULL OR s.name = declare_restored.user_id
           FOR NO KEY UPDATE
    ), moved AS (
        UPDATE rowsync.scope AS s SET epoch = e.epoch, epochs = s.epochs || ARRAY[e.epoch, e.head]
          FROM ended AS e WHERE e.scope_id = s.scope_id
        RETURNING 1)
    SELECT count(*) INTO scopes FROM moved;
    RETURN scopes;
END
$$;
COMMENT ON FUNCTION rowsync.declare_restored(text, timestamptz) IS
'After restoring a backup, before anything is written: begins a new epoch in all scopes (or in one user''s) and notes where their logs stand, so that devices that are ahead of the server notice and bring back what it lost. restored_at: when it was restored, if it has been written to since, so that what is later counts as written after the backup. Returns the number of scopes.';

-- row_history and restore_row read the key with the rights of the caller: the type of a key may be a
-- domain, and its CHECK is code of the table's owner.

CREATE OR REPLACE FUNCTION rowsync._row_history(table_name regclass, row_key bytea)
    RETURNS TABLE (scope text, version bigint, ts timestamptz, source_id text, op text, payload json)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    WITH RECURSIVE chain AS (
        SELECT l.* FROM rowsync.synced_table AS t
          JOIN rowsync.row_meta AS m ON m.table_id = t.table_id
           AND m.row_key = _row_history.row_key
          JOIN rowsync.change_log AS l ON l.scope_id = m.scope_id AND l.seq = m.version
         WHERE t.relid = _row_history.table_name
        UNION ALL
        SELECT l.* FROM chain AS c
          JOIN rowsync.change_log AS l ON l.scope_id = c.scope_id AND l.seq = c.prior_version)
    SELECT s.name, c.seq, c.ts, coalesce(d.source_id, ''),
           CASE c.op WHEN 'I' THEN 'INSERT' WHEN 'U' THEN 'UPDATE' ELSE 'DELETE' END,
           c.payload::json
      FROM chain AS c
      JOIN rowsync.scope AS s USING (scope_id)
      LEFT JOIN rowsync.source AS d USING (scope_id, source_no)
     ORDER BY c.scope_id, c.seq DESC
$$;
COMMENT ON FUNCTION rowsync._row_history(regclass, bytea) IS 'row_history by packed key';

CREATE OR REPLACE FUNCTION rowsync.row_history(table_name regclass, key text)
    RETURNS TABLE (scope text, version bigint, ts timestamptz, source_id text, op text, payload json)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT * FROM rowsync._row_history(table_name, rowsync._parse_key(table_name, key))
$$;
COMMENT ON FUNCTION rowsync.row_history(regclass, text) IS
'Every version of a row that is still kept, latest first. key: the pk as devices know it (several columns: a JSON array). The payload of a DELETE is the row that went. RS006: the table is not registered; RS002: key does not fit.';

CREATE OR REPLACE FUNCTION rowsync._kept_version(table_name regclass, key text, version bigint, user_id text,
                                                 OUT scope text, OUT payload text, OUT live boolean)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    found bigint;
BEGIN
    SELECT count(*), min(h.scope), min(h.payload::text) INTO found, scope, payload
      FROM rowsync.row_history(table_name, key) AS h
     WHERE h.version = _kept_version.version AND h.payload IS NOT NULL
       AND (_kept_version.user_id IS NULL OR h.scope = _kept_version.user_id);
    IF found = 0 THEN
        RAISE EXCEPTION 'version % of % % is not in the history', version, table_name, key
              USING ERRCODE = 'RS002',
                    HINT = 'rowsync.row_history shows the versions that are kept.';
    ELSIF found > 1 THEN
        RAISE EXCEPTION '% % has been in several scopes, with a version % in each', table_name, key, version
              USING ERRCODE = 'RS002', HINT = 'Say whose you mean: user_id => ...';
    END IF;
    SELECT h.op <> 'DELETE' INTO live
      FROM rowsync.row_history(table_name, key) AS h
     WHERE h.scope = _kept_version.scope ORDER BY h.version DESC LIMIT 1;
END
$$;
COMMENT ON FUNCTION rowsync._kept_version(regclass, text, bigint, text) IS
'What restore_row writes: the row as of that version, and whether its key is live now';

-- No search_path is set, for the triggers of the table must find what they find in any other session of
-- the caller; the body is parsed here, once and for all.
CREATE OR REPLACE FUNCTION rowsync.restore_row(table_name regclass, key text, version bigint, user_id text DEFAULT NULL)
    RETURNS void
    LANGUAGE sql VOLATILE
    BEGIN ATOMIC
        SELECT rowsync._write_row(table_name, kept.scope, kept.payload, kept.live)
          FROM rowsync._kept_version(table_name, key, version, user_id) AS kept;
    END;
COMMENT ON FUNCTION rowsync.restore_row(regclass, text, bigint, text) IS
'Gives a row the state of an earlier version, or brings a deleted row back (version: that of the DELETE, or an earlier one), as an ordinary write of the caller that reaches every device. user_id: whose version, for a row that has been in several scopes. RS002: no such version is kept; RS006: the table is not registered; 42501: a policy or a trigger of the table kept the row from being written; beyond that every error of the table itself.';
