-- What may be wrong, and how verify finds it.

CREATE OR REPLACE FUNCTION rowsync.problem_kinds()
    RETURNS TABLE (problem text, meaning text)
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS $$ VALUES
    ('scope with an impossible name', 'its name is empty or longer than 255 bytes'),
    ('floor outside the log', 'its floor is below 0 or beyond its head'),
    ('change of an unknown scope', 'rowsync.scope has no row for it: nobody can read it'),
    ('change missing from the log', 'a number between floor and head is not there: devices never see that change'),
    ('change beyond the head', 'its number is below 1 or above the scope''s head: nobody can read it'),
    ('change with an unknown operation', 'op is none of I, U and D'),
    ('change without a payload', 'an INSERT or UPDATE does not say what the row became'),
    ('change whose payload is no row', 'its payload is no JSON object, or that of a row with another key'),
    ('change of an unknown source', 'rowsync.source has no row for it'),
    ('change numbered beyond its source', 'the source counts as having sent no such number: sent again, it would take effect again'),
    ('change of the server with a number', 'a change that no source made has a source_change_id'),
    ('change both kept and pruned', 'its number counts as pruned, but it is in the log'),
    ('change that no upload names', 'rowsync.batch does not lead to it: sent again, it would take effect again'),
    ('number used twice', 'the source has another change of that number in the log'),
    ('chain of a row''s changes is broken', 'prior_version is not the row''s change before this one'),
    ('version of an unknown scope', 'rowsync.scope has no row for it'),
    ('version of a table that does not sync', 'rowsync.synced_table has no row for its table'),
    ('version without a change in the log', 'the row cannot be told to a device'),
    ('version that is another row''s change', 'the log says that this number changed another row'),
    ('version and change disagree about deletion', 'one has the row deleted, the other not'),
    ('change of a row without a version', 'rowsync.row_meta has no row for it'),
    ('change newer than its row''s version', 'rowsync.row_meta was left behind'),
    ('source of an unknown scope', 'rowsync.scope has no row for it'),
    ('source ahead of the log', 'it counts as having read or written beyond the head, or its number is below 1'),
    ('registered table is not there', 'it was dropped while its event trigger was off'),
    ('registered table cannot sync', 'what is known of it no longer fits; key has the error'),
    ('columns are out of date', 'the table was altered while its event trigger was off'),
    ('table comes before its parent', 'upsert_order would write children before parents'),
    ('schema version out of order', 'rowsync.schema_change has a gap, or a table a version that is not there'),
    ('row that was never captured', 'the table has a row that has no version'),
    ('row that counts as deleted', 'the table has a row whose latest change is a deletion'),
    ('live version of a row that is not there', 'the table has no row where the log has one'),
    ('row differs from its latest change', 'the table and the log say different things'),
    ('row without a scope', 'it syncs nowhere'),
    ('trigger is missing', 'writes are not captured; key has its name'),
    ('trigger is disabled', 'writes are not captured; key has its name'),
    ('trigger does something else', 'it is not the one that rowsync.register_table makes; key has its name'),
    ('event trigger is missing', 'ALTER and DROP TABLE are not followed; key has its name'),
    ('event trigger is disabled', 'ALTER and DROP TABLE are not followed; key has its name'),
    ('index is invalid', 'one of rowsync''s own; key has its name'),
    ('sequence behind its table', 'the next scope or table could not be added; key has its name')
    $$;
COMMENT ON FUNCTION rowsync.problem_kinds() IS 'Each kind of problem that rowsync.verify can find, and what it means';

CREATE OR REPLACE FUNCTION rowsync._same_row(table_name regclass, stored text, now text) RETURNS boolean
    LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'rowsync_same_row';
COMMENT ON FUNCTION rowsync._same_row(regclass, text, text) IS 'Whether two payloads of a table say the same in the columns that it has now';

CREATE OR REPLACE FUNCTION rowsync._is_row(table_id integer, row_key bytea, payload text) RETURNS boolean
    LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'rowsync_is_row';
COMMENT ON FUNCTION rowsync._is_row(integer, bytea, text) IS 'Whether a payload is a JSON object that has, as far as it has the key''s columns, this key';

-- In parts, so that each fits on a page: numbers and changes, versions, tables. broken: tables whose keys
-- cannot be read.

