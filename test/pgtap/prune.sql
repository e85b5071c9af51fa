-- Pruning, history and undelete: what is kept and what goes, that nothing sent again takes effect a
-- second time afterwards, and that a row can be brought back.
\ir include/helpers.sql
\ir include/app.sql
SET rowsync.scope = 'ann';
SELECT plan(84);

SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'u1', 0, '{"name":"A"}')), '1 applied 1', 'seq 1');
SELECT is(up('ann', 'phone', change(2, 'UPDATE', 'users', 'u1', 0, '{"name":"B"}')), '2 applied 2', 'seq 2');
SELECT is(up('ann', 'phone', change(3, 'INSERT', 'users', 'u2', 0, '{"name":"C"}')), '3 applied 3', 'seq 3');
SELECT is(up('ann', 'phone', change(4, 'DELETE', 'users', 'u2', 0)), '4 applied 4', 'seq 4');
INSERT INTO app.users (id, name) VALUES ('u3', 'D');
UPDATE app.users SET name = 'E' WHERE id = 'u3';
INSERT INTO app.users (id, name, _rowsync_scope) VALUES ('b1', 'B', 'bob'), ('b2', 'B', 'bob');
DELETE FROM app.users WHERE id = 'b2';

-- History.
SELECT results_eq($$SELECT concat_ws(' ', scope, version, op, source_id, payload ->> 'name') FROM rowsync.row_history('app.users', 'u1')$$,
                  '{ann 2 UPDATE phone B,ann 1 INSERT phone A}'::text[], 'row_history: every version, latest first');
SELECT results_eq($$SELECT concat_ws(' ', version, op, payload ->> 'name') FROM rowsync.row_history('app.users', 'u2')$$,
                  '{4 DELETE C,3 INSERT C}'::text[], 'a deleted row with what it was');
SELECT is_empty($$SELECT * FROM rowsync.row_history('app.users', 'nobody')$$, 'none of a row never seen');
SELECT matches(refusal($$SELECT rowsync.row_history('pg_class', 'x')$$), '^RS006: ', 'a table that does not sync');

-- Undelete and undo are ordinary changes.
SELECT lives_ok($$SELECT rowsync.restore_row('app.users', 'u2', 4)$$, 'restore_row brings a deleted row back');
SELECT is((SELECT row(name, _rowsync_scope)::text FROM app.users WHERE id = 'u2'), '(C,ann)', 'into its scope');
SELECT is(page('ann', 'laptop', 6), '7 INSERT u2, > 7/7', 'and to every device');
SELECT lives_ok($$SELECT rowsync.restore_row('app.users', 'u1', 1)$$, 'restore_row takes a row back to an earlier version');
SELECT is(page('ann', 'laptop', 7), '8 UPDATE u1, > 8/8', 'which reaches every device');
SELECT is((SELECT name FROM app.users WHERE id = 'u1'), 'A', 'as it was');
SELECT is(refusal($$SELECT rowsync.restore_row('app.users', 'u1', 99)$$),
          'RS002: version 99 of app.users u1 is not in the history | rowsync.row_history shows the versions that are kept.', 'a version that never was');
SELECT is(up('ann', 'phone', change(5, 'DELETE', 'users', 'u2', 7)), '5 applied 9', 'deleted again');

-- Nothing goes before its time.
SELECT is(page('bob', 'reader', 0) <> page('bob', 'reader', 3), true, 'bob''s reader has read all that bob has');
SELECT is_empty('SELECT * FROM rowsync.prune()', 'prune: nothing is old enough');
SELECT is((SELECT count(*)::int FROM rowsync.change_log), 12, 'and nothing is gone');
SELECT is(refusal($$SELECT rowsync.prune(keep => '-1 day')$$), 'RS002: keep and give_up must not be null or negative', 'a negative age');
SELECT is(refusal($$SELECT rowsync.prune(NULL)$$), 'RS002: keep and give_up must not be null or negative', 'no age');
UPDATE rowsync.change_log SET ts = ts - interval '40 days';
SELECT is_empty($$SELECT * FROM rowsync.prune(user_id => 'ann')$$, 'phone has read nothing: all is kept for it');
SELECT is(page('ann', 'phone', 4) <> '', true, 'phone has read up to 4');
SELECT results_eq($$SELECT concat_ws(' ', scope, floor, removed_changes, removed_tombstones) FROM rowsync.prune(user_id => 'ann')$$,
                  '{ann 4 2 0}'::text[], 'what all have read and is superseded by then goes');
