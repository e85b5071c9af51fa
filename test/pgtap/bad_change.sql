-- What is wrong inside one change refuses that change alone, with a message that says what.
\ir include/helpers.sql
\ir include/app.sql
CREATE TABLE app.kinds (id uuid PRIMARY KEY, n integer, flag boolean, data bytea, amount numeric);
CREATE TABLE app.pairs (a integer, b text, note text, PRIMARY KEY (a, b));
DO $$ BEGIN PERFORM rowsync.register_table('app.kinds'), rowsync.register_table('app.pairs'); END $$;
SELECT plan(55);

-- The fault of one change, given as its JSON without source_change_id.
CREATE FUNCTION t.bad(rest text) RETURNS text LANGUAGE sql AS $$
    SELECT fault(rowsync.upload('ann', 'phone',
                 '{"changes":[{"source_change_id":1,' || rest || '}]}')::jsonb) $$;
-- The same for an INSERT into app.kinds.
CREATE FUNCTION t.bad_kind(pk text, payload text) RETURNS text LANGUAGE sql AS $$
    SELECT bad(format('"schema":"app","table":"kinds","op":"INSERT","pk":%s,"payload":%s', pk, payload)) $$;
\set good '''"550e8400-e29b-41d4-a716-446655440000"'''

SELECT is(bad('"op":"INSERT","pk":"x","payload":{}'), 'bad_payload | table is missing', 'no table');
SELECT is(bad('"table":7,"op":"INSERT","pk":"x","payload":{}'), 'bad_payload | table must be a string', 'table 7');
SELECT is(bad('"schema":null,"table":"users","op":"INSERT","pk":"x","payload":{}'),
          'bad_payload | schema must be a string', 'schema null');
SELECT is(bad('"table":"users","pk":"x","payload":{}'), 'bad_payload | op is missing', 'no op');
SELECT is(bad('"table":"users","op":"insert","pk":"x","payload":{}'),
          'bad_payload | op must be INSERT, UPDATE or DELETE', 'op in small letters');
SELECT is(bad('"table":"users","op":null,"pk":"x","payload":{}'),
          'bad_payload | op must be INSERT, UPDATE or DELETE', 'op null');
SELECT is(bad('"table":"users","op":"INSERT","payload":{}'), 'bad_payload | pk is missing', 'no pk');
SELECT is(bad('"table":"users","op":"INSERT","pk":"x"'),
          'bad_payload | payload must be an object for INSERT and UPDATE', 'no payload');
SELECT is(bad('"table":"users","op":"UPDATE","pk":"x","payload":null'),
          'bad_payload | payload must be an object for INSERT and UPDATE', 'payload null');
SELECT is(bad('"table":"users","op":"INSERT","pk":"x","payload":[]'),
          'bad_payload | payload must be an object or null', 'payload an array');
SELECT is(bad('"table":"users","op":"DELETE","pk":"x","payload":"gone"'),
          'bad_payload | payload must be an object or null', 'payload of a DELETE a string');
SELECT is(bad('"table":"users","op":"INSERT","pk":"x","payload":{},"server_version":-1'),
          'bad_payload | server_version must be a whole number, 0 or more', 'server_version -1');
SELECT is(bad('"table":"users","op":"INSERT","pk":"x","payload":{},"server_version":"1"'),
          'bad_payload | server_version must be a whole number, 0 or more', 'server_version a string');
SELECT is(bad('"table":"users","op":"INSERT","pk":"x","payload":{},"server_version":null'),
          'bad_payload | server_version must be a whole number, 0 or more', 'server_version null');
SELECT is(bad('"table":"users","op":"INSERT","pk":"x","payload":{},"server_version":1.0'),
          'bad_payload | server_version must be a whole number, 0 or more', 'server_version 1.0');
SELECT is(bad('"table":"users","op":"INSERT","pk":"x","payload":{}'),
          'unregistered_table | table public.users does not sync', 'schema defaults to public');
SELECT is(bad('"schema":"App","table":"users","op":"INSERT","pk":"x","payload":{}'),
          'unregistered_table | table App.users does not sync', 'names keep their case');
SELECT is(bad('"schema":"pg_catalog","table":"pg_class","op":"DELETE","pk":"1","payload":null'),
          'unregistered_table | table pg_catalog.pg_class does not sync', 'a catalog');
