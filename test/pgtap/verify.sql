-- rowsync.verify finds each kind of damage, inflicted here one by one behind its back, and nothing in a
-- sound database. The views show what is there.
\ir include/helpers.sql
\ir include/app.sql
SET rowsync.scope = 'ann';
CREATE TABLE app.parts (id text PRIMARY KEY) PARTITION BY HASH (id);
CREATE TABLE app.parts_1 PARTITION OF app.parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE app.parts_2 PARTITION OF app.parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
SELECT rowsync.register_table('app.parts') > 0 AS registered \gset
SELECT plan(68);

INSERT INTO app.users (id, name) VALUES ('u1', 'A'), ('u2', 'B'), ('u3', 'C');
UPDATE app.users SET name = 'AA' WHERE id = 'u1';
DELETE FROM app.users WHERE id = 'u3';
SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'u4', 0, '{"name":"D"}')), '1 applied 6', 'an upload too');
SELECT is(up('bob', 'phone', change(1, 'INSERT', 'users', 'b1', 0, '{"name":"D"}')), '1 applied 1', 'and another user');
SELECT is(up('cy', 'phone', change(1, 'INSERT', 'users', 'c1', 0, '{"name":"D"}'), change(2, 'DELETE', 'users', 'c1', 0)), '1 applied 1, 2 applied 2', 'and one whose row has gone');
SELECT is_empty('SELECT * FROM rowsync.verify()', 'sound');

-- One kind of damage each: what is done, and all that verify says of it. What it breaks besides is part
-- of the expectation. $ann stands for ann's scope_id, $users for the table_id of app.users.
CREATE TABLE t.damage (n int GENERATED ALWAYS AS IDENTITY, what text, expected text, statements text[]);
INSERT INTO t.damage (what, expected, statements) VALUES
('a scope without a name', 'scope with an impossible name |',
    ARRAY[$$INSERT INTO rowsync.scope (name) VALUES ('')$$]),
('a floor beyond the head', 'floor outside the log | ann 7',
    ARRAY[$$UPDATE rowsync.scope SET floor = 7 WHERE scope_id = $ann$$]),
('a floor below 0', 'floor outside the log | empty -1',
    ARRAY[$$INSERT INTO rowsync.scope (name, floor) VALUES ('empty', -1)$$]),
('a change of a scope that is not there', 'change of an unknown scope | app.users u1 1',
    ARRAY[$$INSERT INTO rowsync.change_log (scope_id, seq, source_change_id, prior_version, ts, table_id, source_no, content_crc, op, row_key, payload) VALUES (99, 1, 0, 0, now(), $users, 0, 0, 'I', 'u1', '{"id":"u1"}')$$]),
('a change that is gone', 'change missing from the log | ann 1; chain of a row''s changes is broken | ann app.users u1 4',
    ARRAY[$$DELETE FROM rowsync.change_log WHERE scope_id = $ann AND seq = 1$$]),
('a head that ran ahead', 'change missing from the log | ann 7',
    ARRAY[$$UPDATE rowsync.scope SET head = 7 WHERE scope_id = $ann$$]),
('a head that went back', 'change beyond the head | ann app.users u4 6; source ahead of the log | ann phone',
    ARRAY[$$UPDATE rowsync.scope SET head = 5 WHERE scope_id = $ann$$]),
('a change numbered 0', 'chain of a row''s changes is broken | ann 0; change beyond the head | ann 0',
    ARRAY[$$INSERT INTO rowsync.change_log (scope_id, seq, source_change_id, prior_version, ts, table_id, source_no, content_crc, op, row_key, payload) VALUES ($ann, 0, 0, 0, now(), 99, 0, 0, 'D', 'gone', NULL)$$]),
('an operation that does not exist', 'change with an unknown operation | ann app.users u1 1',
    ARRAY[$$UPDATE rowsync.change_log SET op = 'X' WHERE scope_id = $ann AND seq = 1$$]),
('a payload that is gone', 'change without a payload | ann app.users u2 2',
    ARRAY[$$UPDATE rowsync.change_log SET payload = NULL WHERE scope_id = $ann AND seq = 2$$]),
('a payload that is cut', 'change whose payload is no row | ann app.users u2 2',
    ARRAY[$$UPDATE rowsync.change_log SET payload = '{"id":' WHERE scope_id = $ann AND seq = 2$$]),
('a payload that is another row''s', 'change whose payload is no row | ann app.users u1 1',
    ARRAY[$$UPDATE rowsync.change_log SET payload = replace(payload, '"u1"', '"u9"') WHERE scope_id = $ann AND seq = 1$$]),
('a source that nobody knows', 'change of an unknown source | ann app.users u4 6',
    ARRAY[$$UPDATE rowsync.change_log SET source_no = 9 WHERE scope_id = $ann AND seq = 6$$]),
