-- Snapshots and digests: the live rows of a scope and nothing else, parents first, tied to their seq;
-- a digest that tells any two states apart.
\ir include/helpers.sql
\ir include/app.sql
SELECT plan(27);

CREATE FUNCTION t.lines(who text) RETURNS TABLE (n bigint, line jsonb) LANGUAGE sql AS $$
    SELECT n, l::jsonb FROM (SELECT string_agg(s, '') AS whole FROM rowsync.snapshot(who, 'new') AS s) AS w,
           regexp_split_to_table(rtrim(whole, E'\n'), E'\n') WITH ORDINALITY AS x(l, n) $$;
SELECT is((SELECT count(*)::int FROM lines('ann')), 2, 'a user whom nobody knows: a header and an end');
SELECT is(up('ann', 'phone', change(1, 'INSERT', 'comments', 'c1', 0, '{"post_id":"p1","body":"line one\nline two \u2028"}'),
                             change(2, 'INSERT', 'posts', 'p1', 0, '{"author_id":"u1","title":"T"}'),
                             change(3, 'INSERT', 'users', 'u1', 0, '{"name":"A","email":"é\"","age":7}'),
                             change(4, 'INSERT', 'users', 'u2', 0, '{"name":"gone"}')) LIKE '%invalid%', false, 'ann''s rows');
SELECT is(up('ann', 'phone', change(5, 'DELETE', 'users', 'u2', 0)), '5 applied 5', 'one of them deleted');
SELECT is(up('bob', 'phone', change(1, 'INSERT', 'users', 'b1', 0, '{"name":"B"}')), '1 applied 1', 'bob''s row');
SELECT is((SELECT line -> 'seq' FROM lines('ann') WHERE n = 1), '5'::jsonb, 'the header has the seq');
SELECT is((SELECT jsonb_path_query_array(line, '$.tables[*].table') @> '["users","posts","comments"]' FROM lines('ann') WHERE n = 1), true, 'and the tables');
CREATE FUNCTION t.rows(who text) RETURNS TABLE (n bigint, tab text, version bigint, "row" jsonb) LANGUAGE sql AS $$
    WITH l AS MATERIALIZED (SELECT * FROM lines(who))
    SELECT l.n, h.tab ->> 'table', (l.line ->> 1)::bigint, (SELECT jsonb_object_agg(c, l.line -> (1 + i::int)) FROM jsonb_array_elements_text(h.tab -> 'columns') WITH ORDINALITY AS e(c, i))
    FROM l, LATERAL (SELECT line -> 'tables' -> (l.line ->> 0)::int AS tab FROM l AS first WHERE first.n = 1) AS h WHERE jsonb_typeof(l.line) = 'array' $$;
SELECT results_eq($$SELECT tab FROM rows('ann') ORDER BY n$$, '{users,posts,comments}'::text[], 'live rows only, parents before children');
SELECT set_eq($$SELECT tab, "row" FROM rows('ann')$$, $$SELECT 'users' AS tab, to_jsonb(x) - '_rowsync_scope' AS row FROM app.users AS x WHERE _rowsync_scope = 'ann'
    UNION ALL SELECT 'posts', to_jsonb(x) - '_rowsync_scope' FROM app.posts AS x UNION ALL SELECT 'comments', to_jsonb(x) - '_rowsync_scope' FROM app.comments AS x$$,
    'as the tables have them');
SELECT set_eq($$SELECT version FROM rows('ann')$$, $$SELECT version FROM rowsync.row_meta JOIN rowsync.scope USING (scope_id) WHERE name = 'ann' AND NOT deleted$$, 'with their versions');
SELECT is((SELECT line - 'digest' FROM lines('ann') ORDER BY n DESC LIMIT 1), '{"end":true,"rows":3}'::jsonb, 'the last line counts them');
SELECT is((SELECT line -> 'digest' FROM lines('ann') ORDER BY n DESC LIMIT 1), rowsync.digest('ann')::jsonb -> 'digest', 'and has the digest');
SELECT is((SELECT count(*)::int FROM rowsync.snapshot('ann', 'new') AS s WHERE s NOT LIKE E'%\n'), 0, 'chunks are whole lines');

-- Where a change lies in the log is a hint: true where rowsync wrote it, and never trusted.
CREATE FUNCTION t.snapshot_with(place text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'UPDATE rowsync.row_meta AS m SET place = ' || place;
    RETURN (SELECT string_agg(s, '') FROM rowsync.snapshot('ann', 'new') AS s);
END $$;
SELECT is((SELECT count(*)::int FROM rowsync.row_meta AS m JOIN rowsync.change_log AS l ON l.ctid = m.place AND (l.scope_id, l.seq) = (m.scope_id, m.version)),
          (SELECT count(*)::int FROM rowsync.row_meta), 'all places are right');
SELECT is(snapshot_with('NULL'), (SELECT string_agg(s, '') FROM rowsync.snapshot('ann', 'new') AS s), 'none');
SELECT is(snapshot_with($$'(4294967294,1)'$$), snapshot_with('NULL'), 'one that is not there');
SELECT is(snapshot_with($$'(0,200)'$$), snapshot_with('NULL'), 'one where nothing is');
SELECT is(snapshot_with('(SELECT ctid FROM rowsync.change_log ORDER BY scope_id DESC, seq LIMIT 1)'), snapshot_with('NULL'), 'another user''s');

-- Digests.
CREATE TABLE t.digests (what text, digest text);
CREATE FUNCTION t.digest_is_new(what text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    now text := rowsync.digest('ann')::jsonb ->> 'digest';
    known boolean := EXISTS (SELECT FROM t.digests WHERE digest = now);
BEGIN
    INSERT INTO t.digests VALUES (what, now);
    RETURN NOT known;
END $$;
SELECT is(digest_is_new('start'), true, 'a digest');
UPDATE app.users SET age = 8 WHERE id = 'u1';
SELECT is(digest_is_new('update'), true, 'differs after an UPDATE');
INSERT INTO app.users (id, name, _rowsync_scope) VALUES ('u5', 'E', 'ann');
SELECT is(digest_is_new('insert'), true, 'after an INSERT');
DELETE FROM app.users WHERE id = 'u5';
SELECT is(digest_is_new('delete'), false, 'and is as before when the row has gone');
SELECT is(rowsync.digest('ann', 5)::jsonb ->> 'digest', (SELECT digest FROM t.digests WHERE what = 'start'), 'the digest of an earlier position');
SELECT is(rowsync.digest('ann', 6)::jsonb ->> 'digest', (SELECT digest FROM t.digests WHERE what = 'update'), 'of another');
SELECT isnt(rowsync.digest('ann')::jsonb ->> 'digest', rowsync.digest('bob')::jsonb ->> 'digest', 'another user''s is another');
SELECT is(refusal($$SELECT rowsync.digest('ann', -1)$$), 'RS002: at must be 0 or more', 'a negative position');
SELECT matches(refusal($$SELECT count(*) FROM rowsync.snapshot('', 'x')$$), '^RS002: user_id must have 1 to 255 bytes, not 0', 'an empty user');
SELECT is((SELECT string_agg(user_id || head, ' ' ORDER BY user_id) FROM rowsync.heads('{ann,bob,nobody}')), 'ann8 bob1', 'heads');
SELECT finish();
