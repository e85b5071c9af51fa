-- The answer of an upload, status by status, in full: applied, conflict, invalid, and the numbers
-- that go with them.
\ir include/helpers.sql
\ir include/app.sql
SELECT plan(15);

SELECT is(answer('ann', 'phone',
                 change(1, 'INSERT', 'users', 'u1', 0, '{"id":"u1","name":"Ann","email":"a@b.c","age":30}')),
          '{"accepted":true,"highest_server_seq":1,"last_upload":0,
            "statuses":[{"source_change_id":1,"status":"applied","new_server_version":1}]}'::jsonb,
          'an INSERT of every column is applied, without server_row');
SELECT is(answer('ann', 'phone', change(2, 'UPDATE', 'users', 'u1', 1, '{"name":"Anne"}')),
          '{"accepted":true,"highest_server_seq":2,"last_upload":1,
            "statuses":[{"source_change_id":2,"status":"applied","new_server_version":2}]}'::jsonb,
          'an UPDATE of one column is applied');
SELECT is((SELECT row(id, name, email, age)::text FROM app.users), '(u1,Anne,a@b.c,30)',
          'an UPDATE writes only the columns that came');
SELECT is(answer('ann', 'tablet', change(1, 'UPDATE', 'users', 'u1', 1, '{"name":"Anna"}')),
          '{"accepted":true,"highest_server_seq":2,"last_upload":0,
            "statuses":[{"source_change_id":1,"status":"conflict",
              "server_row":{"schema_name":"app","table_name":"users","id":"u1","server_version":2,
                            "deleted":false,
                            "payload":{"id":"u1","name":"Anne","email":"a@b.c","age":30}},
              "server_changed":["name"]}]}'::jsonb,
          'a change on an old version is a conflict that shows the row and what changed since');
SELECT is(answer('ann', 'phone', change(3, 'DELETE', 'users', 'u1', 2)),
          '{"accepted":true,"highest_server_seq":3,"last_upload":2,
            "statuses":[{"source_change_id":3,"status":"applied","new_server_version":3}]}'::jsonb,
          'a DELETE is applied');
SELECT is((SELECT array_agg(row(version, deleted)::text) FROM rowsync.row_meta), '{"(3,t)"}',
          'and leaves a tombstone');
SELECT is(answer('ann', 'tablet', change(2, 'UPDATE', 'users', 'u1', 1, '{"name":"Anna"}')),
          '{"accepted":true,"highest_server_seq":3,"last_upload":2,
            "statuses":[{"source_change_id":2,"status":"conflict",
              "server_row":{"schema_name":"app","table_name":"users","id":"u1","server_version":3,
                            "deleted":true,"payload":null}}]}'::jsonb,
          'a change of a row that was deleted is a conflict with the tombstone');
SELECT is(answer('ann', 'phone',
                 change(4, 'INSERT', 'posts', 'p1', 0, '{"id":"p1","author_id":"u9","title":"x"}')),
          '{"accepted":true,"highest_server_seq":3,"last_upload":3,
            "statuses":[{"source_change_id":4,"status":"invalid",
              "message":"a row that this change refers to is not there yet",
              "invalid":{"reason":"fk_missing","details":{"missing":["app.users:u9"]}}}]}'::jsonb,
          'a reference to nothing is fk_missing and says what is missing');
SELECT is(answer('ann', 'phone',
                 change(5, 'INSERT', 'users', 'u2', 0, '{"id":"u2","name":"Bo","colour":"red"}')),
          '{"accepted":true,"highest_server_seq":3,"last_upload":3,
            "statuses":[{"source_change_id":5,"status":"invalid",
              "message":"table app.users has no column \"colour\"",
              "invalid":{"reason":"bad_payload",
                         "details":{"error":"table app.users has no column \"colour\"",
                                    "column":"colour"}}}]}'::jsonb,
          'an unknown column is bad_payload');
SELECT is(answer('ann', 'phone', change(6, 'INSERT', 'users', 'u2', 0, '{"name":"Bo","age":-1}')),
          '{"accepted":true,"highest_server_seq":3,"last_upload":3,
            "statuses":[{"source_change_id":6,"status":"invalid",
              "message":"new row for relation \"users\" violates check constraint \"users_age_check\"",
              "invalid":{"reason":"constraint",
                         "details":{"error":"new row for relation \"users\" violates check constraint \"users_age_check\"",
                                    "sqlstate":"23514","constraint":"users_age_check"}}}]}'::jsonb,
          'a CHECK that fails is constraint, with its name and SQLSTATE');
SELECT is(answer('ann', 'phone', change(7, 'INSERT', 'users', 'u2', 0, '{"age":1}')),
          '{"accepted":true,"highest_server_seq":3,"last_upload":3,
            "statuses":[{"source_change_id":7,"status":"invalid",
              "message":"null value in column \"name\" of relation \"users\" violates not-null constraint",
              "invalid":{"reason":"constraint",
                         "details":{"error":"null value in column \"name\" of relation \"users\" violates not-null constraint",
                                    "column":"name","sqlstate":"23502"}}}]}'::jsonb,
          'NOT NULL is constraint, with the column');
SELECT is(answer('ann', 'phone', change(8, 'INSERT', 'nothing', 'u2', 0, '{}')),
          '{"accepted":true,"highest_server_seq":3,"last_upload":3,
            "statuses":[{"source_change_id":8,"status":"invalid",
              "message":"table app.nothing does not sync",
              "invalid":{"reason":"unregistered_table",
                         "details":{"error":"table app.nothing does not sync"}}}]}'::jsonb,
          'a table that is not registered is unregistered_table');
SELECT is(answer('ann', 'phone',
                 change(9, 'INSERT', 'users', 'u3', 0, '{"name":"Cy"}'),
                 change(10, 'INSERT', 'posts', 'p3', 0, '{"author_id":"u9","title":"x"}'),
                 change(11, 'INSERT', 'users', 'u4', 0, '{"name":"Di"}')) -> 'statuses',
          '[{"source_change_id":9,"status":"applied","new_server_version":4},
            {"source_change_id":10,"status":"invalid",
             "message":"a row that this change refers to is not there yet",
             "invalid":{"reason":"fk_missing","details":{"missing":["app.users:u9"]}}},
            {"source_change_id":11,"status":"applied","new_server_version":5}]'::jsonb,
          'one status for each change, in request order; the bad one costs the others nothing');
SELECT is(rowsync.upload('ann', 'phone', '{"last_server_seq_seen":0,"changes":[]}'),
          '{"accepted":true,"highest_server_seq":5,"last_upload":5,"statuses":[]}', 'no changes, no statuses');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
SELECT finish();