('a source that counts as having sent less', 'change numbered beyond its source | ann app.users u4 6',
    ARRAY[$$UPDATE rowsync.source SET last_change_id = 0 WHERE scope_id = $ann$$]),
('a change of the server with a number', 'change of the server with a number | ann app.users u2 2',
    ARRAY[$$UPDATE rowsync.change_log SET source_change_id = 3 WHERE scope_id = $ann AND seq = 2$$]),
('a number that counts as pruned', 'change both kept and pruned | ann app.users u4 6',
    ARRAY[$$UPDATE rowsync.source SET pruned_change_ids = '{[1,3)}' WHERE scope_id = $ann$$]),
('an upload that is forgotten', 'change that no upload names | ann app.users u4 6',
    ARRAY[$$DELETE FROM rowsync.batch WHERE scope_id = $ann$$]),
('an upload that lay elsewhere', 'change that no upload names | ann app.users u4 6',
    ARRAY[$$UPDATE rowsync.batch SET first_seq = 3, last_seq = 5 WHERE scope_id = $ann$$]),
('a change that came late and lies elsewhere', 'change that no upload names | ann app.users u4 6',
    ARRAY[$$UPDATE rowsync.batch SET late = true, first_seq = 5 WHERE scope_id = $ann$$]),
('a number that was used twice', 'change that no upload names | ann app.users u2 2; number used twice | ann app.users u2 2; number used twice | ann app.users u4 6',
    ARRAY[$$UPDATE rowsync.change_log SET source_no = 1, source_change_id = (SELECT source_change_id FROM rowsync.change_log WHERE scope_id = $ann AND seq = 6) WHERE scope_id = $ann AND seq = 2$$]),
('a chain that leads to another row', 'chain of a row''s changes is broken | ann app.users u1 4',
    ARRAY[$$UPDATE rowsync.change_log SET prior_version = 2 WHERE scope_id = $ann AND seq = 4$$]),
('a chain that leaves a change out', 'chain of a row''s changes is broken | ann app.users u1 4',
    ARRAY[$$UPDATE rowsync.change_log SET prior_version = 0 WHERE scope_id = $ann AND seq = 4$$]),
('a chain that leads nowhere', 'chain of a row''s changes is broken | ann app.users u2 2',
    ARRAY[$$UPDATE rowsync.change_log SET prior_version = 1 WHERE scope_id = $ann AND seq = 2$$]),
('a version in a scope that is not there', 'version of an unknown scope | app.users u1 1; version without a change in the log | app.users u1 1',
    ARRAY[$$INSERT INTO rowsync.row_meta (scope_id, version, table_id, deleted, row_key) VALUES (99, 1, $users, true, 'u1')$$]),
('a version in a table that does not sync', 'version of a table that does not sync | ann 7',
    ARRAY[$$INSERT INTO rowsync.row_meta (scope_id, version, table_id, deleted, row_key) VALUES ($ann, 7, 99, true, 'u1')$$, $$UPDATE rowsync.scope SET head = 7 WHERE scope_id = $ann$$,
          $$INSERT INTO rowsync.change_log (scope_id, seq, source_change_id, prior_version, ts, table_id, source_no, content_crc, op, row_key, payload) VALUES ($ann, 7, 0, 0, now(), 99, 0, 0, 'D', 'u1', NULL)$$]),
('a version out of thin air', 'version without a change in the log | ann app.users u2 99',
    ARRAY[$$UPDATE rowsync.row_meta SET version = 99 WHERE scope_id = $ann AND row_key = 'u2'$$]),
('another row''s version', 'version that is another row''s change | ann app.users u2 3',
    ARRAY[$$UPDATE rowsync.row_meta SET version = 3 WHERE scope_id = $ann AND row_key = 'u2'$$]),
('a live row that counts as deleted', 'row that counts as deleted | ann app.users u2 2; version and change disagree about deletion | ann app.users u2 2',
    ARRAY[$$UPDATE rowsync.row_meta SET deleted = true WHERE scope_id = $ann AND row_key = 'u2'$$]),
('a tombstone that counts as live', 'live version of a row that is not there | ann app.users u3 5; version and change disagree about deletion | ann app.users u3 5',
    ARRAY[$$UPDATE rowsync.row_meta SET deleted = false WHERE scope_id = $ann AND row_key = 'u3'$$]),
('a tombstone that is gone', 'change of a row without a version | ann app.users u3 3; change of a row without a version | ann app.users u3 5',
    ARRAY[$$DELETE FROM rowsync.row_meta WHERE scope_id = $ann AND row_key = 'u3'$$]),
