CREATE FUNCTION rowsync.verify(user_id text DEFAULT NULL)
    RETURNS TABLE (problem text, scope text, table_name text, key text, version bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    t rowsync.synced_table;
BEGIN
    -- Numbers: dense above the floor, none beyond the head.
    RETURN QUERY
    SELECT 'change missing from the log', s.name, NULL::text, NULL::text, n
      FROM rowsync.scope AS s, generate_series(s.floor + 1, s.head) AS n
     WHERE (verify.user_id IS NULL OR s.name = verify.user_id)
       AND NOT EXISTS (SELECT FROM rowsync.change_log AS l
                        WHERE l.scope_id = s.scope_id AND l.seq = n);
    RETURN QUERY
    SELECT 'change beyond the head', s.name, NULL::text, NULL::text, l.seq
      FROM rowsync.change_log AS l JOIN rowsync.scope AS s USING (scope_id)
     WHERE (verify.user_id IS NULL OR s.name = verify.user_id) AND (l.seq > s.head OR l.seq < 1);

    -- Versions: each is its row's latest change, and says the same of it.
    RETURN QUERY
    SELECT CASE WHEN l.seq IS NULL THEN 'version without a change in the log'
                WHEN l.table_id <> m.table_id OR l.row_key <> m.row_key
                THEN 'version that is another row''s change'
                ELSE 'version and change disagree about deletion' END,
           s.name, t2.relid::text, rowsync._key_text(m.table_id, m.row_key), m.version
      FROM rowsync.row_meta AS m
      JOIN rowsync.scope AS s USING (scope_id)
      LEFT JOIN rowsync.synced_table AS t2 USING (table_id)
      LEFT JOIN rowsync.change_log AS l ON l.scope_id = m.scope_id AND l.seq = m.version
     WHERE (verify.user_id IS NULL OR s.name = verify.user_id)
       AND (l.seq IS NULL OR l.table_id <> m.table_id OR l.row_key <> m.row_key
            OR (l.op = 'D') <> m.deleted);
    RETURN QUERY
    SELECT CASE WHEN m.version IS NULL THEN 'change of a row without a version'
                ELSE 'change newer than its row''s version' END,
           s.name, t2.relid::text, rowsync._key_text(l.table_id, l.row_key), l.seq
      FROM rowsync.change_log AS l
      JOIN rowsync.scope AS s USING (scope_id)
      JOIN rowsync.synced_table AS t2 USING (table_id)
      LEFT JOIN rowsync.row_meta AS m USING (scope_id, table_id, row_key)
     WHERE (verify.user_id IS NULL OR s.name = verify.user_id)
       AND (m.version IS NULL OR l.seq > m.version);
    RETURN QUERY
    SELECT 'chain of a row''s changes is broken', s.name, t2.relid::text,
           rowsync._key_text(l.table_id, l.row_key), l.seq
      FROM rowsync.change_log AS l
      JOIN rowsync.scope AS s USING (scope_id)
      JOIN rowsync.synced_table AS t2 USING (table_id)
      LEFT JOIN rowsync.change_log AS p ON p.scope_id = l.scope_id AND p.seq = l.prior_version
     WHERE (verify.user_id IS NULL OR s.name = verify.user_id)
       AND (l.prior_version < 0 OR l.prior_version >= l.seq
            OR (l.prior_version > s.floor AND p.seq IS NULL)
            OR p.table_id <> l.table_id OR p.row_key <> l.row_key);

    -- Numbers of sources' changes, and who made them.
    RETURN QUERY
    SELECT 'change of an unknown source', s.name, NULL::text, NULL::text, l.seq
      FROM rowsync.change_log AS l JOIN rowsync.scope AS s USING (scope_id)
     WHERE (verify.user_id IS NULL OR s.name = verify.user_id) AND l.source_no > 0
       AND NOT EXISTS (SELECT FROM rowsync.source AS d
                        WHERE d.scope_id = l.scope_id AND d.source_no = l.source_no
                          AND d.last_change_id >= l.source_change_id);

    FOR t IN SELECT * FROM rowsync.synced_table LOOP
        -- Rows: what the log says of the live ones is what the table holds.
        RETURN QUERY
        SELECT CASE WHEN r.row_key IS NULL THEN 'live version of a row that is not there'
                    WHEN m.version IS NULL THEN 'row that was never captured'
                    WHEN m.deleted THEN 'row that counts as deleted'
                    ELSE 'row differs from its latest change' END,
               coalesce(s.name, r.scope), t.relid::text,
               rowsync._key_text(t.table_id, coalesce(m.row_key, r.row_key)), m.version
          FROM (SELECT m2.*, c.name FROM rowsync.row_meta AS m2 JOIN rowsync.scope AS c USING (scope_id)
                 WHERE m2.table_id = t.table_id
                   AND (verify.user_id IS NULL OR c.name = verify.user_id)) AS m
          FULL JOIN (SELECT * FROM rowsync._stored_rows(t.relid) AS r2
                      WHERE r2.scope IS NOT NULL
                        AND (verify.user_id IS NULL OR r2.scope = verify.user_id)) AS r
            ON r.scope = m.name AND r.row_key = m.row_key
          LEFT JOIN rowsync.scope AS s ON s.scope_id = m.scope_id
          LEFT JOIN rowsync.change_log AS l ON l.scope_id = m.scope_id AND l.seq = m.version
         WHERE (r.row_key IS NULL AND NOT m.deleted)
            OR (r.row_key IS NOT NULL AND (m.version IS NULL OR m.deleted))
            OR (r.row_key IS NOT NULL AND l.payload IS NOT NULL
                AND NOT rowsync._same_row(t.relid, l.payload, r.payload));
        -- Rows that nobody can sync.
        RETURN QUERY
        SELECT 'row without a scope', NULL::text, t.relid::text,
               rowsync._key_text(t.table_id, r.row_key), NULL::bigint
          FROM rowsync._stored_rows(t.relid) AS r
         WHERE r.scope IS NULL AND t.scope_added AND verify.user_id IS NULL;
        -- Triggers.
        RETURN QUERY
        SELECT CASE WHEN g.tgname IS NULL THEN 'trigger ' || n || ' is missing'
                    ELSE 'trigger ' || n || ' is disabled' END,
               NULL::text, t.relid::text, NULL::text, NULL::bigint
          FROM unnest(ARRAY['_rowsync_capture', '_rowsync_truncate']) AS n
          LEFT JOIN pg_trigger AS g ON g.tgrelid = t.relid AND g.tgname = n
         WHERE g.tgname IS NULL OR g.tgenabled IN ('D', 'R');
    END LOOP;
END
$$;
COMMENT ON FUNCTION rowsync.verify(text) IS
'What breaks an invariant, one line each; no line when all is sound. user_id: that user''s scope alone. Reads every row and every change: not for a busy minute.';

CREATE FUNCTION rowsync._same_row(table_name regclass, stored text, now text) RETURNS boolean
    LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'rowsync_same_row';
COMMENT ON FUNCTION rowsync._same_row(regclass, text, text) IS 'Whether two payloads of a table say the same in the columns that it has now';
