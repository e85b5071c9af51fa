-- Isolation (I8): no request reads, changes, references or detects a row of another scope, by whatever
-- way it tries.
\ir include/helpers.sql
\ir include/app.sql
CREATE TABLE app.pairs (a text, b text, note text, PRIMARY KEY (a, b));
CREATE TABLE app.pointers (id text PRIMARY KEY, a text, b text, FOREIGN KEY (a, b) REFERENCES app.pairs);
CREATE TABLE app.tasks (id text PRIMARY KEY, owner uuid, what text);
DO $$ BEGIN PERFORM rowsync.register_table('app.pairs'), rowsync.register_table('app.pointers'), rowsync.register_table('app.tasks', 'owner'); END $$;
SELECT plan(44);

SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'hers', 0, '{"name":"Ann","email":"ann@x"}'),
                             change(2, 'INSERT', 'posts', 'hers', 0, '{"author_id":"hers","title":"secret"}'),
                             change(3, 'INSERT', 'pairs', '["x","y"]', 0, '{"note":"secret"}')) LIKE '%invalid%', false, 'ann''s rows');
SELECT max(version) FILTER (WHERE row_key = 'hers' AND table_id = 1) AS users, max(version) FILTER (WHERE row_key = 'hers' AND table_id = 2) AS posts FROM rowsync.row_meta \gset

