-- Plans made while tables were small must not scan them when they have grown. Counted in scans and rows
-- read, of the business tables and of rowsync's own.
\ir include/helpers.sql
\ir include/app.sql
SELECT plan(9);

-- One of everything, in a session whose statistics say that all tables are tiny.
CREATE FUNCTION t.work(id int) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(up('ann', 'phone', change(id, 'INSERT', 'users', 'u' || id, 0, '{"name":"x"}'), change(id + 1, 'INSERT', 'posts', 'p' || id, 0, format('{"author_id":"u%s","title":"x"}', id)),
              change(id + 2, 'INSERT', 'comments', 'c' || id, 0, format('{"post_id":"p%s","body":"x"}', id)), change(id + 3, 'INSERT', 'categories', 'k' || id, 0, '{}'))
        || ', ' || up('ann', 'phone', change(id + 4, 'UPDATE', 'users', 'u' || id, 0, '{"name":"y"}'), change(id + 5, 'UPDATE', 'posts', 'p' || id, 0, '{"title":"y"}'))
        || ', ' || up('ann', 'phone', change(id + 6, 'DELETE', 'comments', 'c' || id, 0), change(id + 7, 'DELETE', 'categories', 'k' || id, 0)), ' \d+', '', 'g') $$;
SELECT is(work(10) LIKE '%invalid%' OR work(10) LIKE '%conflict%', false, 'small');
ANALYZE;
SELECT is(work(20) LIKE '%invalid%' OR work(20) LIKE '%conflict%', false, 'analysed');
DO $$ BEGIN PERFORM work(100 + 10 * n) FROM generate_series(1, 20) AS n; END $$;

INSERT INTO app.users (id, name, _rowsync_scope) SELECT 'b' || n, 'x', 'ann' FROM generate_series(1, 5000) AS n;
INSERT INTO app.posts SELECT 'b' || n, 'b' || n, 'x', 'ann' FROM generate_series(1, 5000) AS n;
INSERT INTO app.categories (id, _rowsync_scope) SELECT 'b' || n, 'ann' FROM generate_series(1, 5000) AS n;
INSERT INTO app.comments SELECT 'b' || n, 'b' || n, 'x', 'ann' FROM generate_series(1, 5000) AS n;
CREATE INDEX ON app.comments (post_id);
CREATE INDEX ON app.posts (author_id);
CREATE INDEX ON app.categories (parent_id);
-- What is counted below is counted anew; the old plans stay, for nobody analyses the tables.
SELECT pg_stat_force_next_flush() \g /dev/null
BEGIN;
SELECT is(work(1000) LIKE '%invalid%' OR work(1000) LIKE '%conflict%', false, 'large');
SELECT is((SELECT string_agg(concat_ws(' ', relid::regclass, seq_scan, seq_tup_read), ', ') FROM pg_stat_xact_user_tables WHERE schemaname = 'app' AND seq_tup_read > 100),
          NULL, 'an upload scans no business table');
SELECT is((SELECT string_agg(concat_ws(' ', relid::regclass, seq_scan, seq_tup_read), ', ') FROM pg_stat_xact_user_tables WHERE schemaname = 'rowsync' AND seq_tup_read > 100),
          NULL, 'and none of rowsync''s');
SELECT cmp_ok((SELECT sum(idx_tup_fetch) FROM pg_stat_xact_user_tables), '<', 500::numeric, 'and fetches little by index');
COMMIT;
SELECT pg_stat_force_next_flush() \g /dev/null
BEGIN;
SELECT is(page('ann', 'tablet', 19000, 10) LIKE '%more', true, 'a page');
SELECT is((SELECT string_agg(concat_ws(' ', relid::regclass, seq_scan, seq_tup_read), ', ') FROM pg_stat_xact_user_tables WHERE schemaname = 'rowsync' AND seq_tup_read > 100),
          NULL, 'scans nothing');
SELECT cmp_ok((SELECT sum(idx_tup_fetch) FROM pg_stat_xact_user_tables), '<', 100::numeric, 'and fetches little by index');
COMMIT;
SELECT finish();
