-- Several changes of one row in one batch, and batches in any order: what counts is what they say,
-- not where they stand.
\ir include/helpers.sql
\ir include/app.sql
SELECT plan(32);

-- One key several times.
SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'u1', 0, '{"name":"A","age":1}'),
                             change(2, 'UPDATE', 'users', 'u1', 0, '{"name":"AA"}')),
          '1 applied 1, 2 applied 2', 'insert and update of one key');
SELECT is((SELECT row(name, age)::text FROM app.users), '(AA,1)', 'both took effect, in order');
SELECT is(up('ann', 'phone', change(3, 'UPDATE', 'users', 'u1', 2, '{"name":"B"}'),
                             change(4, 'DELETE', 'users', 'u1', 2),
                             change(5, 'INSERT', 'users', 'u1', 2, '{"name":"C"}'),
                             change(6, 'UPDATE', 'users', 'u1', 2, '{"age":9}'),
                             change(7, 'DELETE', 'users', 'u1', 2),
                             change(8, 'INSERT', 'users', 'u1', 0, '{"name":"D"}')),
          '3 applied 3, 4 applied 4, 5 applied 5, 6 applied 6, 7 applied 7, 8 applied 8',
          'update, delete, insert, update, delete, insert of one key');
SELECT is((SELECT row(name, age)::text FROM app.users), '(D,)', 'the last word stands');
SELECT is((SELECT string_agg(op::text, '' ORDER BY seq) FROM rowsync.change_log), 'IUUDIUDI', 'the log has all of them');
SELECT is(up('ann', 'tablet', change(1, 'UPDATE', 'users', 'u1', 3, '{"name":"X"}'),
                              change(2, 'UPDATE', 'users', 'u1', 3, '{"name":"Y"}')),
          '1 conflict 8, 2 conflict 8', 'a conflict stays one for the next change of the row');
SELECT is(up('ann', 'phone', change(9, 'INSERT', 'users', 'u9', 0, '{"name":null}'),
                             change(10, 'UPDATE', 'users', 'u9', 0, '{"name":"I"}')),
          '9 invalid constraint, 10 applied 9', 'the second makes good what the first got wrong');
SELECT is(up('ann', 'phone', change(11, 'INSERT', 'users', 'u10', 0, '{"name":"J"}'),
                             change(12, 'DELETE', 'users', 'u10', 0)),
          '11 applied 10, 12 applied 11', 'insert and delete of one key');

SELECT is(up('ann', 'phone', change(13, 'INSERT', 'users', 'u11', 0, '{"name":"K"}'),
                             change(14, 'UPDATE', 'users', 'u11', 0, '{}'),
                             change(15, 'UPDATE', 'users', 'u11', 0, '{"id":"u11"}')),
          '13 applied 12, 14 applied 13, 15 applied 14', 'an insert and updates that say nothing');

-- Children first.
SELECT is(up('ann', 'phone', change(20, 'INSERT', 'comments', 'c1', 0, '{"post_id":"p1","body":"x"}'),
                             change(21, 'INSERT', 'posts', 'p1', 0, '{"author_id":"u20","title":"x"}'),
                             change(22, 'INSERT', 'users', 'u20', 0, '{"name":"T"}')),
          '20 applied 17, 21 applied 16, 22 applied 15', 'children before parents: parents are written first');
SELECT is(up('ann', 'phone', change(23, 'DELETE', 'users', 'u20', 15),
                             change(24, 'DELETE', 'posts', 'p1', 16),
                             change(25, 'DELETE', 'comments', 'c1', 17)),
          '23 applied 20, 24 applied 19, 25 applied 18', 'parents before children: children are deleted first');

-- A row that refers to its own table.
SELECT is(up('ann', 'phone', change(30, 'INSERT', 'categories', 'k3', 0, '{"parent_id":"k2"}'),
                             change(31, 'INSERT', 'categories', 'k2', 0, '{"parent_id":"k1"}'),
                             change(32, 'INSERT', 'categories', 'k1', 0, '{"parent_id":null}'),
                             change(33, 'INSERT', 'categories', 'k0', 0, '{"parent_id":"k0"}'))
          ~ '^30 applied \d+, 31 applied \d+, 32 applied \d+, 33 applied \d+$', true, 'a chain of its own, and a row that is its own parent');
SELECT is(up('ann', 'phone', change(34, 'DELETE', 'categories', 'k1', 0),
                             change(35, 'DELETE', 'categories', 'k2', 0),
                             change(36, 'DELETE', 'categories', 'k3', 0)) ~ '^34 applied \d+, 35 applied \d+, 36 applied \d+$',
          true, 'and back, parents first');

-- Rows that refer to each other.
SELECT is(up('ann', 'phone', change(40, 'INSERT', 'teams', 't1', 0, '{"captain_id":"m1"}'),
                             change(41, 'INSERT', 'members', 'm1', 0, '{"team_id":"t1"}'))
            ~ '^40 applied \d+, 41 applied \d+$', true, 'a cycle of two rows');
SELECT is(up('ann', 'phone', change(42, 'INSERT', 'teams', 't2', 0, '{"captain_id":"m2"}'),
                             change(43, 'INSERT', 'members', 'm2', 0, '{"team_id":"t9"}')),
          '42 invalid fk_missing, 43 invalid fk_missing', 'of a broken cycle nothing is written');
