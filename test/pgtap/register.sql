-- Registering and unregistering tables: what they add and leave, the order of tables, rows that are
-- there already, and every refusal with its SQLSTATE, message and hint.
\ir include/helpers.sql
CREATE SCHEMA app;
CREATE TABLE app.users (id text PRIMARY KEY, name text);
CREATE TABLE app.posts (id text PRIMARY KEY, author_id text REFERENCES app.users);
CREATE TABLE app.comments (id text PRIMARY KEY, post_id text REFERENCES app.posts);
CREATE TABLE app.trees (id text PRIMARY KEY, parent_id text REFERENCES app.trees);
CREATE TABLE app.teams (id text PRIMARY KEY, captain_id text);
CREATE TABLE app.members (id text PRIMARY KEY, team_id text REFERENCES app.teams);
ALTER TABLE app.teams ADD CONSTRAINT captain FOREIGN KEY (captain_id) REFERENCES app.members;
SELECT plan(62);

-- Children before parents: the order follows the references, not the calls.
SELECT is(rowsync.register_table('app.comments'), 1, 'register_table returns the table''s number');
SELECT is(rowsync.register_table('app.posts'), 2, 'one by one');
SELECT is(rowsync.register_table('app.users'), 3, 'in any order');
SELECT is(rowsync.register_table('app.trees'), 4, 'a self-reference is no cycle');
SELECT results_eq($$SELECT array_agg(relid::text ORDER BY upsert_order) FROM rowsync.synced_table WHERE relid <> 'app.trees'::regclass$$,
                  $$VALUES ('{app.users,app.posts,app.comments}'::text[])$$, 'parents have lower numbers');
SELECT is((SELECT row(scope_added, scope_column, key_columns, schema_version)::text FROM rowsync.synced_table WHERE table_id = 3),
          '(t,_rowsync_scope,{id},1)', 'what is written down of a table');
SELECT is(rowsync.schema_version(), 1, 'schema_version begins with 1');

-- A cycle must be deferrable.
SELECT is(rowsync.register_table('app.teams'), 5, 'one table of a cycle alone');
ALTER TABLE app.members ALTER CONSTRAINT members_team_id_fkey DEFERRABLE;
SELECT is(refusal($$SELECT rowsync.register_table('app.members')$$),
          'RS005: foreign key "captain" of app.teams is part of a cycle of references and is not deferrable'
          ' | Run ALTER TABLE app.teams ALTER CONSTRAINT captain DEFERRABLE.', 'a cycle that cannot be deferred');
SELECT is((SELECT count(*)::int FROM pg_attribute WHERE attrelid = 'app.members'::regclass AND attname LIKE '%scope%'), 0,
          'a refusal leaves the table as it was');
ALTER TABLE app.teams ALTER CONSTRAINT captain DEFERRABLE;
SELECT lives_ok($$SELECT rowsync.register_table('app.members')$$, 'done as the hints say, it registers');
SELECT is((SELECT count(DISTINCT upsert_order)::int FROM rowsync.synced_table WHERE relid IN ('app.teams'::regclass, 'app.members'::regclass)),
          1, 'tables of a cycle share a number');

-- What registering adds.
SELECT col_type_is('app', 'users', '_rowsync_scope', 'text', 'a scope column');
SELECT triggers_are('app', 'users', '{_rowsync_capture,_rowsync_truncate}'::name[], 'two triggers');
SELECT is(refusal($$INSERT INTO app.users VALUES ('u1')$$),
          'RS004: a row of app.users has no scope | Run SET rowsync.scope = ''<user>'' first, or write the user into column _rowsync_scope.',
          'an INSERT without a scope is refused');
SET rowsync.scope = 'ann';
INSERT INTO app.users VALUES ('u1');
RESET rowsync.scope;
INSERT INTO app.users VALUES ('u2', NULL, 'bob');
SELECT is((SELECT string_agg(id || ' ' || _rowsync_scope, ',' ORDER BY id) FROM app.users), 'u1 ann,u2 bob', 'it defaults to the setting rowsync.scope');
SELECT is(refusal($$UPDATE app.users SET _rowsync_scope = NULL WHERE id = 'u1'$$),
          'RS004: a row of app.users has no scope | Run SET rowsync.scope = ''<user>'' first, or write the user into column _rowsync_scope.',
          'a row cannot lose its scope');
SELECT is(refusal($$UPDATE app.users SET _rowsync_scope = '' WHERE id = 'u1'$$),
          'RS004: a row of app.users has no scope | Run SET rowsync.scope = ''<user>'' first, or write the user into column _rowsync_scope.',
          'nor have an empty one');
SELECT is(refusal(format('UPDATE app.users SET _rowsync_scope = %L', repeat('x', 256))),
          'RS002: a scope must have 1 to 255 bytes, not 256', 'nor one that no user can have');