SELECT results_eq($$SELECT seq FROM rowsync.change_log JOIN rowsync.scope USING (scope_id) WHERE name = 'ann' ORDER BY 1$$, '{2,4,5,6,7,8,9}'::bigint[], 'what each row was by then is left');
SELECT results_eq($$SELECT highest_change_id FROM rowsync.batch JOIN rowsync.scope USING (scope_id) WHERE name = 'ann' ORDER BY 1$$, '{2,4,5}'::bigint[], 'and the uploads of which something is left');
SELECT is(refusal($$SELECT rowsync.download('ann', 'phone', 3)$$),
          'RS003: changes up to 4 are pruned, after is 3 | Hydrate from a snapshot, then download from its seq on.', 'a download below the floor');
SELECT is(page('ann', 'phone', 4, include_self => true), '6 UPDATE u3, 8 UPDATE u1, 9 DELETE u2, > 9/9', 'one from the floor on has all');
SELECT is((SELECT count(*)::int FROM rowsync.row_meta WHERE deleted), 2, 'the tombstones are still there');

-- Exactly once, also for what is pruned.
SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'u1', 0, '{"name":"A"}'), change(3, 'INSERT', 'users', 'u2', 0, '{"name":"C"}'))
            LIKE '1 applied % +row, 3 applied % +row', true, 'changes sent again whose log is pruned are applied, and told what the rows are now');
SELECT is((SELECT count(*)::int FROM app.users WHERE id = 'u2') + (SELECT count(*)::int FROM rowsync.change_log WHERE source_change_id IN (1, 3)), 0, 'and have no effect');

-- A source that stays away.
UPDATE rowsync.source SET last_seen = now() - interval '100 days';
SELECT results_eq($$SELECT concat_ws(' ', scope, floor, removed_tombstones) FROM rowsync.prune(user_id => 'ann')$$, '{ann 9 1}'::text[],
                  'a source not seen for long is given up');
SELECT is((SELECT count(*)::int FROM rowsync.row_meta JOIN rowsync.scope USING (scope_id) WHERE name = 'ann' AND deleted), 0, 'old tombstones go');
SELECT is((SELECT count(*)::int FROM rowsync.change_log JOIN rowsync.scope USING (scope_id) WHERE name = 'ann'), 2, 'the latest change of each live row stays');
SELECT is((SELECT count(*)::int FROM rowsync.row_meta JOIN rowsync.scope USING (scope_id) WHERE name = 'bob'), 2, 'another user is not touched');
SELECT is(up('ann', 'phone', change(9, 'UPDATE', 'users', 'u2', 9, '{"name":"X"}')), '9 conflict 0 deleted', 'a row whose tombstone is pruned was never had');
SELECT is(page('ann', 'tablet', 9), '> 9/9', 'downloads go on at the floor');
INSERT INTO app.users (id, name) VALUES ('u9', 'Z');
SELECT is(page('ann', 'tablet', 9), '10 INSERT u9, > 10/10', 'and numbers go on');
SELECT is_empty('SELECT * FROM rowsync.verify()', 'verify finds nothing wrong with a pruned scope');