SELECT is(up('ann', 'phone', change(44, 'DELETE', 'teams', 't1', 0),
                             change(45, 'DELETE', 'members', 'm1', 0)) ~ '^44 applied \d+, 45 applied \d+$',
          true, 'a cycle goes as one');
SELECT is((SELECT count(*)::int FROM app.teams) + (SELECT count(*)::int FROM app.members), 0, 'and is gone');
SELECT is(up('ann', 'phone', change(46, 'INSERT', 'teams', 't3', 0, '{"captain_id":"m3"}'),
                             change(47, 'INSERT', 'users', 'u47', 0, '{"name":null}'),
                             change(48, 'INSERT', 'members', 'm3', 0, '{"team_id":"t3"}')) ~ '^46 applied \d+, 47 invalid constraint, 48 applied \d+$',
          true, 'beside a bad row too it is written as one');

-- Who misses a parent drags only its own children along.
SELECT is(up('ann', 'phone', change(50, 'INSERT', 'comments', 'c50', 0, '{"post_id":"p50","body":"x"}'),
                             change(51, 'INSERT', 'posts', 'p50', 0, '{"author_id":"u50","title":"x"}'),
                             change(52, 'INSERT', 'posts', 'p51', 0, '{"author_id":"u51","title":"x"}'),
                             change(53, 'INSERT', 'users', 'u51', 0, '{"name":"x"}')) ~
          '^50 invalid fk_missing, 51 invalid fk_missing, 52 applied \d+, 53 applied \d+$', true,
          'a missing grandparent');
SELECT is(answer('ann', 'phone', change(50, 'INSERT', 'comments', 'c50', 0, '{"post_id":"p50","body":"x"}'),
                                 change(51, 'INSERT', 'posts', 'p50', 0, '{"author_id":"u50","title":"x"}'))
            #> '{statuses,0,invalid,details,missing}', '["app.posts:p50"]'::jsonb, 'the child misses its own parent');
SELECT is(up('ann', 'phone', change(54, 'INSERT', 'users', 'u50', 0, '{"name":null}'),
                             change(51, 'INSERT', 'posts', 'p50', 0, '{"author_id":"u50","title":"x"}')),
          '54 invalid constraint, 51 invalid fk_missing', 'a parent that is refused is no parent');

-- A parent goes while its child moves; a parent goes and its child stays.
SELECT is(up('ann', 'phone', change(60, 'INSERT', 'users', 'u60', 0, '{"name":"x"}'),
                             change(61, 'INSERT', 'users', 'u61', 0, '{"name":"x"}'),
                             change(62, 'INSERT', 'posts', 'p60', 0, '{"author_id":"u60","title":"x"}')) LIKE '%invalid%',
          false, 'a child of u60');
SELECT is(up('ann', 'phone', change(63, 'DELETE', 'users', 'u60', 0),
                             change(64, 'UPDATE', 'posts', 'p60', 0, '{"author_id":"u61"}')) LIKE '%invalid%',
          false, 'u60 goes while its child moves to u61');
SELECT is((SELECT author_id FROM app.posts WHERE id = 'p60'), 'u61', 'the child has moved');
SELECT is(fault(answer('ann', 'phone', change(65, 'DELETE', 'users', 'u61', 0))),
          'constraint | update or delete on table "users" violates foreign key constraint "posts_author_id_fkey" on table "posts"'
          ' | {"sqlstate": "23503", "constraint": "posts_author_id_fkey"}', 'a parent whose child stays cannot go');

-- Unique values that a delete in the batch frees; that two rows swap.
SELECT is(up('ann', 'phone', change(70, 'INSERT', 'users', 'u70', 0, '{"name":"x","email":"e"}')) LIKE '%applied%', true, 'e is taken');
SELECT is(up('ann', 'phone', change(71, 'INSERT', 'users', 'u71', 0, '{"name":"x","email":"e"}'),
                             change(72, 'INSERT', 'users', 'u72', 0, '{"name":"x","email":"f"}'),
                             change(73, 'DELETE', 'users', 'u70', 0)) ~ '^71 applied \d+, 72 applied \d+, 73 applied \d+$',
          true, 'a later delete of the batch frees it');
SELECT is(up('ann', 'phone', change(74, 'UPDATE', 'users', 'u71', 0, '{"email":"g"}'),
                             change(75, 'INSERT', 'users', 'u75', 0, '{"name":"x","email":"e"}')) ~ '^74 applied \d+, 75 applied \d+$',
          true, 'a change of the batch frees it');
-- A row that is changed very often, always on its first version: its history is read once for a
-- request, not once for each change.
CREATE FUNCTION often(first_id int, n int) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM (SELECT answer('ann', 'phone', VARIADIC array_agg(
        change(first_id + i, 'UPDATE', 'users', 'often', 0, format('{"name":"%s"}', i)) ORDER BY i)) AS a
        FROM generate_series(1, n) AS i) AS up, jsonb_array_elements(a -> 'statuses') AS s WHERE s ->> 'status' = 'applied'
$$;
SELECT is(often(10000, 300), 300::bigint, 'many changes of one row in one request');
BEGIN;
SELECT is(often(20000, 200), 200::bigint, 'and many more behind them');
SELECT cmp_ok((SELECT idx_scan FROM pg_stat_xact_user_tables WHERE relid = 'rowsync.change_log'::regclass), '<', 1000::bigint,
              'read the log once for each version');
COMMIT;
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
SELECT finish();
