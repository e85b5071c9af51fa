-- Exactly once: a change sent again, in whatever batch, has no second effect and gets the same answer.
\ir include/helpers.sql
\ir include/app.sql
SELECT plan(48);

SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'u1', 0, '{"name":"A"}'),
                             change(2, 'INSERT', 'users', 'u2', 0, '{"name":"B"}')),
          '1 applied 1, 2 applied 2', 'two changes');
SELECT is(up('ann', 'phone', change(2, 'INSERT', 'users', 'u2', 0, '{"name":"B"}'),
                             change(1, 'INSERT', 'users', 'u1', 0, '{"name":"A"}')),
          '2 applied 2, 1 applied 1', 'the same in another order: the same answers');
SELECT is(up('ann', 'phone', change(3, 'INSERT', 'users', 'u3', 0, '{"name":"C"}'),
                             change(1, 'INSERT', 'users', 'u1', 0, '{"name":"A"}')),
          '3 applied 3, 1 applied 1', 'an old one beside a new one');
SELECT is((SELECT array_agg(l) FROM log('ann') AS l),
          '{1 users I u1 phone,2 users I u2 phone,3 users I u3 phone}', 'each is in the log once');
SELECT is(up('ann', 'phone', change(4, 'UPDATE', 'users', 'u1', 1, '{"name":"AA"}')), '4 applied 4', 'the row moves on');
SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'u1', 0, '{"name":"A"}')),
          '1 applied 1', 'the old change has the old answer');
SELECT is((SELECT name FROM app.users WHERE id = 'u1'), 'AA', 'and does not bring the old row back');
SELECT is(up('ann', 'phone', change(5, 'DELETE', 'users', 'u1', 4)), '5 applied 5', 'the row goes');
SELECT is(up('ann', 'phone', change(4, 'UPDATE', 'users', 'u1', 1, '{"name":"AA"}')), '4 applied 4', 'sent again');
SELECT is((SELECT count(*)::int FROM app.users WHERE id = 'u1'), 0, 'does not bring it back');

-- Numbers are each source's own, and each user's.
SELECT is(up('ann', 'tablet', change(1, 'INSERT', 'users', 'u4', 0, '{"name":"D"}')), '1 applied 6',
          'another source has numbers of its own');
SELECT is(up('bob', 'phone', change(1, 'INSERT', 'users', 'u5', 0, '{"name":"E"}')), '1 applied 1',
          'the same source id of another user too');
SELECT is(up('ann', 'Phone', change(1, 'INSERT', 'users', 'u6', 0, '{"name":"F"}')), '1 applied 7',
          'source ids keep their case');

-- A refused change is not used up: the same number may come again, corrected.
SELECT is(up('ann', 'phone', change(9, 'INSERT', 'posts', 'p9', 0, '{"author_id":"u9","title":"x"}')),
          '9 invalid fk_missing', 'refused');
SELECT is(up('ann', 'phone', change(10, 'INSERT', 'users', 'u9', 0, '{"name":"I"}')), '10 applied 8', 'what it missed');
SELECT is(up('ann', 'phone', change(9, 'INSERT', 'posts', 'p9', 0, '{"author_id":"u9","title":"x"}')),
          '9 applied 9', 'a lower number than the highest applied, never applied before');
SELECT is(up('ann', 'phone', change(10, 'INSERT', 'users', 'u9', 0, '{"name":"I"}'), change(9, 'INSERT', 'posts', 'p9', 0, '{"author_id":"u9","title":"x"}'),
                             change(2, 'INSERT', 'users', 'u2', 0, '{"name":"B"}')), '10 applied 8, 9 applied 9, 2 applied 2', 'it is known from then on, as are those around it');

-- The same number twice in one request.
SELECT is(up('ann', 'phone', change(11, 'INSERT', 'users', 'u11', 0, '{"name":"K"}'),
                             change(11, 'INSERT', 'users', 'u11', 0, '{"name":"K"}')),
          '11 applied 10, 11 applied 10', 'the same change twice in a batch: once, one answer');
SELECT is(answer('ann', 'phone', change(12, 'INSERT', 'users', 'u12', 0, '{"name":"L"}'),
                                 change(12, 'INSERT', 'users', 'u13', 0, '{"name":"M"}')) -> 'statuses',
          '[{"source_change_id":12,"status":"applied","new_server_version":11},
            {"source_change_id":12,"status":"invalid",
             "message":"source_change_id is used twice in this request, for different changes",
             "invalid":{"reason":"bad_payload","details":{
               "error":"source_change_id is used twice in this request, for different changes"}}}]'::jsonb,
          'two changes under one number: the first counts');
