-- What becomes of a change: every rule of protocol.md under "Rules that follow".
\ir include/helpers.sql
\ir include/app.sql
SELECT plan(43);

SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'u1', 0, '{"name":"Ann","age":1}')),
          '1 applied 1', 'a row to start with');

-- A change that says what the row already is, is applied.
SELECT is(up('ann', 'tablet', change(1, 'INSERT', 'users', 'u1', 0,
                                     '{"id":"u1","name":"Ann","email":null,"age":1}')),
          '1 applied 2', 'another source says the same of the whole row: applied');
SELECT is((SELECT array_agg(l) FROM log('ann', 1) AS l), '{2 users U u1 tablet}',
          'and the log knows of it');
SELECT is(up('ann', 'tablet', change(1, 'INSERT', 'users', 'u1', 0,
                                     '{"id":"u1","name":"Ann","email":null,"age":1}')),
          '1 applied 2', 'so that it is known when it is sent again');
SELECT is(up('ann', 'laptop', change(1, 'INSERT', 'users', 'u1', 0, '{"name":"Ann","age":2}')),
          '1 conflict 2', 'saying something else is a conflict');

-- A source never conflicts with itself.
SELECT is(up('ann', 'phone', change(2, 'INSERT', 'users', 'u2', 0, '{"name":"Bo"}')),
          '2 applied 3', 'phone inserts on version 0');
SELECT is(up('ann', 'phone', change(3, 'UPDATE', 'users', 'u2', 0, '{"name":"Bob"}')),
          '3 applied 4', 'and updates on version 0: moved by itself alone');
SELECT is(up('ann', 'phone', change(4, 'UPDATE', 'users', 'u2', 3, '{"name":"Rob"}')),
          '4 applied 5', 'and updates on its first version');
SELECT is(up('ann', 'phone', change(5, 'DELETE', 'users', 'u2', 3)),
          '5 applied 6', 'and deletes on its first version');
SELECT is(up('ann', 'phone', change(6, 'INSERT', 'users', 'u2', 4, '{"name":"Bo"}')),
          '6 applied 7', 'and inserts again on a version before the tombstone');
SELECT is(up('ann', 'tablet', change(2, 'UPDATE', 'users', 'u2', 7, '{"name":"T"}')),
          '2 applied 8', 'another source moves the row');
SELECT is(up('ann', 'phone', change(7, 'UPDATE', 'users', 'u2', 7, '{"name":"P"}')),
          '7 conflict 8', 'now its own version is not enough');
SELECT is(up('ann', 'phone', change(8, 'UPDATE', 'users', 'u2', 8, '{"name":"P"}')),
          '8 applied 9', 'on the version of the other it is');
SELECT is(up('ann', 'tablet', change(3, 'DELETE', 'users', 'u2', 8)),
          '3 conflict 9', 'a DELETE on an old version is a conflict');
SELECT is(up('ann', 'phone', change(9, 'UPDATE', 'users', 'u2', 5, '{"name":"Q"}')),
          '9 conflict 9', 'own changes on both sides of a foreign one do not hide it');

-- DELETE of a row the server never saw.
SELECT is(up('ann', 'phone', change(10, 'DELETE', 'users', 'never', 0)),
          '10 applied 10', 'DELETE of a row never seen is applied');
SELECT is((SELECT row(version, deleted)::text FROM rowsync.row_meta WHERE row_key = 'never'),
          '(10,t)', 'and leaves a tombstone');
SELECT is(up('ann', 'tablet', change(4, 'DELETE', 'users', 'never', 0)),
          '4 applied 11', 'DELETE of a deleted row says what it is: applied');

-- A row that this scope does not have.
SELECT is(answer('ann', 'phone', change(11, 'UPDATE', 'users', 'ghost', 5, '{"name":"G"}'))
            #> '{statuses,0}',
          '{"source_change_id":11,"status":"conflict",
            "server_row":{"schema_name":"app","table_name":"users","id":"ghost",
                          "server_version":0,"deleted":true,"payload":null}}'::jsonb,
          'UPDATE on a version of a row never had: a conflict with version 0');
SELECT is(up('ann', 'phone', change(12, 'INSERT', 'users', 'ghost', 5, '{"name":"G"}')),
          '12 conflict 0 deleted', 'INSERT likewise');
SELECT is(up('ann', 'phone', change(13, 'UPDATE', 'users', 'ghost', 0, '{"name":"G"}')),
          '13 applied 12', 'UPDATE on version 0 is an insert');
SELECT is((SELECT name FROM app.users WHERE id = 'ghost'), 'G', 'and writes the row');
SELECT is((SELECT array_agg(l) FROM log('ann', 11) AS l), '{12 users I ghost phone}',
          'which the log calls an insert');