-- A restored backup.
SELECT is(rowsync.declare_restored('ann'), 1::bigint, 'declare_restored for one user');
SELECT is((SELECT string_agg(name || ' ' || cardinality(epochs), ', ' ORDER BY name) FROM rowsync.scope), 'ann 4, bob 2', 'begins a new epoch');
SELECT is(rowsync.declare_restored(), 2::bigint, 'and for all');
SELECT is((SELECT string_agg((epochs[1] < epochs[3])::text || (epochs[3] < coalesce(epochs[5], epoch + 1)), ' ') FROM rowsync.scope), 'truetrue truetrue', 'none has the number of another');
SELECT is((rowsync.download('ann', 'phone', 9)::jsonb -> 'epoch')::bigint, (SELECT epochs[5] FROM rowsync.scope WHERE name = 'ann'), 'which devices see');
SELECT results_eq('SELECT ARRAY[epochs[2], epochs[4], epochs[6]] FROM rowsync.scope ORDER BY name',
                  $$SELECT ARRAY[0, head, CASE name WHEN 'ann' THEN head END] FROM rowsync.scope ORDER BY name$$, 'each notes where the log stood');
INSERT INTO app.users (id, name) VALUES ('u10', 'Z');
SELECT is((SELECT split_part(string_agg(s, ''), E'\n', 1)::jsonb -> 'epochs' FROM rowsync.snapshot('ann', 'phone') s),
          (SELECT format('[[%s,0],[%s,10],[%s,10]]', epochs[1], epochs[3], epochs[5])::jsonb FROM rowsync.scope WHERE name = 'ann'), 'which the snapshot tells, also after a write');
SELECT is((SELECT split_part(string_agg(s, ''), E'\n', 1)::jsonb -> 'epochs' FROM rowsync.snapshot('nobody', 'phone') s), '[]'::jsonb, 'of a scope that is not there, none');
SELECT is(rowsync.declare_restored('bob', restored_at => ts), 1::bigint, 'declared late') FROM rowsync.change_log JOIN rowsync.scope USING (scope_id) WHERE name = 'bob' AND seq = 3;
SELECT is((SELECT epochs[6] FROM rowsync.scope WHERE name = 'bob'), 2::bigint, 'what is no older than the restore is later than the backup');
SELECT is(rowsync.declare_restored('bob', restored_at => '-infinity') + rowsync.declare_restored('ann', restored_at => '-infinity'), 2::bigint, 'before anything was written');
SELECT results_eq('SELECT epochs[cardinality(epochs)] FROM rowsync.scope ORDER BY name', 'SELECT floor FROM rowsync.scope ORDER BY name', 'the log begins there');

-- An upload of a source that has read another log, or further than this one goes, is not decided.
CREATE FUNCTION up_of(log bigint, seen bigint) RETURNS jsonb LANGUAGE sql VOLATILE AS $$
    SELECT rowsync.upload('ann', 'phone', format('{"epoch":%s,"last_server_seq_seen":%s,"changes":[%s]}', log, seen, change(90, 'INSERT', 'users', 'u90', 0, '{"name":"Z"}')))::jsonb
$$;
SELECT is(up_of(epochs[5], 0), format('{"accepted":false,"highest_server_seq":%s,"last_upload":9,"epoch":%s,"statuses":[{"source_change_id":90,"status":"invalid",
            "message":"the server was restored from a backup: read its log anew","invalid":{"reason":"internal_error","details":{
            "error":"the server was restored from a backup: read its log anew"}}}]}', head, epoch)::jsonb, 'of another epoch') FROM rowsync.scope WHERE name = 'ann';