-- Mallory's answers for ann's key and for one that nobody has must be the same but for the key.
CREATE FUNCTION t.same(op text, tab text, version bigint, payload text, n bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hers text := (answer('mallory', 'm', change(n, op, tab, 'hers', version, replace(payload, '%', 'hers'))) #> '{statuses,0}')::text;
    nobody text := (answer('mallory', 'm', change(n + 1, op, tab, 'none', version, replace(payload, '%', 'none'))) #> '{statuses,0}')::text;
BEGIN
    nobody := replace(replace(nobody, 'none', 'hers'), (n + 1)::text, n::text);
    hers := regexp_replace(hers, '_version": \d+', '_version": N');
    nobody := regexp_replace(nobody, '_version": \d+', '_version": N');
    RETURN CASE WHEN hers = nobody THEN brief(jsonb_build_object('statuses', jsonb_build_array(regexp_replace(hers, ': N', ': 0')::jsonb))) ELSE hers || ' but ' || nobody END;
END $$;
SELECT is(same('UPDATE', 'users', :users, '{"name":"M"}', 100), '100 conflict 0 deleted', 'UPDATE on its version: the row does not exist');
SELECT is(same('UPDATE', 'users', 77, '{"name":"M"}', 110), '110 conflict 0 deleted', 'UPDATE on another version');
SELECT is(same('INSERT', 'users', :users, '{"name":"M"}', 120), '120 conflict 0 deleted', 'INSERT on its version');
SELECT is(same('INSERT', 'posts', 0, '{"author_id":"%","title":"M"}', 130), '130 invalid fk_missing', 'a reference to it');
SELECT is(same('DELETE', 'users', 0, NULL, 140), '140 applied 0', 'DELETE');
SELECT is(same('DELETE', 'posts', :posts, NULL, 150), '150 applied 0', 'DELETE on its version');
SELECT is((SELECT row(name, email, _rowsync_scope)::text FROM app.users WHERE id = 'hers'), '(Ann,ann@x,ann)', 'ann''s row is as it was');
SELECT is((SELECT count(*)::int FROM app.posts), 1, 'and her post too');
SELECT is(up('ann', 'phone', change(4, 'UPDATE', 'users', 'hers', :users, '{"age":30}')), '4 applied 4', 'she notices nothing');

-- INSERT cannot hide that the key is taken; it says nothing more.
SELECT is(answer('eve', 'e', change(1, 'INSERT', 'users', 'hers', 0, '{"name":"E"}')) #> '{statuses,0}',
          '{"source_change_id":1,"status":"invalid","message":"this key is not yours to use: give the row another one",
            "invalid":{"reason":"forbidden","details":{"error":"this key is not yours to use: give the row another one"}}}'::jsonb, 'INSERT of her key is forbidden');
SELECT is(answer('eve', 'e', change(2, 'UPDATE', 'users', 'hers', 0, '{"name":"E"}')) #> '{statuses,0}',
          '{"source_change_id":2,"status":"invalid","message":"this key is not yours to use: give the row another one",
            "invalid":{"reason":"forbidden","details":{"error":"this key is not yours to use: give the row another one"}}}'::jsonb, 'UPDATE on version 0 is an INSERT');
SELECT is(up('eve', 'e', change(3, 'DELETE', 'users', 'hers', 0), change(4, 'INSERT', 'users', 'hers', 0, '{"name":"E"}')),
          '3 applied 1, 4 invalid forbidden', 'DELETE and INSERT');
SELECT is(fault(answer('eve', 'e', change(5, 'INSERT', 'users', 'mine', 0, '{"name":"E","email":"ann@x"}'))),
          'constraint | duplicate key value violates unique constraint "users_email_key" | {"sqlstate": "23505", "constraint": "users_email_key"}',
          'a taken unique value does not say whose it is');
SELECT is(up('eve', 'e', change(6, 'INSERT', 'users', 'mine', 0, '{"name":"E","_rowsync_scope":"ann"}')) LIKE '6 applied%', true, 'a scope that is sent');
SELECT is((SELECT _rowsync_scope FROM app.users WHERE id = 'mine'), 'eve', 'is not heeded');
SELECT is(up('eve', 'e', change(7, 'UPDATE', 'users', 'mine', 0, '{"_rowsync_scope":"ann"}')) LIKE '7 applied%', true, 'nor in an UPDATE');
SELECT is((SELECT _rowsync_scope FROM app.users WHERE id = 'mine'), 'eve', 'of an own row');

-- References, whole and in parts.
SELECT is(up('eve', 'e', change(10, 'INSERT', 'pointers', 'p1', 0, '{"a":"x","b":"y"}')), '10 invalid fk_missing', 'a reference of two columns');
SELECT is(up('eve', 'e', change(11, 'INSERT', 'pointers', 'p1', 0, '{"a":"x"}')) LIKE '11 applied%', true, 'half of one refers to nothing');
SELECT is(up('eve', 'e', change(12, 'UPDATE', 'pointers', 'p1', 0, '{"b":"y"}')), '12 invalid fk_missing', 'the other half later');
SELECT is(up('eve', 'e', change(13, 'INSERT', 'pointers', 'p2', 0, '{"a":"x","b":null}'), change(14, 'UPDATE', 'pointers', 'p2', 0, '{"b":"y"}')) ~
          '^13 applied \d+, 14 invalid fk_missing$', true, 'the other half in the same batch');
SELECT is(up('eve', 'e', change(15, 'INSERT', 'pointers', 'p3', 0, '{"b":"y"}'), change(16, 'UPDATE', 'pointers', 'p3', 0, '{"b":"z"}'),
                         change(17, 'UPDATE', 'pointers', 'p3', 0, '{"a":"x"}'), change(18, 'UPDATE', 'pointers', 'p3', 0, '{"b":"y"}')) ~
          '^15 applied \d+, 16 applied \d+, 17 invalid fk_missing, 18 applied \d+$', true, 'step by step');
SELECT is((SELECT count(*)::int FROM app.pointers WHERE a = 'x' AND b = 'y'), 0, 'no row of eve refers to ann''s');
SELECT is(up('ann', 'phone', change(10, 'INSERT', 'pointers', 'q1', 0, '{"a":"x","b":"y"}')) LIKE '10 applied%', true, 'ann''s own may');

-- Downloads.
SELECT is(rowsync.download('eve', 'phone', include_self => true) LIKE '%secret%', false, 'a download has nothing of ann''s');
SELECT is(page('Ann', 'phone'), '> 0/0', 'a name in other letters is another user');
SELECT is(page('ann ', 'phone'), '> 0/0', 'so is one with a space');
SELECT is(page('ann'' OR true --', 'phone'), '> 0/0', 'and one with SQL');

-- Triggers that write elsewhere.
CREATE FUNCTION app.give_away() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW._rowsync_scope := coalesce(NEW.note, NEW._rowsync_scope);
    RETURN NEW;
END $$;
CREATE TRIGGER give_away BEFORE INSERT OR UPDATE ON app.pairs FOR EACH ROW EXECUTE FUNCTION app.give_away();
SELECT is(answer('eve', 'e', change(30, 'INSERT', 'pairs', '["e","1"]', 0, '{"note":"ann"}'), change(31, 'INSERT', 'pairs', '["e","2"]', 0, '{}')) -> 'statuses' -> 0,
          '{"source_change_id":30,"status":"invalid","message":"the row would belong to another scope",
            "invalid":{"reason":"forbidden","details":{"error":"the row would belong to another scope"}}}'::jsonb, 'a trigger that would give the row to another user');
SELECT results_eq($$SELECT a, b FROM app.pairs WHERE a = 'e'$$, $$VALUES ('e', '2')$$, 'that row is not written, the other is');
CREATE FUNCTION app.tell_ann() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.categories (id, name, _rowsync_scope) VALUES ('from ' || NEW.id, 'hello', 'ann') ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER tell_ann AFTER INSERT ON app.users FOR EACH ROW EXECUTE FUNCTION app.tell_ann();
SELECT max(seq) AS before FROM rowsync.change_log JOIN rowsync.scope USING (scope_id) WHERE name = 'ann' \gset
SELECT is(up('eve', 'e', change(40, 'INSERT', 'users', 'e40', 0, '{"name":"x"}'), change(41, 'UPDATE', 'users', 'e40', 0, '{"name":"y"}')) ~ '^40 applied \d+, 41 applied \d+$', true,
          'a trigger may write a row of another user');
SELECT is(page('ann', 'phone', :before), format('%s INSERT from e40, > %s/%s', :before + 1, :before + 1, :before + 1), 'which reaches that user, also from a batch of several steps');
SELECT is((SELECT count(*)::int FROM rowsync.change_log JOIN rowsync.scope USING (scope_id) WHERE name = 'eve' AND row_key = 'from e40'), 0, 'and not this one');

-- A row that went to another user behind rowsync's back is that user's.
SELECT is(up('eve', 'e', change(50, 'INSERT', 'categories', 'moved', 0, '{"name":"eve"}')) LIKE '50 applied%', true, 'eve''s row');
SET session_replication_role = replica;
UPDATE app.categories SET _rowsync_scope = 'zoe', name = 'zoe' WHERE id = 'moved';
RESET session_replication_role;
SELECT is(up('eve', 'e', change(51, 'UPDATE', 'categories', 'moved', 0, '{"name":"eve"}'), change(52, 'DELETE', 'categories', 'moved', 0)) LIKE '%applied%', false,
          'is not hers to change when SQL gave it away unseen');
SELECT is((SELECT name FROM app.categories WHERE id = 'moved'), 'zoe', 'and stays as it is');
SET session_replication_role = replica;
UPDATE app.categories SET _rowsync_scope = 'eve', name = 'eve' WHERE id = 'moved';
RESET session_replication_role;

-- A scope column of another type than text.
SELECT is(up('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'p', change(1, 'INSERT', 'tasks', 't1', 0, '{"what":"x"}')), '1 applied 1', 'a uuid as scope');
SELECT is(up('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 'p', change(1, 'INSERT', 'tasks', 't2', 0, '{"what":"x"}')), '1 invalid forbidden', 'a user must be written as the uuid is');
SELECT is(up('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 'p', change(1, 'UPDATE', 'tasks', 't1', 1, '{"what":"y"}')), '1 conflict 0 deleted', 'or the row is another user''s');
SELECT is(fault(answer('no uuid', 'p', change(1, 'INSERT', 'tasks', 't3', 0, '{"what":"x"}'))),
          'constraint | the user does not fit the scope column owner of app.tasks: invalid input syntax for type uuid: "no uuid" | {"sqlstate": "22P02"}', 'a user that is no uuid');
SELECT is((SELECT count(*)::int FROM app.tasks), 1, 'none of which wrote anything');
SELECT is((SELECT count(*)::int FROM rowsync.change_log JOIN rowsync.scope USING (scope_id) WHERE name = 'mallory' AND op <> 'D'), 0, 'mallory has got nothing but tombstones');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
SELECT finish();