SELECT is(up('ann', 'phone', change(12, 'INSERT', 'users', 'u12', 0, '{"name":"L"}'), change(12, 'INSERT', 'users', 'u13', 0, '{"name":"M"}'),
                             change(12, 'INSERT', 'users', 'u12', 0, '{"name":"L"}')), '12 applied 11, 12 invalid bad_payload, 12 applied 11', 'and counts again behind the other');
SELECT results_eq($$SELECT id FROM app.users WHERE id > 'u1' AND id < 'u2' ORDER BY id$$, '{u11,u12}'::text[],
                  'and is the one that is written');

-- The answer is the same also where the server made more of the row.
CREATE TABLE app.drafts (id text PRIMARY KEY, state text DEFAULT 'new', body text);
SELECT rowsync.register_table('app.drafts') > 0 AS registered \gset
SELECT is(answer('ann', 'phone', change(20, 'INSERT', 'drafts', 'd1', 0, '{"body":"x"}')) #> '{statuses,0,server_row,payload}',
          '{"id":"d1","state":"new","body":"x"}'::jsonb, 'a default comes back');
SELECT is(answer('ann', 'phone', change(20, 'INSERT', 'drafts', 'd1', 0, '{"body":"x"}')) #> '{statuses,0,server_row,payload}',
          '{"id":"d1","state":"new","body":"x"}'::jsonb, 'for who did not hear it, too');
SELECT is(brief(atomic_answer('ann', 'phone', change(20, 'INSERT', 'drafts', 'd1', 0, '{"body":"x"}'),
                                              change(21, 'INSERT', 'users', 'u21', 0, '{}'))) LIKE '20 applied 12%, 21 invalid constraint', true,
          'what is known stays applied when an atomic request is refused');

-- A number that comes again with other content is another change: a device that was put back to an
-- older state counts on from there. It is refused where it can be seen, not taken for the first.
CREATE FUNCTION app.shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.body := upper(NEW.body); RETURN NEW; END $$;
CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON app.drafts FOR EACH ROW EXECUTE FUNCTION app.shout();
SELECT is(up('ann', 'phone', change(30, 'INSERT', 'users', 'u30', 0, '{"name":"A","age":1}'), change(31, 'DELETE', 'users', 'u30', 0),
             change(32, 'INSERT', 'drafts', 'd32', 0, '{"body":"x"}')) ~ '^30 applied \d+, 31 applied \d+, 32 applied \d+ [+]row$', true, 'three changes');
SELECT is(fault(answer('ann', 'phone', change(30, 'INSERT', 'users', 'u30', 0, '{"name":"B","age":1}'))),
          'bad_payload | source_change_id was used before, for other content', 'other content under the number of the first');
SELECT is(up('ann', 'phone', change(30, 'DELETE', 'users', 'u30', 0)), '30 invalid bad_payload', 'a deletion');
SELECT is(up('ann', 'phone', change(31, 'INSERT', 'users', 'u30', 0, '{"name":"B"}')), '31 invalid bad_payload', 'a row under the number of a deletion');
SELECT is(up('ann', 'phone', change(30, 'UPDATE', 'users', 'u30', 0, '{"age":2}')), '30 invalid bad_payload', 'a column of it');
SELECT is(up('ann', 'phone', change(31, 'DELETE', 'users', 'u30', 7)) LIKE '31 applied%', true, 'a deletion is a deletion');
SELECT is(up('ann', 'phone', change(32, 'INSERT', 'drafts', 'd32', 0, '{"body":"x"}')) LIKE '32 applied%+row', true,
          'what a trigger has changed is the same change, sent again');
SELECT is(up('ann', 'phone', '{"payload": {"body" : "x"},"op":"INSERT","pk":"d32","table":"drafts","schema":"app","server_version":7,"source_change_id":32}')
          LIKE '32 applied%+row', true, 'in whatever order and layout, and on whatever version');
SELECT is(up('ann', 'phone', change(32, 'INSERT', 'drafts', 'd32', 0, '{"body":"y"}')), '32 invalid bad_payload', 'and another one is another one');
SELECT is(up('ann', 'phone', change(32, 'INSERT', 'drafts', 'd32', 0, '{"id":"d32","body":"X","state":"new"}')) LIKE '32 applied%', true,
          'what says what was stored, in whatever writing, is the same');