SELECT is(up_of(epoch, head + 1) -> 'accepted', 'false', 'that has read further') FROM rowsync.scope WHERE name = 'ann';
SELECT is(brief(up_of(epoch, head)), '90 applied 12', 'of this one') FROM rowsync.scope WHERE name = 'ann';
SELECT is(u #>> '{statuses,0,status}' || ' ' || (u ->> 'epoch'), 'applied ' || epoch, 'of a client that does not know which, and is told') FROM rowsync.scope, up_of(0, 99) u WHERE name = 'ann';
SELECT is_empty($$SELECT * FROM rowsync.source WHERE source_id = 'phone' AND last_download > 12$$, 'and notes nothing');

-- restore_row is an ordinary write: the table's own trigger finds by the caller's search_path what it
-- finds otherwise.
CREATE TABLE app.journal (line text);
CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO journal VALUES (NEW.id || ' ' || NEW.name); RETURN NEW; END $$;
CREATE TRIGGER note BEFORE UPDATE ON app.users FOR EACH ROW EXECUTE FUNCTION app.note();
SET search_path = app, t, public;
SELECT up('dan', 'phone', change(1, 'INSERT', 'users', 'd1', 0, '{"name":"one"}'), change(2, 'UPDATE', 'users', 'd1', 0, '{"name":"two"}')) AS done \gset
SELECT lives_ok($$SELECT rowsync.restore_row('app.users', 'd1', 1)$$, 'restore_row of a table with a trigger that names no schema');
SELECT results_eq('SELECT line FROM journal', '{d1 two,d1 one}'::text[], 'which has run both times');

-- A row that has been in two scopes has two histories, with the same numbers.
UPDATE app.users SET _rowsync_scope = 'eve' WHERE id = 'd1';
UPDATE app.users SET name = 'three' WHERE id = 'd1';
SELECT results_eq($$SELECT concat_ws(' ', scope, version, op, payload ->> 'name') FROM rowsync.row_history('app.users', 'd1')$$,
                  '{dan 4 DELETE one,dan 3 UPDATE one,dan 2 UPDATE two,dan 1 INSERT one,eve 2 UPDATE three,eve 1 INSERT one}'::text[], 'the histories of both');
SELECT is(refusal($$SELECT rowsync.restore_row('app.users', 'd1', 2)$$),
          'RS002: app.users d1 has been in several scopes, with a version 2 in each | Say whose you mean: user_id => ...', 'a version of which there are two');
SELECT lives_ok($$SELECT rowsync.restore_row('app.users', 'd1', 1, 'eve')$$, 'one of them');
SELECT results_eq($$SELECT name, _rowsync_scope FROM app.users WHERE id = 'd1'$$, $$VALUES ('one', 'eve')$$, 'is restored');

-- What a table that syncs no more has left in the log goes, and is remembered too.
SELECT up('fay', 'phone', change(1, 'INSERT', 'users', 'f1', 0, '{"name":"F"}'), change(2, 'INSERT', 'categories', 'k1', 0, '{"name":"K"}')) AS done \gset
SELECT rowsync.unregister_table('app.categories') AS done \gset
UPDATE rowsync.source SET last_seen = now() - interval '100 days';
SELECT results_eq($$SELECT concat_ws(' ', floor, removed_changes) FROM rowsync.prune('0', '1 day', 'fay')$$, '{2 1}'::text[], 'a change of a table that syncs no more is pruned');
SELECT rowsync.register_table('app.categories') > 0 AS registered \gset
SELECT matches(up('fay', 'phone', change(2, 'INSERT', 'categories', 'k1', 0, '{"name":"again"}')), '^2 applied', 'sent again when the table is back');
SELECT is((SELECT name FROM app.categories WHERE id = 'k1'), 'K', 'it has no effect');

-- A source is never in conflict with itself, also where what it made on its version is pruned in part.
CREATE FUNCTION up_having_read(seen bigint, VARIADIC changes text[]) RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT brief(rowsync.upload('gil', 'phone', format('{"last_server_seq_seen":%s,"changes":[%s]}', seen, array_to_string(changes, ',')))::jsonb)
$$;
SELECT is(up('gil', 'phone', change(1, 'INSERT', 'users', 'g1', 0, '{"name":"1"}'), change(2, 'INSERT', 'users', 'g2', 0, '{"name":"1"}')), '1 applied 1, 2 applied 2', 'two rows');
SELECT is(up('gil', 'phone', change(3, 'UPDATE', 'users', 'g1', 1, '{"name":"2"}'), change(4, 'UPDATE', 'users', 'g1', 1, '{"name":"3"}')), '3 applied 3, 4 applied 4', 'edits whose answers are lost');
UPDATE app.users SET name = 'the server''s' WHERE id = 'g2';
SELECT is(up('gil', 'phone', change(5, 'UPDATE', 'users', 'g2', 5, '{"name":"2"}'), change(6, 'UPDATE', 'users', 'g2', 5, '{"name":"3"}')), '5 applied 6, 6 applied 7', 'and some on a version of the server''s');
SELECT is(page('gil', 'phone', 7), '> 7/7', 'all is read');
UPDATE rowsync.change_log SET ts = ts - interval '40 days';
SELECT results_eq($$SELECT concat_ws(' ', floor, removed_changes) FROM rowsync.prune(user_id => 'gil')$$, '{7 5}'::text[], 'and pruned, but for the last ones');
SELECT is(up_having_read(6, change(7, 'UPDATE', 'users', 'g1', 1, '{"name":"4"}')), '7 conflict 4', 'on the version of before, from a device that may have been put back');
SELECT is(up_having_read(7, change(7, 'UPDATE', 'users', 'g1', 1, '{"name":"4"}')), '7 applied 8 +row', 'from one that has read all that is pruned');
SELECT is(up_having_read(7, change(8, 'UPDATE', 'users', 'g2', 5, '{"name":"4"}')), '8 applied 9 +row', 'a version of somebody else, that it had read');
UPDATE app.users SET name = 'the server''s' WHERE id IN ('g1', 'g2');
SELECT is(up_having_read(7, change(9, 'UPDATE', 'users', 'g1', 1, '{"name":"5"}'), change(10, 'DELETE', 'users', 'g1', 3)), '9 conflict 10, 10 conflict 10', 'not once others have moved the row');
SELECT is(up_having_read(7, change(11, 'UPDATE', 'users', 'g1', 10, '{"name":"6"}'), change(12, 'DELETE', 'users', 'g2', 5)), '11 applied 12, 12 conflict 11', 'nor on a version before that');
SELECT is_empty('SELECT * FROM rowsync.verify()', 'verify finds nothing wrong');
-- A device that is gone for good.
SELECT is(up('ida', 'phone', change(1, 'INSERT', 'users', 'i1', 0, '{"name":"A"}'), change(2, 'INSERT', 'users', 'i2', 0, '{"name":"A"}')) ~ 'applied', true, 'ida''s phone');
SELECT is(up('ida', 'phone', change(3, 'UPDATE', 'users', 'i1', 1, '{"name":"B"}'), change(4, 'DELETE', 'users', 'i2', 2)), '3 applied 3, 4 applied 4', 'writes');
SELECT is(page('ida', 'laptop', 0) <> page('ida', 'laptop', 4), true, 'her laptop has read all, the phone nothing');
UPDATE rowsync.change_log SET ts = ts - interval '40 days' WHERE scope_id = (SELECT scope_id FROM rowsync.scope WHERE name = 'ida');
SELECT is_empty($$SELECT * FROM rowsync.prune(user_id => 'ida')$$, 'for which all is kept');
SELECT lives_ok($$SELECT rowsync.forget_source('ida', 'phone')$$, 'until it is forgotten');
SELECT results_eq($$SELECT concat_ws(' ', scope, floor, removed_changes, removed_tombstones) FROM rowsync.prune(user_id => 'ida')$$, '{ida 4 3 1}'::text[],
                  'then what is old goes');
SELECT is(up('ida', 'phone', change(1, 'INSERT', 'users', 'i1', 0, '{"name":"A"}'), change(4, 'DELETE', 'users', 'i2', 2)), '1 applied 3 +row, 4 applied 4 deleted +row',
          'what it sends again has no second effect');
SELECT is(page('ida', 'phone', 4) || (SELECT last_seen > '-infinity' FROM rowsync.source_lag WHERE scope = 'ida' AND source_id = 'phone')::text,
          '> 4/4true', 'and it counts again');
SELECT finish();