CREATE OR REPLACE FUNCTION rowsync._verify_log(user_id text, broken integer[])
    RETURNS TABLE (problem text, scope text, table_name text, key text, version bigint)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT p.problem, s.name, NULL::text, NULL::text, p.version
      FROM rowsync.scope AS s,
           LATERAL (SELECT 'scope with an impossible name', NULL::bigint
                     WHERE octet_length(s.name) NOT BETWEEN 1 AND 255
                    UNION ALL
                    SELECT 'floor outside the log', s.floor WHERE s.floor < 0 OR s.floor > s.head
                    UNION ALL
                    SELECT 'change missing from the log', n
                      FROM generate_series(greatest(s.floor, 0) + 1, s.head) AS n
                     WHERE NOT EXISTS (SELECT FROM rowsync.change_log AS l
                                        WHERE l.scope_id = s.scope_id AND l.seq = n)
           ) AS p (problem, version)
     WHERE _verify_log.user_id IS NULL OR s.name = _verify_log.user_id
    UNION ALL
    SELECT p.problem, l.name, t.relid::text,
           CASE WHEN l.table_id <> ALL (broken) THEN rowsync._key_text(l.table_id, l.row_key) END, l.seq
      FROM (SELECT c.*, s.name, s.head, s.floor,
                   lag(c.seq) OVER (PARTITION BY c.scope_id, c.table_id, c.row_key ORDER BY c.seq) AS before,
                   count(*) OVER (PARTITION BY c.scope_id, c.source_no, c.source_change_id) AS same_number
              FROM rowsync.change_log AS c LEFT JOIN rowsync.scope AS s USING (scope_id)
             WHERE _verify_log.user_id IS NULL OR s.name = _verify_log.user_id) AS l
      LEFT JOIN rowsync.synced_table AS t USING (table_id)
      LEFT JOIN rowsync.row_meta AS m USING (scope_id, table_id, row_key)
      LEFT JOIN rowsync.source AS d USING (scope_id, source_no),
           LATERAL (VALUES
               ('change of an unknown scope', l.name IS NULL),
               ('change beyond the head', l.seq > l.head OR l.seq < 1),
               ('change with an unknown operation', l.op NOT IN ('I', 'U', 'D')),
               ('change without a payload', l.op <> 'D' AND l.payload IS NULL),
               ('change whose payload is no row', l.table_id <> ALL (broken)
                    AND NOT rowsync._is_row(l.table_id, l.row_key, l.payload)),
               ('change of an unknown source', l.name IS NOT NULL AND l.source_no <> 0 AND d.source_no IS NULL),
               ('change numbered beyond its source', l.source_no <> 0
                    AND l.source_change_id NOT BETWEEN 1 AND d.last_change_id),
               ('change of the server with a number', l.source_no = 0 AND l.source_change_id <> 0),
               ('change both kept and pruned', d.pruned_change_ids @> l.source_change_id),
               ('change that no upload names', d.source_no <> 0
                    AND NOT EXISTS (SELECT FROM rowsync.batch AS b
                                     WHERE b.scope_id = l.scope_id AND b.source_no = l.source_no AND b.late
                                       AND b.highest_change_id = l.source_change_id AND b.first_seq = l.seq)
                    AND (SELECT l.seq NOT BETWEEN b.first_seq AND b.last_seq FROM rowsync.batch AS b
                          WHERE b.scope_id = l.scope_id AND b.source_no = l.source_no AND NOT b.late
                            AND b.highest_change_id >= l.source_change_id
                          ORDER BY b.highest_change_id LIMIT 1) IS NOT FALSE),
               ('number used twice', l.source_no <> 0 AND l.same_number > 1),
               -- What came before may be pruned, or have been forgotten with its tombstone.
               ('chain of a row''s changes is broken', CASE WHEN l.before IS NOT NULL THEN l.prior_version <> l.before
                    ELSE l.prior_version NOT BETWEEN 0 AND least(l.floor, l.seq - 1) END),
               ('change of a row without a version', l.name IS NOT NULL AND t.relid IS NOT NULL AND m.version IS NULL),
               ('change newer than its row''s version', l.seq > m.version)
           ) AS p (problem, found)
     WHERE p.found
    $$;
COMMENT ON FUNCTION rowsync._verify_log(text, integer[]) IS 'verify: scopes and the change log';

