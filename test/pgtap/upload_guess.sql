-- A row that an INSERT on version 0 names is taken for new until its place in row_meta shows
-- otherwise. Wherever that guess is wrong, the answers are those of the rules, and the log is dense.
\ir include/helpers.sql
\ir include/app.sql
SELECT plan(13);

SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'a-live', 0, '{"name":"L"}'),
                             change(2, 'INSERT', 'users', 'b-gone', 0, '{"name":"G"}')),
          '1 applied 1, 2 applied 2', 'rows that are new');
SELECT is(up('ann', 'phone', change(3, 'DELETE', 'users', 'b-gone', 2)), '3 applied 3', 'one goes');

-- A tombstone is met only when row_meta is written: all of it again, without guesses.
SELECT is(up('ann', 'tablet', change(1, 'INSERT', 'users', 'n1', 0, '{"name":"N"}'),
                              change(2, 'INSERT', 'users', 'b-gone', 0, '{"name":"X"}'),
                              change(3, 'INSERT', 'posts', 'p1', 0, '{"author_id":"n1","title":"x"}')),
          '1 applied 4, 2 conflict 3 deleted, 3 applied 5', 'a row that was deleted by somebody else');
-- A live row is met by the statement already.
SELECT is(up('ann', 'tablet', change(4, 'INSERT', 'users', 'n2', 0, '{"name":"N"}'),
                              change(5, 'INSERT', 'users', 'a-live', 0, '{"name":"X"}')),
          '4 applied 6, 5 conflict 1', 'a row that is there');
SELECT is(up('ann', 'phone', change(4, 'INSERT', 'users', 'a-live', 0, '{"name":"LL"}'),
                             change(5, 'INSERT', 'users', 'b-gone', 0, '{"name":"GG"}')),
          '4 applied 8, 5 applied 7', 'the same by the source that made all their changes');
SELECT is(up('ann', 'tablet', change(6, 'INSERT', 'users', 'n3', 0, '{"name":null}'),
                              change(7, 'INSERT', 'users', 'a-live', 0, '{"name":"LL","age":null}'),
                              change(8, 'INSERT', 'posts', 'p2', 0, '{"author_id":"a-live","title":"x"}')),
          '6 invalid constraint, 7 applied 9 +row, 8 applied 10', 'a wrong guess beside a bad row and a child of the row');
SELECT is(up('ann', 'tablet', change(9, 'INSERT', 'users', 'a-live', 0, '{"name":"X"}'),
                              change(10, 'INSERT', 'posts', 'p3', 0, '{"author_id":"nobody","title":"x"}')),
          '9 conflict 9, 10 invalid fk_missing', 'beside a child whose parent is missing');
SELECT is(up('ann', 'tablet', change(11, 'INSERT', 'users', 'a-live', 0, '{"name":"LL"}')), '11 applied 11 +row', 'what is there already');
SELECT is(up('bob', 'phone', change(1, 'INSERT', 'posts', 'p9', 0, '{"author_id":"a-live","title":"x"}')),
          '1 invalid fk_missing', 'a parent that only another user has');

-- Atomic requests start again too.
SELECT is(brief(atomic_answer('ann', 'tablet', change(20, 'INSERT', 'users', 'n4', 0, '{"name":"N"}'),
                                               change(21, 'INSERT', 'posts', 'p4', 0, '{"author_id":"n4","title":"x"}'))),
          '20 applied 12, 21 applied 13', 'guesses that hold');
SELECT is(up('ann', 'phone', change(22, 'DELETE', 'posts', 'p4', 0)) ~ '^22 ', true, 'one more change');
SELECT is((SELECT count(*) FROM rowsync.change_log JOIN rowsync.scope USING (scope_id) WHERE name = 'ann'),
          (SELECT head FROM rowsync.scope WHERE name = 'ann'), 'the log is dense');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
SELECT finish();