('a version left behind', 'change newer than its row''s version | ann app.users u3 5',
    ARRAY[$$UPDATE rowsync.row_meta SET version = 3, deleted = false WHERE scope_id = $ann AND row_key = 'u3'$$,
          $$INSERT INTO app.users VALUES ('u3', 'C', NULL, NULL, 'ann')$$]),
('a source of a scope that is not there', 'source of an unknown scope | lost',
    ARRAY[$$INSERT INTO rowsync.source (scope_id, first_seen, last_seen, source_no, source_id) VALUES (99, now(), now(), 1, 'lost')$$]),
('a source that has read what is not there', 'source ahead of the log | ann phone',
    ARRAY[$$UPDATE rowsync.source SET last_download = 7 WHERE scope_id = $ann$$]),
('a table dropped unseen', 'registered table is not there | $comments',
    ARRAY['ALTER EVENT TRIGGER _rowsync_drop DISABLE', 'DROP TABLE app.comments', 'ALTER EVENT TRIGGER _rowsync_drop ENABLE']),
('a key dropped unseen', 'registered table cannot sync | app.comments table app.comments has no primary key',
    ARRAY['ALTER EVENT TRIGGER _rowsync_alter DISABLE', 'ALTER TABLE app.comments DROP CONSTRAINT comments_pkey', 'ALTER EVENT TRIGGER _rowsync_alter ENABLE']),
('a column added unseen', 'columns are out of date | app.comments 1',
    ARRAY['ALTER EVENT TRIGGER _rowsync_alter DISABLE', 'ALTER TABLE app.comments ADD COLUMN stars int', 'ALTER EVENT TRIGGER _rowsync_alter ENABLE']),
('an order turned round', 'table comes before its parent | app.comments comments_post_id_fkey',
    ARRAY[$$UPDATE rowsync.synced_table SET upsert_order = 0 WHERE relid = 'app.comments'::regclass$$]),
('a gap in the schema versions', 'schema version out of order | 2',
    ARRAY[$$INSERT INTO rowsync.schema_change VALUES (3, now(), 'app.users', '{}')$$]),
('a schema version that never was', 'schema version out of order | app.comments 2',
    ARRAY[$$UPDATE rowsync.synced_table SET schema_version = 2 WHERE relid = 'app.comments'::regclass$$]),
('a row that came unseen', 'row that was never captured | ann app.users x',
    ARRAY[$$INSERT INTO app.users VALUES ('x', 'X', NULL, NULL, 'ann')$$]),
('a version that is gone, its row still there', 'change of a row without a version | ann app.users u2 2; row that was never captured | ann app.users u2',
    ARRAY[$$DELETE FROM rowsync.row_meta WHERE scope_id = $ann AND row_key = 'u2'$$]),
('a row that came back unseen', 'row that counts as deleted | ann app.users u3 5',
    ARRAY[$$INSERT INTO app.users VALUES ('u3', 'C', NULL, NULL, 'ann')$$]),
('a row that went unseen', 'live version of a row that is not there | ann app.users u2 2',
    ARRAY[$$DELETE FROM app.users WHERE id = 'u2'$$]),
('a row that moved to another user unseen', 'live version of a row that is not there | ann app.users u2 2; row that was never captured | cy app.users u2',
    ARRAY[$$UPDATE app.users SET _rowsync_scope = 'cy' WHERE id = 'u2'$$]),
('a row that changed unseen', 'row differs from its latest change | ann app.users u2 2',
    ARRAY[$$UPDATE app.users SET name = 'unseen' WHERE id = 'u2'$$]),
('a null that changed unseen', 'row differs from its latest change | ann app.users u2 2',
    ARRAY[$$UPDATE app.users SET age = 5 WHERE id = 'u2'$$]),
('a row that nobody can sync', 'row without a scope | app.users lost',
    ARRAY[$$INSERT INTO app.users VALUES ('lost', 'L', NULL, NULL, NULL)$$]),
('a trigger dropped', 'trigger is missing | app.users _rowsync_truncate',
    ARRAY['DROP TRIGGER _rowsync_truncate ON app.users']),
('a trigger switched off', 'trigger is disabled | app.users _rowsync_capture',
    ARRAY['ALTER TABLE app.users DISABLE TRIGGER _rowsync_capture']),
('a trigger that fires under replication alone', 'trigger is disabled | app.users _rowsync_capture',
    ARRAY['ALTER TABLE app.users ENABLE REPLICA TRIGGER _rowsync_capture']),
('the trigger of one partition switched off', 'trigger is disabled | app.parts_1 _rowsync_capture',
    ARRAY['ALTER TABLE app.parts_1 DISABLE TRIGGER _rowsync_capture']),