SELECT is((SELECT body FROM app.drafts WHERE id = 'd32'), 'X', 'nothing of it was written');
SELECT is(brief(atomic_answer('ann', 'phone', change(33, 'INSERT', 'users', 'u33', 0, '{"name":"A"}'), change(30, 'DELETE', 'users', 'u30', 0))),
          '33 invalid internal_error, 30 invalid bad_payload', 'it holds an atomic request back');
SELECT is(up('ann', 'phone', change(34, 'DELETE', 'users', 'u30', 0)) LIKE '34 applied%', true, 'under a number of its own it is heard');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
-- Two requests in one statement.
SELECT is(x, y, 'the same change twice in one statement') FROM (SELECT up('sam', 'phone', change(1, 'INSERT', 'users', 's1', 0, '{"name":"S"}')) AS x,
    up('sam', 'phone', change(1, 'INSERT', 'users', 's1', 0, '{"name":"S"}')) AS y) AS twice;

-- A table that was unregistered and registered again has no history from before, and perhaps keys of another type.
CREATE TABLE app.notes (id text PRIMARY KEY, state text DEFAULT 'new', body text);
SELECT rowsync.register_table('app.notes') > 0 AS registered \gset
\set k1 00000000-0000-0000-0000-000000000001
\set k2 00000000-0000-0000-0000-000000000002
SELECT change(1, 'INSERT', 'notes', :'k1', 0, '{"body":"a"}') AS insert1, change(2, 'INSERT', 'notes', :'k2', 0, '{"body":"b"}') AS insert2,
       change(3, 'UPDATE', 'notes', :'k2', 0, '{"body":"c"}') AS update2, change(4, 'DELETE', 'notes', :'k1', 1) AS delete1 \gset
SELECT is(up('kim', 'phone', :'insert1', :'insert2', :'update2', :'delete1', change(5, 'INSERT', 'users', 'k5', 0, '{"name":"A"}')),
          '1 applied 1 +row, 2 applied 2 +row, 3 applied 4, 4 applied 5, 5 applied 3', 'five changes');
SELECT rowsync.unregister_table('app.notes') AS done \gset
UPDATE app.notes SET body = 'by hand';
SELECT rowsync.register_table('app.notes') > 0 AS registered \gset
SELECT is(answer('kim', 'phone', :'update2') #> '{statuses,0}',
          '{"source_change_id":3,"status":"applied","new_server_version":7,
            "server_row":{"schema_name":"app","table_name":"notes","id":"00000000-0000-0000-0000-000000000002","server_version":7,
                          "deleted":false,"payload":{"id":"00000000-0000-0000-0000-000000000002","state":"new","body":"by hand"}}}'::jsonb,
          'sent again, a change from before is known, and told what the row is now');
SELECT is(up('kim', 'phone', :'insert1', :'insert2', :'delete1'), '1 applied 7 deleted +row, 2 applied 7 +row, 4 applied 7 deleted +row', 'or that it is gone');
SELECT is(fault(answer('kim', 'phone', change(2, 'INSERT', 'notes', :'k2', 0, '{"body":"other"}'))),
          'bad_payload | source_change_id was used before, for other content', 'other content under the number is another change');
SELECT is(up('kim', 'phone', change(2, 'INSERT', 'notes', :'k1', 0, '{"body":"b"}')), '2 invalid bad_payload', 'so is another row');
SELECT is(fault(answer('kim', 'phone', change(5, 'INSERT', 'notes', 'k5', 0, '{"body":"a"}'))),
          'bad_payload | source_change_id was used before, for a change of another row', 'so is one of a table that is still there');
SELECT rowsync.unregister_table('app.notes') AS done \gset
ALTER TABLE app.notes ALTER COLUMN id TYPE uuid USING id::uuid;
SELECT rowsync.register_table('app.notes') > 0 AS registered \gset
SELECT is(up('kim', 'phone', :'insert1', :'update2'), '1 applied 9 deleted +row, 3 applied 9 +row', 'a change from before is known by its content, too');
SELECT is((SELECT string_agg(body, ', ') FROM app.notes), 'by hand', 'and has no effect');
SELECT is_empty('SELECT * FROM rowsync.verify()', 'verify finds nothing wrong');
SELECT finish();