-- Unregistering.
SELECT lives_ok($$SELECT rowsync.unregister_table('app.users')$$, 'unregister_table');
SELECT is((SELECT count(*)::int FROM rowsync.synced_table WHERE relid = 'app.users'::regclass), 0, 'the table is no longer listed');
SELECT triggers_are('app', 'users', '{}'::name[], 'the triggers are gone');
SELECT has_column('app', 'users', '_rowsync_scope', 'the scope column stays');
SELECT is((SELECT count(*)::int FROM app.users), 2, 'the rows stay');
SELECT is((SELECT count(*)::int FROM rowsync.change_log WHERE table_id = 3), 2, 'the change log stays');
SELECT is((SELECT count(*)::int FROM rowsync.row_meta WHERE table_id = 3), 0, 'the versions are gone');
SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'u3', 0, '{}')), '1 invalid unregistered_table', 'uploads are refused');
SELECT is(page('ann', 'phone'), '> 1/1', 'downloads leave its changes out');
SELECT is(refusal($$SELECT rowsync.unregister_table('app.users')$$),
          'RS006: app.users is not registered | The view rowsync.table_status shows what is.', 'twice');
SELECT is(up('ann', 'phone', change(2, 'INSERT', 'posts', 'p1', 0, '{"author_id":"nobody"}')), '2 invalid fk_missing',
          'a reference to it is the database''s own business now');
SELECT is(up('ann', 'phone', change(2, 'INSERT', 'posts', 'p1', 0, '{"author_id":"u2"}')), '2 applied 2', 'which finds the row');

-- Registered again, its rows come as new.
SELECT cmp_ok(rowsync.register_table('app.users'), '>', 6, 'registering again gives a new number');
SELECT is(refusal($$SELECT rowsync.download('ann', 'phone', 2)$$), 'RS003: changes up to 3 are pruned, after is 2 | Hydrate from a snapshot, then download from its seq on.',
          'and has devices take a snapshot: some of its rows may be gone');
SELECT is(page('ann', 'phone', 3), '4 INSERT u1, > 4/4', 'what is there is backfilled');
SELECT is(page('bob', 'phone', 2), '3 INSERT u2, > 3/3', 'in each scope');
SELECT is((SELECT string_agg(concat_ws(' ', version, table_name, columns), ', ' ORDER BY version) FROM rowsync.schema_change), '2 app.users {}', 'that it did not sync for a while is noted');

-- An own scope column.
CREATE TABLE app.tasks (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner_id text, what text);
INSERT INTO app.tasks (id, owner_id, what) VALUES ('00000000-0000-0000-0000-000000000001', 'ann', 'wash'),
    ('00000000-0000-0000-0000-000000000002', 'cy', 'dry'), ('00000000-0000-0000-0000-000000000003', NULL, 'nobody''s'),
    ('00000000-0000-0000-0000-000000000004', '', 'nobody''s');
SELECT lives_ok($$SELECT rowsync.register_table('app.tasks', 'owner_id')$$, 'an own scope column');
SELECT hasnt_column('app', 'tasks', '_rowsync_scope', 'nothing is added');
SELECT is(page('cy', 'phone'), '1 INSERT 00000000-0000-0000-0000-000000000002, > 1/1', 'rows there already are backfilled into their scopes');
SELECT is((SELECT payload FROM rowsync.change_log JOIN rowsync.scope USING (scope_id) WHERE name = 'cy'),
          '{"id":"00000000-0000-0000-0000-000000000002","what":"dry"}', 'the scope column does not travel');
SELECT is((SELECT count(*)::int FROM rowsync.row_meta JOIN rowsync.synced_table USING (table_id) WHERE relid = 'app.tasks'::regclass), 2,
          'rows without a scope are nobody''s');
SELECT lives_ok($$INSERT INTO app.tasks (what) VALUES ('free')$$, 'and may come: the column is the app''s');
SELECT is(up('dee', 'phone', change(1, 'INSERT', 'tasks', '00000000-0000-0000-0000-000000000009', 0, '{"what":"x","owner_id":"ann"}')),
          '1 applied 1', 'an upload writes the caller into it,');
SELECT is((SELECT owner_id FROM app.tasks WHERE what = 'x'), 'dee', 'whatever was sent for it');

-- Backfill with an added column: rows get the session's scope.
CREATE TABLE app.olds (id integer PRIMARY KEY);
INSERT INTO app.olds VALUES (1), (2);
SET rowsync.scope = 'eve';
SELECT lives_ok($$SELECT rowsync.register_table('app.olds')$$, 'rows that are there, with rowsync.scope set');
RESET rowsync.scope;
SELECT is(page('eve', 'phone'), '1 INSERT 1, 2 INSERT 2, > 2/2', 'become that user''s');