SELECT is(up('ann', 'phone', change(14, 'UPDATE', 'users', 'u1', 99, '{"name":"G"}')),
          '14 conflict 2', 'a version that is not there yet is a conflict');

-- Tombstones.
SELECT is(up('ann', 'phone', change(15, 'DELETE', 'users', 'ghost', 12)),
          '15 applied 13', 'a tombstone at version 13');
SELECT is(up('ann', 'tablet', change(5, 'INSERT', 'users', 'ghost', 0, '{"name":"H"}')),
          '5 conflict 13 deleted', 'an INSERT not made on it is a conflict');
SELECT is(up('ann', 'tablet', change(6, 'UPDATE', 'users', 'ghost', 12, '{"name":"H"}')),
          '6 conflict 13 deleted', 'an UPDATE on the version before it too');
SELECT is(up('ann', 'tablet', change(7, 'INSERT', 'users', 'ghost', 13, '{"name":"H"}')),
          '7 applied 14', 'it loses against an INSERT made on its version');
SELECT is((SELECT name FROM app.users WHERE id = 'ghost'), 'H', 'and the row is back');

-- An INSERT on the version of a live row leaves absent columns as they are.
SELECT is(up('ann', 'tablet', change(8, 'INSERT', 'users', 'u1', 2, '{"name":"Anne"}')),
          '8 applied 15', 'an INSERT on the version of a live row updates it');
SELECT is((SELECT row(name, age)::text FROM app.users WHERE id = 'u1'), '(Anne,1)',
          'and keeps what it does not name');

-- server_changed against the base version.
SELECT is(up('ann', 'tablet', change(9, 'UPDATE', 'users', 'u1', 15, '{"age":7}'),
                              change(10, 'UPDATE', 'users', 'ghost', 14, '{"age":7}'))
          ~ '^9 applied 1[67], 10 applied 1[67]$', true, 'tablet changes age alone');
SELECT is(answer('ann', 'phone', change(16, 'UPDATE', 'users', 'u1', 15, '{"name":"X"}'))
            #> '{statuses,0,server_changed}', '["age"]'::jsonb,
          'server_changed has what differs from the base, not from what was sent');
SELECT is(answer('ann', 'phone', change(17, 'UPDATE', 'users', 'u1', 2, '{"email":"X"}'))
            #> '{statuses,0,server_changed}', '["name", "age"]'::jsonb,
          'over several changes');
SELECT is(answer('ann', 'phone', change(18, 'UPDATE', 'users', 'u1', 3, '{"email":"X"}'))
            #> '{statuses,0,server_changed}', NULL,
          'and is absent where the base was never a version of the row');

-- What a change says may be true already, and the device still not know the rest of the row.
SELECT is(up('ann', 'phone', change(20, 'INSERT', 'users', 'u20', 0, '{"name":"A","email":"old"}')), '20 applied 18', 'phone inserts');
SELECT is(up('ann', 'tablet', change(20, 'UPDATE', 'users', 'u20', 18, '{"name":"B","email":"new"}')), '20 applied 19', 'tablet changes two columns');
SELECT is(answer('ann', 'phone', change(21, 'UPDATE', 'users', 'u20', 18, '{"name":"B"}')) #> '{statuses,0}',
          '{"source_change_id":21,"status":"applied","new_server_version":20,
            "server_row":{"schema_name":"app","table_name":"users","id":"u20","server_version":20,"deleted":false,
                          "payload":{"id":"u20","name":"B","email":"new","age":null}}}'::jsonb,
          'phone changes one to the same: applied, with the row, for its download leaves this row out');
SELECT is(page('ann', 'phone', 18), '> 20/20', 'as it does');
SELECT is(up('ann', 'phone', change(21, 'UPDATE', 'users', 'u20', 18, '{"name":"B"}')), '21 applied 20 +row', 'sent again, the same');

SELECT is((SELECT count(*)::int FROM rowsync.source), 3,
          'each source that uploaded is known, once');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');

-- A change whose answer was lost is the device's own: what it did is not held against the next one.
SELECT up('zoe', 'phone', change(1, 'INSERT', 'users', 'z', 0, '{"name":"A"}')) AS done \gset
SELECT up('zoe', 'phone', change(2, 'UPDATE', 'users', 'z', 1, '{"name":"lost"}')) AS done \gset
SELECT up('zoe', 'tablet', change(1, 'UPDATE', 'users', 'z', 2, '{"email":"T"}')) AS done \gset
SELECT is(answer('zoe', 'phone', change(3, 'UPDATE', 'users', 'z', 1, '{"name":"B"}')) #> '{statuses,0,server_changed}',
          '["email"]'::jsonb, 'server_changed leaves out what only the source itself changed');
SELECT finish();