CREATE OR REPLACE FUNCTION rowsync._verify_versions(user_id text, broken integer[])
    RETURNS TABLE (problem text, scope text, table_name text, key text, version bigint)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT p.problem, s.name, t.relid::text,
           CASE WHEN m.table_id <> ALL (broken) THEN rowsync._key_text(m.table_id, m.row_key) END, m.version
      FROM rowsync.row_meta AS m
      LEFT JOIN rowsync.scope AS s USING (scope_id)
      LEFT JOIN rowsync.synced_table AS t USING (table_id)
      LEFT JOIN rowsync.change_log AS l ON l.scope_id = m.scope_id AND l.seq = m.version,
           LATERAL (VALUES
               ('version of an unknown scope', s.name IS NULL),
               ('version of a table that does not sync', t.relid IS NULL),
               ('version without a change in the log', l.seq IS NULL),
               ('version that is another row''s change', l.table_id <> m.table_id OR l.row_key <> m.row_key),
               ('version and change disagree about deletion', l.table_id = m.table_id AND l.row_key = m.row_key
                    AND (l.op = 'D') <> m.deleted)
           ) AS p (problem, found)
     WHERE p.found AND (_verify_versions.user_id IS NULL OR s.name = _verify_versions.user_id)
    UNION ALL
    SELECT p.problem, s.name, NULL, d.source_id, NULL
      FROM rowsync.source AS d
      LEFT JOIN rowsync.scope AS s USING (scope_id),
           LATERAL (VALUES
               ('source of an unknown scope', s.name IS NULL),
               ('source ahead of the log', d.source_no < 1 OR greatest(d.last_download, d.last_upload) > s.head)
           ) AS p (problem, found)
     WHERE p.found AND (_verify_versions.user_id IS NULL OR s.name = _verify_versions.user_id)
    $$;
COMMENT ON FUNCTION rowsync._verify_versions(text, integer[]) IS 'verify: versions and sources';

CREATE OR REPLACE FUNCTION rowsync._verify_rows(user_id text, registered rowsync.synced_table)
    RETURNS TABLE (problem text, scope text, table_name text, key text, version bigint)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN r.row_key IS NULL THEN 'live version of a row that is not there'
                WHEN r.scope IS NULL THEN 'row without a scope'
                WHEN m.version IS NULL THEN 'row that was never captured'
                WHEN m.deleted THEN 'row that counts as deleted'
                ELSE 'row differs from its latest change' END,
           coalesce(m.name, r.scope), (registered).relid::text,
           rowsync._key_text((registered).table_id, coalesce(m.row_key, r.row_key)), m.version
      FROM (SELECT v.*, s.name FROM rowsync.row_meta AS v JOIN rowsync.scope AS s USING (scope_id)
             WHERE v.table_id = (registered).table_id
               AND (_verify_rows.user_id IS NULL OR s.name = _verify_rows.user_id)) AS m
      FULL JOIN (SELECT * FROM rowsync._stored_rows((registered).relid) AS t
                  WHERE _verify_rows.user_id IS NULL OR t.scope = _verify_rows.user_id) AS r
        ON r.scope = m.name AND r.row_key = m.row_key
      LEFT JOIN rowsync.change_log AS l ON l.scope_id = m.scope_id AND l.seq = m.version
     WHERE CASE WHEN r.row_key IS NULL THEN NOT m.deleted
                WHEN r.scope IS NULL THEN (registered).scope_added
                WHEN m.version IS NULL OR m.deleted THEN true
                WHEN rowsync._is_row(m.table_id, m.row_key, l.payload)
                THEN NOT rowsync._same_row((registered).relid, l.payload, r.payload) END
    $$;
COMMENT ON FUNCTION rowsync._verify_rows(text, rowsync.synced_table) IS 'verify: what a table holds against what the log says';