SELECT is(bad('"schema":"rowsync","table":"scope","op":"DELETE","pk":"1","payload":null'),
          'unregistered_table | table rowsync.scope does not sync', 'a table of rowsync');
SELECT is(bad('"schema":"app","table":"users; DROP TABLE app.users","op":"INSERT","pk":"x","payload":{}'),
          'unregistered_table | table app.users; DROP TABLE app.users does not sync', 'SQL as a table');
SELECT is(bad('"schema":"app","table":"' || repeat('u', 100) || '","op":"INSERT","pk":"x","payload":{}'),
          'unregistered_table | table app.' || repeat('u', 100) || ' does not sync', 'an overlong name');

SELECT is(bad_kind('"abc"', '{}'), 'bad_payload | key: expected a uuid, not "abc" | {"column": "pk"}', 'pk that is no uuid');
SELECT is(bad_kind('""', '{}'), 'bad_payload | key: expected a uuid, not "" | {"column": "pk"}', 'empty pk');
SELECT is(bad_kind('7', '{}'), 'bad_payload | key: expected a string, not 7 | {"column": "pk"}', 'pk a number');
SELECT is(bad_kind('null', '{}'), 'bad_payload | key: expected a string, not null | {"column": "pk"}', 'pk null');
SELECT is(bad_kind('{}', '{}'), 'bad_payload | key: expected a string, not {} | {"column": "pk"}', 'pk an object');
SELECT is(bad_kind(:good, '{"id":"00000000-0000-0000-0000-000000000000"}'),
          'bad_payload | pk and payload name different rows | {"column": "id"}', 'pk and payload disagree');
SELECT is(bad_kind(:good, '{"id":null}'), 'bad_payload | column "id": expected a value, not null | {"column": "id"}',
          'the payload''s key is null');
SELECT is(bad_kind(:good, '{"n":"7"}'), 'bad_payload | column "n": expected a number, not "7" | {"column": "n"}', 'a string for an integer');
SELECT is(bad_kind(:good, '{"n":1.5}'),
          'bad_payload | column "n": expected a whole number of at most 64 bits, not 1.5 | {"column": "n"}', '1.5 for an integer');
SELECT is(bad_kind(:good, '{"n":2147483648}'),
          'bad_payload | column "n": expected a whole number from -2147483648 to 2147483647, not 2147483648 | {"column": "n"}', 'an integer too large');
SELECT is(bad_kind(:good, '{"n":true}'), 'bad_payload | column "n": expected a number, not true | {"column": "n"}', 'true for an integer');
SELECT is(bad_kind(:good, '{"n":{}}'), 'bad_payload | column "n": expected a number, not {} | {"column": "n"}', 'an object for an integer');
SELECT is(bad_kind(:good, '{"flag":2}'), 'bad_payload | column "flag": expected true or false, not 2 | {"column": "flag"}', '2 for a boolean');
SELECT is(bad_kind(:good, '{"flag":"true"}'), 'bad_payload | column "flag": expected true or false, not "true" | {"column": "flag"}',
          'a string for a boolean');
SELECT is(bad_kind(:good, '{"data":"a"}'), 'bad_payload | column "data": expected bytes as base64, not "a" | {"column": "data"}', 'no base64');
SELECT is(bad_kind(:good, '{"data":"\\xabc"}'), 'bad_payload | column "data": expected bytes as base64, not "\xabc" | {"column": "data"}', 'odd hex');
SELECT is(bad_kind(:good, '{"amount":"a lot"}'),
          'bad_payload | column "amount": invalid input syntax for type numeric: "a lot" | {"column": "amount", "sqlstate": "22P02"}',
          'no numeric');
SELECT is(bad_kind(:good, '{"amount":[]}'),
          'bad_payload | column "amount": expected a number, not [] | {"column": "amount"}',
          'an array for a numeric');
SELECT is(bad_kind(:good, '{"colour":1}'), 'bad_payload | table app.kinds has no column "colour" | {"column": "colour"}',
          'unknown column');
SELECT is(bad_kind(:good, '{"n":1,"x\u0000":2}'),
          'bad_payload | a string has a NUL character (\u0000), which PostgreSQL cannot hold', 'NUL in a name');
SELECT is(bad('"schema":"app","table":"users","op":"INSERT","pk":"x","payload":{"name":"a\u0000b"}'),
          'bad_payload | a string has a NUL character (\u0000), which PostgreSQL cannot hold', 'NUL in text');