-- Refusals.
CREATE TABLE app.keyless (id text);
CREATE VIEW app.seen AS SELECT 1 AS id;
CREATE UNLOGGED TABLE app.unlogged (id text PRIMARY KEY);
CREATE TEMP TABLE fleeting (id text PRIMARY KEY);
CREATE TABLE app.parts (id text PRIMARY KEY) PARTITION BY HASH (id);
CREATE TABLE app.part PARTITION OF app.parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE app.base (id text PRIMARY KEY);
CREATE TABLE app.heir (PRIMARY KEY (id)) INHERITS (app.base);
CREATE TABLE app.lazy (id text PRIMARY KEY DEFERRABLE);
CREATE TABLE app.numbers (id numeric PRIMARY KEY);
CREATE TABLE app.scoped (id text, owner text, PRIMARY KEY (owner, id));
CREATE TABLE app.twice (id text PRIMARY KEY, code text UNIQUE);
CREATE TABLE app.by_code (id text PRIMARY KEY, code text REFERENCES app.twice (code));
CREATE TABLE app.owned (id text PRIMARY KEY, owner text REFERENCES app.twice);
DO $$ BEGIN PERFORM rowsync.register_table('app.twice'); END $$;
SELECT matches(refusal($$SELECT rowsync.register_table('app.keyless')$$),
          '^RS005: app.keyless has no primary key [|] Add one, best of type uuid, so that devices can make keys.$', 'no primary key');
SELECT is(refusal($$SELECT rowsync.register_table('app.seen')$$),
          'RS005: app.seen is not a table | Views and foreign tables cannot sync.', 'a view');
SELECT is(refusal($$SELECT rowsync.register_table('app.part')$$),
          'RS005: app.part is a partition | Register the partitioned table itself.', 'a partition');
SELECT is(refusal($$SELECT rowsync.register_table('app.unlogged')$$),
          'RS005: app.unlogged is a temporary or unlogged table'
          ' | Its rows would not survive a crash, but their versions would: use a permanent table.', 'an unlogged table');
SELECT is(refusal($$SELECT rowsync.register_table('app.heir')$$),
          'RS005: app.heir takes part in inheritance | A primary key does not hold across tables that inherit: use separate tables.', 'an heir');
SELECT is(refusal($$SELECT rowsync.register_table('rowsync.scope')$$),
          'RS005: rowsync.scope belongs to the system | Register tables of your own.', 'a table of rowsync');
SELECT matches(refusal($$SELECT rowsync.register_table('app.lazy')$$),
          '^RS005: the primary key of app.lazy is deferrable [|] Make it NOT DEFERRABLE.$', 'a deferrable key');
SELECT is(refusal($$SELECT rowsync.register_table('app.numbers')$$), 'RS005: key column "id" of app.numbers has type numeric, in which equal values can differ in writing'
          ' | Use uuid, text, varchar, an integer type, boolean, date, timestamp, bytea or an enum.', 'a key whose equal values look different');
SELECT is(refusal($$SELECT rowsync.register_table('app.scoped', 'owner')$$),
          'RS005: the primary key of app.scoped contains the scope column "owner"'
          ' | The scope is no part of a row''s name: use a key that is unique without it, best a uuid.', 'a key with the scope in it');
SELECT is(refusal($$SELECT rowsync.register_table('app.tasks', 'owner_id')$$),
          'RS005: app.tasks is registered already | To change its scope column, unregister it first.', 'registered twice');
SELECT is(refusal($$SELECT rowsync.register_table('app.owned', 'nowhere')$$),
          'RS005: app.owned has no column "nowhere" | Name a column that holds each row''s user, or none, and one is added.', 'no such column');
SELECT is(refusal($$SELECT rowsync.register_table('app.by_code')$$),
          'RS005: foreign key "by_code_code_fkey" of app.by_code does not refer to the primary key of its parent, or contains the scope column'
          ' | Let it refer to the whole primary key of twice, or drop it.', 'a reference to something else than the key');
SELECT is(refusal($$SELECT rowsync.register_table(NULL)$$), 'RS002: table_name must not be null', 'no table');

-- What a device is told to keep unique: of its rows, which are those of one scope.
CREATE TABLE app.labels (id text PRIMARY KEY, owner text UNIQUE, name text, colour text, UNIQUE (owner, name), UNIQUE (name, colour));
CREATE UNIQUE INDEX ON app.labels (owner, lower(colour));
CREATE UNIQUE INDEX ON app.labels (owner, colour) WHERE name IS NULL;
SELECT rowsync.register_table('app.labels', 'owner');
SELECT is((SELECT t->>'unique' FROM json_array_elements(rowsync.schema()::json->'tables') AS t WHERE t->>'table' = 'labels'),
          '[["name"],["name","colour"]]', 'schema() gives unique constraints without the scope column, and none that has nothing else');
SELECT is((SELECT t->>'unique' FROM json_array_elements(rowsync.schema()::json->'tables') AS t WHERE t->>'table' = 'tasks'),
          '[]', 'nor the key once more');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
SELECT finish();
