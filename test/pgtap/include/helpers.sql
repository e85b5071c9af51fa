-- What the tests share: short ways to write a change and to read an answer, and a check of rowsync's
-- tables against the business tables that uses no function of rowsync.
\set QUIET on
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE SCHEMA t;
GRANT USAGE ON SCHEMA t TO PUBLIC;
SET search_path = t, public;

-- Makes a role unless there is one: roles belong to the cluster, which other scripts share.
CREATE PROCEDURE role(name text)
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE ROLE %I', name);
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;

-- One change of an upload, as the client writes it. The payload goes in byte by byte.
CREATE FUNCTION change(id bigint, op text, tab text, pk text, version bigint DEFAULT 0,
                       payload text DEFAULT NULL) RETURNS text
    LANGUAGE sql IMMUTABLE AS $$
    SELECT format('{"source_change_id":%s,"schema":"app","table":%s,"op":"%s","pk":%s,'
                  '"server_version":%s,"payload":%s}',
                  id, to_json(tab), op, to_json(pk), version, coalesce(payload, 'null'))
$$;

-- Uploads changes and returns the whole answer.
CREATE FUNCTION answer(who text, source text, VARIADIC changes text[]) RETURNS jsonb
    LANGUAGE sql VOLATILE AS $$
    SELECT rowsync.upload(who, source,
                          format('{"last_server_seq_seen":0,"changes":[%s]}',
                                 array_to_string(changes, ',')))::jsonb
$$;

-- The same for an atomic request.
CREATE FUNCTION atomic_answer(who text, source text, VARIADIC changes text[]) RETURNS jsonb
    LANGUAGE sql VOLATILE AS $$
    SELECT rowsync.upload(who, source,
                          format('{"last_server_seq_seen":0,"atomic":true,"changes":[%s]}',
                                 array_to_string(changes, ',')))::jsonb
$$;