('a trigger that passes over deletions', 'trigger does something else | app.users _rowsync_capture',
    ARRAY['DROP TRIGGER _rowsync_capture ON app.users',
          'CREATE TRIGGER _rowsync_capture AFTER INSERT OR UPDATE ON app.users FOR EACH ROW EXECUTE FUNCTION rowsync._capture()']),
('a trigger with a condition', 'trigger does something else | app.users _rowsync_capture',
    ARRAY['DROP TRIGGER _rowsync_capture ON app.users',
          'CREATE TRIGGER _rowsync_capture AFTER INSERT OR UPDATE OR DELETE ON app.users FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION rowsync._capture()']),
('an event trigger switched off', 'event trigger is disabled | _rowsync_alter',
    ARRAY['ALTER EVENT TRIGGER _rowsync_alter DISABLE']),
('an event trigger dropped', 'event trigger is missing | _rowsync_drop',
    ARRAY['ALTER EXTENSION rowsync DROP EVENT TRIGGER _rowsync_drop', 'DROP EVENT TRIGGER _rowsync_drop']),
('an index that is not valid', 'index is invalid | rowsync.batch batch_pkey',
    ARRAY[$$UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'rowsync.batch_pkey'::regclass$$]),
('a sequence that went back', 'sequence behind its table | rowsync.synced_table synced_table_table_id_seq 7',
    ARRAY['ALTER SEQUENCE rowsync.synced_table_table_id_seq RESTART WITH 1']);

-- Inflicts damage, asks verify (of all, and of bob, who has none), and takes it back.
CREATE FUNCTION t.inflict(statements text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    found text;
    statement text;
    bob int;
    ann text := (SELECT scope_id FROM rowsync.scope WHERE name = 'ann');
    users text := (SELECT table_id FROM rowsync.synced_table WHERE relid = 'app.users'::regclass);
    comments text := 'app.comments'::regclass::oid;
BEGIN
    BEGIN
        SET LOCAL session_replication_role = replica;
        FOREACH statement IN ARRAY statements LOOP
            EXECUTE replace(replace(statement, '$ann', ann), '$users', users);
        END LOOP;
        SET LOCAL session_replication_role = origin;
        SELECT string_agg(concat_ws(' ', v.problem, '|', v.scope, v.table_name, v.key, v.version), '; ' ORDER BY v.version, v.problem, v.key) INTO found FROM rowsync.verify() AS v;
        SELECT count(*) INTO bob FROM rowsync.verify('bob') AS v WHERE v.scope IS NOT NULL;
        RAISE EXCEPTION 'undo' USING ERRCODE = 'ZZ999';
    EXCEPTION WHEN SQLSTATE 'ZZ999' THEN
        NULL;
    END;
    RETURN CASE WHEN bob > 0 THEN 'bob too: ' ELSE '' END || replace(rtrim(coalesce(found, 'nothing found')), comments, '$comments');
END $$;
SELECT is(inflict(statements), expected, what) FROM t.damage ORDER BY n;
SELECT set_eq('SELECT problem FROM rowsync.problem_kinds()', $$SELECT DISTINCT split_part(p, ' |', 1) FROM t.damage, string_to_table(expected, '; ') AS p$$,
              'every kind of problem was inflicted, and no other was found');
SELECT is_empty('SELECT * FROM rowsync.verify()', 'sound again');

-- Views.
SELECT results_eq($$SELECT concat_ws(' ', scope, seq, table_name, key, op, source_id) COLLATE "default" FROM rowsync.change WHERE scope = 'ann' AND seq > 4 ORDER BY seq$$,
                  '{"ann 5 app.users u3 DELETE ","ann 6 app.users u4 INSERT phone"}'::text[], 'change');
SELECT results_eq($$SELECT concat_ws(' ', key, version, deleted) COLLATE "default" FROM rowsync.row_version WHERE scope = 'ann' ORDER BY key$$,
                  '{u1 4 f,u2 2 f,u3 5 t,u4 6 f}'::text[], 'row_version');
SELECT results_eq($$SELECT concat_ws(' ', scope, source_id, last_download, changes_behind) COLLATE "default" FROM rowsync.source_lag WHERE scope = 'ann'$$, '{ann phone 0 5}'::text[], 'source_lag');
SELECT results_eq($$SELECT concat_ws(' ', scope, head, floor, sources, live_rows, tombstones, changes_kept) COLLATE "default" FROM rowsync.scope_status ORDER BY scope$$,
                  '{ann 6 0 1 3 1 6,bob 1 0 1 1 0 1,cy 2 0 1 0 1 2}'::text[], 'scope_status');
SELECT results_eq($$SELECT concat_ws(' ', table_name, live_rows, tombstones) COLLATE "default" FROM rowsync.table_status WHERE live_rows > 0$$, '{app.users 4 2}'::text[], 'table_status');
SELECT finish();