SELECT is(bad('"schema":"app","table":"users","op":"INSERT","pk":"x","payload":{"name":"\ud83d"}'),
          'bad_payload | a string has half of a surrogate pair, which is no character', 'half a character');
SELECT is(bad('"schema":"app","table":"users","op":"INSERT","pk":"x","payload":{"name":"\ude00\ud83d"}'),
          'bad_payload | a string has half of a surrogate pair, which is no character', 'its halves the wrong way round');
SELECT is(bad('"schema":"app","table":"users","op":"INSERT","pk":"' || repeat('k', 2001) || '","payload":{"name":"x"}'),
          'bad_payload | key: expected at most 2000 bytes, not "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk..." | {"column": "pk"}', 'an overlong pk');
SELECT is(bad('"schema":"app","table":"posts","op":"INSERT","pk":"x","payload":{"author_id":"' || repeat('k', 3000) || '","title":"x"}'),
          'bad_payload | column "author_id": expected at most 2000 bytes, not "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk..." | {"column": "author_id"}', 'a reference to an overlong key');
SELECT is(bad('"schema":"app","table":"pairs","op":"INSERT","pk":"x","payload":{}'),
          'bad_payload | key: expected an array with one value for each key column, not "x" | {"column": "pk"}',
          'a plain pk for a key of two columns');
SELECT is(bad('"schema":"app","table":"pairs","op":"INSERT","pk":"[1]","payload":{}'),
          'bad_payload | key: expected an array with one value for each key column, not "[1]" | {"column": "pk"}',
          'too few values in a pk');
SELECT is(bad('"schema":"app","table":"pairs","op":"INSERT","pk":"[1,null]","payload":{}'),
          'bad_payload | key: expected a value, not "[1,null]" | {"column": "pk"}', 'null in a pk');
SELECT is(bad('"schema":"app","table":"pairs","op":"INSERT","pk":["x","y"],"payload":{}'),
          'bad_payload | key: expected a whole number of at most 64 bits, not ["x","y"] | {"column": "pk"}', 'a word for an integer in a pk');

-- The others of the batch are not touched by any of it.
SELECT is(up('ann', 'phone',
             change(1, 'INSERT', 'users', 'u1', 0, '{"name":"\u0000"}'),
             change(2, 'INSERT', 'kinds', 'no uuid', 0, '{}'),
             change(3, 'INSERT', 'users', 'u3', 0, '{"name":"a back\\u0000slash is no NUL"}'),
             change(4, 'INSERT', 'kinds', '550e8400-e29b-41d4-a716-446655440000', 0, '{"amount":"1 2"}'),
             change(5, 'UPSERT', 'users', 'u5', 0, '{"name":"x"}'),
             change(6, 'INSERT', 'kinds', '550e8400-e29b-41d4-a716-446655440000', 0, '{"amount":"12"}')) ~
          '^1 invalid bad_payload, 2 invalid bad_payload, 3 applied \d, 4 invalid bad_payload, '
          '5 invalid bad_payload, 6 applied \d$', true, 'bad changes among good ones');
SELECT is((SELECT name FROM app.users WHERE id = 'u3'), 'a back\u0000slash is no NUL', 'escaped backslashes are read as such');

SELECT is(up('ann', 'phone', change(7, 'UPDATE', 'users', 'u3', 0, '{"name":"\ud83d\ude00"}')), '7 applied 3',
          'both halves of a character');
-- Too many changes.
SET rowsync.max_changes = 2;
SELECT is(answer('ann', 'phone', change(11, 'INSERT', 'users', 'a', 0, '{"name":"x"}'),
                 change(12, 'INSERT', 'users', 'b', 0, '{"name":"x"}'),
                 change(13, 'INSERT', 'users', 'c', 0, '{"name":"x"}')),
          (SELECT jsonb_build_object('accepted', false, 'highest_server_seq', 3, 'last_upload', 0, 'epoch', (SELECT epoch FROM rowsync.scope WHERE name = 'ann'), 'statuses', jsonb_agg(jsonb_build_object(
               'source_change_id', id, 'status', 'invalid',
               'message', '3 changes in one request are more than 2: send fewer',
               'invalid', '{"reason":"batch_too_large","details":{"limit":2}}'::jsonb)))
           FROM generate_series(11, 13) AS id), 'more changes than rowsync.max_changes');
RESET rowsync.max_changes;
SELECT is_empty('SELECT unsound(false)', 'log, versions and tables agree');
SELECT finish();