-- An answer in one line: "1 applied 7", "1 applied 7 +row", "2 conflict 5", "3 invalid fk_missing".
CREATE FUNCTION brief(answer jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(concat_ws(' ', s -> 'source_change_id', s ->> 'status',
                                s ->> 'new_server_version',
                                s -> 'invalid' ->> 'reason',
                                CASE WHEN s ->> 'status' = 'conflict'
                                     THEN s -> 'server_row' ->> 'server_version' END,
                                CASE WHEN (s -> 'server_row' ->> 'deleted')::boolean
                                     THEN 'deleted' END,
                                CASE WHEN s ->> 'status' = 'applied' AND s ? 'server_row'
                                     THEN '+row' END), ', ' ORDER BY n)
    FROM jsonb_array_elements(answer -> 'statuses') WITH ORDINALITY AS e(s, n)
$$;

-- Uploads changes and returns the answer in one line.
CREATE FUNCTION up(who text, source text, VARIADIC changes text[]) RETURNS text
    LANGUAGE sql VOLATILE AS $$ SELECT brief(answer(who, source, VARIADIC changes)) $$;

-- What is wrong with the first change of an answer: reason, message, details beyond the message.
CREATE FUNCTION fault(answer jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE AS $$
    SELECT concat_ws(' | ', s -> 'invalid' ->> 'reason', s ->> 'message',
                     nullif(((s #> '{invalid,details}') - 'error'::text)::text, '{}'))
    FROM (SELECT answer -> 'statuses' -> 0 AS s) AS first
$$;

-- The error that a statement raises: "SQLSTATE: message | hint", or "no error".
CREATE FUNCTION refusal(statement text) RETURNS text
    LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', SQLSTATE || ': ' || SQLERRM, nullif(hint, ''));
END
$$;

-- A scope's log in one line each: seq, table, op, key, source ("" = the server).
CREATE FUNCTION log(who text, behind bigint DEFAULT 0) RETURNS SETOF text
    LANGUAGE sql STABLE AS $$
    SELECT concat_ws(' ', l.seq, c.relname, l.op,
                     coalesce(l.payload::jsonb ->> 'id', convert_from(l.row_key, 'UTF8')),
                     coalesce(o.source_id, 'server'))
    FROM rowsync.change_log AS l
    JOIN rowsync.scope AS s USING (scope_id)
    JOIN rowsync.synced_table AS r USING (table_id)
    JOIN pg_class AS c ON c.oid = r.relid
    LEFT JOIN rowsync.source AS o USING (scope_id, source_no)
    WHERE s.name = who AND l.seq > behind
    ORDER BY l.seq
$$;

-- A page of a download in one line: "seq op key", each change, then "> next_after/window_until".
CREATE FUNCTION page(who text, source text, after bigint DEFAULT 0, page_limit int DEFAULT 1000,
                     until bigint DEFAULT NULL, include_self boolean DEFAULT false,
                     schema_name text DEFAULT NULL) RETURNS text
    LANGUAGE sql VOLATILE AS $$
    SELECT concat_ws(' ', string_agg(concat_ws(' ', c ->> 'server_id', c ->> 'op', c ->> 'pk')
                                     || ',', ' ' ORDER BY n) FILTER (WHERE c IS NOT NULL),
                     '>', (d ->> 'next_after') || '/' || (d ->> 'window_until'),
                     CASE WHEN (d ->> 'has_more')::boolean THEN 'more' END)
    FROM (SELECT rowsync.download(who, source, after, page_limit, until, include_self,
                                  schema_name)::jsonb AS d) AS answer
    LEFT JOIN LATERAL jsonb_array_elements(d -> 'changes') WITH ORDINALITY AS e(c, n) ON true
    GROUP BY d
$$;

-- Everything in rowsync's tables that breaks an invariant; no row when all is sound. Rows of
-- business tables are compared with the log's payloads where to_jsonb writes the same (`exact`).
CREATE FUNCTION unsound(exact boolean DEFAULT true) RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    tab record;
BEGIN
    RETURN QUERY
        SELECT format('scope %s: head %s, %s log entries from %s to %s', s.name, s.head,
                      count(l.seq), min(l.seq), max(l.seq))
        FROM rowsync.scope AS s LEFT JOIN rowsync.change_log AS l USING (scope_id)
        GROUP BY s.scope_id, s.name, s.head, s.floor
        HAVING count(l.seq) FILTER (WHERE l.seq > s.floor) <> s.head - s.floor
               OR coalesce(max(l.seq), 0) > s.head OR coalesce(min(l.seq), 1) < 1;
    RETURN QUERY
        SELECT format('scope %s seq %s: prior_version %s, should be %s', c.scope_id, c.seq,
                      c.prior_version, c.should)
        FROM (SELECT l.*, coalesce(lag(l.seq) OVER (PARTITION BY scope_id, table_id, row_key
                                                    ORDER BY l.seq), 0) AS should
              FROM rowsync.change_log AS l) AS c
        WHERE c.prior_version <> c.should;
    RETURN QUERY
        SELECT format('row_meta %s, latest in the log %s', m, l)
        FROM (SELECT scope_id, table_id, row_key, version, deleted FROM rowsync.row_meta) AS m
        FULL JOIN (SELECT DISTINCT ON (scope_id, table_id, row_key)
                          scope_id, table_id, row_key, seq AS version, op = 'D' AS deleted
                   FROM rowsync.change_log JOIN rowsync.synced_table USING (table_id)
                   ORDER BY scope_id, table_id, row_key, seq DESC) AS l
             USING (scope_id, table_id, row_key, version, deleted)
        WHERE m IS NULL OR l IS NULL;
    FOR tab IN SELECT * FROM rowsync.synced_table LOOP
        RETURN QUERY EXECUTE format(
            'SELECT format(''%1$s: %%s rows of %%s, %%s live versions'', rows, scope, live) '
            'FROM (SELECT %2$I::text AS scope, count(*) AS rows FROM %1$s '
            '      WHERE nullif(%2$I::text, '''') IS NOT NULL GROUP BY 1) AS b '
            'FULL JOIN (SELECT s.name AS scope, count(*) AS live FROM rowsync.row_meta '
            '           JOIN rowsync.scope AS s USING (scope_id) '
            '           WHERE table_id = %3$s AND NOT deleted GROUP BY 1) AS m USING (scope) '
            'WHERE rows IS DISTINCT FROM live',
            tab.relid, tab.scope_column, tab.table_id);
        CONTINUE WHEN NOT exact;
        RETURN QUERY EXECUTE format(
            'SELECT format(''%1$s: the table has %%s, the log has %%s'', b, l) '
            'FROM (SELECT x.%2$I::text AS scope, to_jsonb(x) - %2$L AS row FROM %1$s AS x '
            '      WHERE nullif(x.%2$I::text, '''') IS NOT NULL) AS b '
            'FULL JOIN (SELECT s.name AS scope, l.payload::jsonb AS row '
            '           FROM rowsync.row_meta AS m JOIN rowsync.scope AS s USING (scope_id) '
            '           JOIN rowsync.change_log AS l '
            '             ON l.scope_id = m.scope_id AND l.seq = m.version '
            '           WHERE m.table_id = %3$s AND NOT m.deleted) AS l USING (scope, row) '
            'WHERE b IS NULL OR l IS NULL',
            tab.relid, tab.scope_column, tab.table_id);
    END LOOP;
END
$$;
