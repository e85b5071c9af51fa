-- "atomic": all changes are applied or none, and then the log knows of none.
\ir include/helpers.sql
\ir include/app.sql
SELECT plan(12);

SELECT is(atomic_answer('ann', 'phone', change(1, 'INSERT', 'posts', 'p1', 0, '{"author_id":"u1","title":"x"}'),
                                        change(2, 'INSERT', 'users', 'u1', 0, '{"name":"A"}')),
          '{"accepted":true,"highest_server_seq":2,"last_upload":0,
            "statuses":[{"source_change_id":1,"status":"applied","new_server_version":2},
                        {"source_change_id":2,"status":"applied","new_server_version":1}]}'::jsonb,
          'all good: all applied');
SELECT is(atomic_answer('ann', 'phone', change(3, 'INSERT', 'users', 'u3', 0, '{"name":"C"}'),
                                        change(4, 'INSERT', 'users', 'u4', 0, '{"age":1}'),
                                        change(5, 'DELETE', 'posts', 'p1', 2)),
          '{"accepted":true,"highest_server_seq":2,"last_upload":2,
            "statuses":[{"source_change_id":3,"status":"invalid",
                         "message":"not applied: the request is atomic and another of its changes was refused",
                         "invalid":{"reason":"internal_error","details":{"sqlstate":"40000",
                           "error":"not applied: the request is atomic and another of its changes was refused"}}},
                        {"source_change_id":4,"status":"invalid",
                         "message":"null value in column \"name\" of relation \"users\" violates not-null constraint",
                         "invalid":{"reason":"constraint","details":{"column":"name","sqlstate":"23502",
                           "error":"null value in column \"name\" of relation \"users\" violates not-null constraint"}}},
                        {"source_change_id":5,"status":"invalid",
                         "message":"not applied: the request is atomic and another of its changes was refused",
                         "invalid":{"reason":"internal_error","details":{"sqlstate":"40000",
                           "error":"not applied: the request is atomic and another of its changes was refused"}}}]}'::jsonb,
          'one bad: none applied, and the bad one says why');
SELECT results_eq('SELECT id FROM app.users', '{u1}'::text[], 'no row came');
SELECT results_eq('SELECT id FROM app.posts', '{p1}'::text[], 'no row went');
SELECT is((SELECT max(seq) FROM rowsync.change_log), 2::bigint, 'nothing is in the log');
SELECT is((SELECT count(*)::int FROM rowsync.row_meta), 2, 'no version either');
SELECT is(brief(atomic_answer('ann', 'tablet', change(1, 'INSERT', 'users', 'u5', 0, '{"name":"E"}'),
                                               change(2, 'UPDATE', 'users', 'u1', 0, '{"name":"X"}'))),
          '1 invalid internal_error, 2 conflict 1', 'a conflict holds all back too');
SELECT is(brief(atomic_answer('ann', 'phone', change(6, 'INSERT', 'users', 'u6', 0, '{"name":"F"}'),
                                              change(7, 'INSERT', 'posts', 'p7', 0, '{"author_id":"u9","title":"x"}'))),
          '6 invalid internal_error, 7 invalid fk_missing', 'so does a missing parent');
SELECT is(brief(atomic_answer('ann', 'phone', change(6, 'INSERT', 'users', 'u6', 0, '{"name":"F"}'))),
          '6 applied 3', 'what was held back may come again under its number');
SELECT is(brief(atomic_answer('ann', 'phone', change(6, 'INSERT', 'users', 'u6', 0, '{"name":"F"}'),
                                              change(8, 'INSERT', 'users', 'u8', 0, '{"name":"H"}'))),
          '6 applied 3, 8 applied 4', 'what is known already does not hold the rest back');
SELECT is(brief(atomic_answer('ann', 'phone', change(9, 'DELETE', 'users', 'u8', 0),
                                              change(10, 'INSERT', 'users', 'u8', 0, '{"name":"I"}'),
                                              change(11, 'INSERT', 'users', 'u8', 0, '{"name":null}'))),
          '9 invalid internal_error, 10 invalid internal_error, 11 invalid constraint', 'several changes of one row go as one');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
SELECT finish();