CREATE OR REPLACE FUNCTION rowsync._verify_objects()
    RETURNS TABLE (problem text, scope text, table_name text, key text, version bigint)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    -- A partitioned table has its row trigger on each partition too.
    SELECT p.problem, NULL::text, g.relid::text, g.name, NULL::bigint
      FROM (SELECT w.relid, w.name, w.kind, w.function, x.*
              FROM (SELECT coalesce(leaf.relid, t.relid)::regclass AS relid, '_rowsync_capture' AS name,
                           29 AS kind, 'rowsync._capture()'::regprocedure AS function
                      FROM rowsync.synced_table AS t
                      JOIN pg_class AS c ON c.oid = t.relid
                      LEFT JOIN LATERAL pg_partition_tree(t.relid) AS leaf ON c.relkind = 'p'
                    UNION ALL
                    SELECT t.relid, '_rowsync_truncate', 34, 'rowsync._capture_truncate()'::regprocedure
                      FROM rowsync.synced_table AS t JOIN pg_class AS c ON c.oid = t.relid) AS w
              LEFT JOIN pg_trigger AS x ON x.tgrelid = w.relid AND x.tgname = w.name) AS g,
           LATERAL (VALUES
               ('trigger is missing', g.tgname IS NULL),
               ('trigger is disabled', g.tgenabled IN ('D', 'R')),
               ('trigger does something else', g.tgtype <> g.kind OR g.tgfoid <> g.function OR g.tgqual IS NOT NULL
                    OR cardinality(g.tgattr) > 0)
           ) AS p (problem, found)
     WHERE p.found
    UNION ALL
    SELECT CASE WHEN e.evtname IS NULL THEN 'event trigger is missing' ELSE 'event trigger is disabled' END,
           NULL, NULL, n, NULL
      FROM unnest(ARRAY['_rowsync_alter', '_rowsync_drop']) AS n
      LEFT JOIN pg_event_trigger AS e ON e.evtname = n
     WHERE e.evtname IS NULL OR e.evtenabled IN ('D', 'R')
    UNION ALL
    SELECT 'index is invalid', NULL, i.indrelid::regclass::text, c.relname, NULL
      FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
     WHERE c.relnamespace = 'rowsync'::regnamespace AND NOT (i.indisvalid AND i.indisready)
    UNION ALL
    SELECT 'sequence behind its table', NULL, q.relation, q.name, q.highest
      FROM (SELECT 'rowsync.scope', 'scope_scope_id_seq', (SELECT max(scope_id) FROM rowsync.scope),
                   (SELECT last_value FROM rowsync.scope_scope_id_seq)
            UNION ALL
            SELECT 'rowsync.synced_table', 'synced_table_table_id_seq', (SELECT max(table_id) FROM rowsync.synced_table),
                   (SELECT last_value FROM rowsync.synced_table_table_id_seq)) AS q (relation, name, highest, reached)
     WHERE q.highest > q.reached
    UNION ALL
    SELECT 'columns are out of date', NULL, t.relid::text, NULL, t.schema_version
      FROM rowsync.synced_table AS t JOIN pg_class AS c ON c.oid = t.relid
     WHERE t.columns <> ARRAY(SELECT a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
                                FROM pg_attribute AS a
                               WHERE a.attrelid = t.relid AND a.attnum > 0 AND NOT a.attisdropped
                                 AND a.attname NOT IN (t.scope_column, '_rowsync_scope') ORDER BY a.attnum)
    UNION ALL
    SELECT 'table comes before its parent', NULL, t.relid::text, k.conname, NULL
      FROM rowsync.synced_table AS t
      JOIN pg_constraint AS k ON k.conrelid = t.relid AND k.contype = 'f'
      JOIN rowsync.synced_table AS parent ON parent.relid = k.confrelid
     WHERE parent.upsert_order > t.upsert_order
    UNION ALL
    SELECT 'schema version out of order', NULL, t.relid::text, NULL, t.schema_version
      FROM rowsync.synced_table AS t
     WHERE t.schema_version <> 1
       AND NOT EXISTS (SELECT FROM rowsync.schema_change AS c WHERE c.version = t.schema_version)
    UNION ALL
    SELECT 'schema version out of order', NULL, NULL, NULL, n
      FROM generate_series(2, (SELECT max(c.version) FROM rowsync.schema_change AS c)) AS n
     WHERE NOT EXISTS (SELECT FROM rowsync.schema_change AS c WHERE c.version = n)
    $$;
COMMENT ON FUNCTION rowsync._verify_objects() IS 'verify: triggers, indexes, sequences and what is known of the tables';

CREATE OR REPLACE FUNCTION rowsync.verify(user_id text DEFAULT NULL)
    RETURNS TABLE (problem text, scope text, table_name text, key text, version bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    t rowsync.synced_table;
    broken integer[] := '{}';
BEGIN
    FOR t IN SELECT * FROM rowsync.synced_table LOOP
        BEGIN
            table_name := t.relid::text;
            problem := 'registered table is not there';
            key := NULL;
            IF EXISTS (SELECT FROM pg_class AS c WHERE c.oid = t.relid) THEN
                PERFORM rowsync._is_row(t.table_id, '', '{}');
                CONTINUE;
            END IF;
        EXCEPTION WHEN SQLSTATE 'RS005' OR internal_error THEN
            problem := 'registered table cannot sync';
            key := SQLERRM;
        END;
        broken := broken || t.table_id;
        RETURN NEXT;
    END LOOP;
    RETURN QUERY SELECT * FROM rowsync._verify_log(verify.user_id, broken);
    RETURN QUERY SELECT * FROM rowsync._verify_versions(verify.user_id, broken);
    RETURN QUERY SELECT r.* FROM rowsync.synced_table AS s, rowsync._verify_rows(verify.user_id, s) AS r
                  WHERE s.table_id <> ALL (broken);
    IF verify.user_id IS NULL THEN
        RETURN QUERY SELECT * FROM rowsync._verify_objects();
    END IF;
END
$$;
COMMENT ON FUNCTION rowsync.verify(text) IS
'What breaks an invariant, one line each; no line when all is sound. problem is one of rowsync.problem_kinds(). user_id: that user''s scope alone. Reads every row and every change: not for a busy minute.';
