-- Every public function's every documented error once: the same pairs as the table under "Errors" in
-- docs/sql.md, which test/e2e/test_docs_sql.py compares.
\ir include/helpers.sql
\ir include/app.sql
CALL role('tap_nobody');
CALL role('tap_owner');
SELECT rowsync.grant_registrar('tap_owner') IS NULL AS granted \gset
GRANT USAGE ON SCHEMA app, t TO tap_owner, tap_nobody;
GRANT USAGE ON SCHEMA rowsync TO tap_nobody;
CREATE DOMAIN app.grade AS integer;
CREATE TABLE app.marks (id uuid PRIMARY KEY, grade integer, grades integer[]);
CREATE TABLE app.pile (id numeric PRIMARY KEY);
CREATE FUNCTION app.hide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
SELECT rowsync.register_table('app.marks') > 0 AS registered \gset
SET rowsync.scope = 'ann';
INSERT INTO app.users (id, name) VALUES ('u1', 'A'), ('u2', 'B');
UPDATE app.users SET name = 'AA' WHERE id = 'u1';
INSERT INTO app.marks VALUES ('00000000-0000-4000-8000-000000000001', 1, '{1}');

-- What is done first, in the same transaction, taken back afterwards; then the statement that fails.
CREATE TABLE t.case (n int GENERATED ALWAYS AS IDENTITY, what text, sqlstate text, before text, statement text, message text);
INSERT INTO t.case (what, sqlstate, before, statement, message) VALUES
('register_table', 'RS002', '', $$SELECT rowsync.register_table(NULL)$$, 'table_name must not be null'),
('register_table', 'RS005', '', $$SELECT rowsync.register_table('app.pile')$$, 'key column "id" of app.pile has type numeric'),
('register_table', 'RS007', 'old', $$SELECT rowsync.register_table('app.pile')$$, 'the rowsync library is version'),
('register_table', '42501', 'SET LOCAL ROLE tap_owner', $$SELECT rowsync.register_table('app.pile')$$, 'must be owner of table pile'),
('declare_restored', 'RS002', '', $$SELECT rowsync.declare_restored(restored_at => now() + interval '1 hour')$$, 'restored_at must not be in the future'),
('unregister_table', 'RS006', '', $$SELECT rowsync.unregister_table('app.pile')$$, 'app.pile is not registered'),
('unregister_table', 'RS007', 'old', $$SELECT rowsync.unregister_table('app.users')$$, 'the rowsync library is version'),
('unregister_table', '42501', 'SET LOCAL ROLE tap_owner', $$SELECT rowsync.unregister_table('app.users')$$, 'must be owner of table users'),
('grant_gateway', '42704', '', $$SELECT rowsync.grant_gateway('nosuchrole')$$, 'role "nosuchrole" does not exist'),
('grant_gateway', '42501', 'SET LOCAL ROLE tap_nobody', $$SELECT rowsync.grant_gateway('tap_nobody')$$, 'permission denied for function grant_gateway'),
('grant_registrar', '42704', '', $$SELECT rowsync.grant_registrar('nosuchrole')$$, 'role "nosuchrole" does not exist'),
('grant_registrar', '42501', 'SET LOCAL ROLE tap_nobody', $$SELECT rowsync.grant_registrar('tap_nobody')$$, 'permission denied for function grant_registrar'),
('grant_operator', '42704', '', $$SELECT rowsync.grant_operator('nosuchrole')$$, 'role "nosuchrole" does not exist'),
('grant_operator', '42501', 'SET LOCAL ROLE tap_nobody', $$SELECT rowsync.grant_operator('tap_nobody')$$, 'permission denied for function grant_operator'),
('upload', 'RS001', '', $$SELECT rowsync.upload('ann', 'phone', '{"changes":')$$, 'the request is not valid JSON'),
('upload', 'RS002', '', $$SELECT rowsync.upload('ann', repeat('s', 256), '{"changes":[]}')$$, 'source_id must have 1 to 255 bytes, not 256'),
('upload', 'RS007', 'old', $$SELECT rowsync.upload('ann', 'phone', '{"changes":[]}')$$, 'the rowsync library is version'),
('upload', '25006', 'SET LOCAL transaction_read_only = on', $$SELECT rowsync.upload('ann', 'phone', t.one())$$, ''),
('download', 'RS002', '', $$SELECT rowsync.download('ann', 'phone', -1)$$, 'after must be 0 or more'),
('download', 'RS003', $$UPDATE rowsync.scope SET floor = 2 WHERE name = 'ann'$$, $$SELECT rowsync.download('ann', 'phone', 1)$$, 'changes up to 2 are pruned, after is 1'),
('download', 'RS007', 'old', $$SELECT rowsync.download('ann', 'phone')$$, 'the rowsync library is version'),
('download', 'RS008', $$UPDATE rowsync.change_log SET row_key = 'x' WHERE seq = 4$$, $$SELECT rowsync.download('ann', 'phone')$$, 'a row_key of app.marks has 1 bytes instead of 16'),
('snapshot', 'RS002', '', $$SELECT rowsync.snapshot('', 'phone')$$, 'user_id must have 1 to 255 bytes, not 0'),
('snapshot', 'RS007', 'old', $$SELECT rowsync.snapshot('ann', 'phone')$$, 'the rowsync library is version'),
('snapshot', 'RS008', $$DELETE FROM rowsync.change_log WHERE seq = 3$$, $$SELECT rowsync.snapshot('ann', 'phone')$$, 'change 3 of a live row of app.users is not in rowsync.change_log'),
('digest', 'RS002', '', $$SELECT rowsync.digest('ann', -1)$$, 'at must be 0 or more'),
('digest', 'RS003', $$UPDATE rowsync.scope SET floor = 2 WHERE name = 'ann'$$, $$SELECT rowsync.digest('ann', 1)$$, 'changes up to 2 are pruned, at is 1'),
('digest', 'RS007', 'old', $$SELECT rowsync.digest('ann')$$, 'the rowsync library is version'),
('schema', 'RS007', 'old', $$SELECT rowsync.schema()$$, 'the rowsync library is version'),
('schema_version', 'RS007', 'old', $$SELECT rowsync.schema_version()$$, 'the rowsync library is version'),
('prune', 'RS002', '', $$SELECT rowsync.prune(keep => '-1 day')$$, 'keep and give_up must not be null or negative'),
('forget_source', 'RS002', '', $$SELECT rowsync.forget_source('ann', 'nobody')$$, 'user "ann" has no source "nobody"'),
('verify', 'RS007', 'old', $$SELECT rowsync.verify()$$, 'the rowsync library is version'),
('row_history', 'RS002', '', $$SELECT rowsync.row_history('app.marks', 'no uuid')$$, '"no uuid" is no key of app.marks'),
('row_history', 'RS006', '', $$SELECT rowsync.row_history('app.pile', '1')$$, 'table pile is not registered'),
('row_history', 'RS007', 'old', $$SELECT rowsync.row_history('app.users', 'u1')$$, 'the rowsync library is version'),
('restore_row', 'RS002', '', $$SELECT rowsync.restore_row('app.users', 'u1', 99)$$, 'version 99 of app.users u1 is not in the history'),
('restore_row', 'RS006', '', $$SELECT rowsync.restore_row('app.pile', '1', 1)$$, 'table pile is not registered'),
('restore_row', 'RS007', 'old', $$SELECT rowsync.restore_row('app.users', 'u1', 1)$$, 'the rowsync library is version'),
('restore_row', 'RS008', $$UPDATE rowsync.change_log SET payload = '[]' WHERE seq = 1$$, $$SELECT rowsync.restore_row('app.users', 'u1', 1)$$, 'a payload of app.users in rowsync.change_log is no JSON object'),
('restore_row', '42501', 'CREATE TRIGGER a BEFORE UPDATE ON app.users FOR EACH ROW EXECUTE FUNCTION app.hide()', $$SELECT rowsync.restore_row('app.users', 'u1', 1)$$, 'a policy or a trigger of app.users kept the row from being written'),
('restore_row', '42804', $$UPDATE rowsync.change_log SET payload = replace(payload, '"grade":1', '"grade":"high"') WHERE seq = 4$$, $$SELECT rowsync.restore_row('app.marks', '00000000-0000-4000-8000-000000000001', 4)$$, 'the old value of column "grade" no longer fits'),
('writes', 'RS002', '', $$INSERT INTO app.users (id, name, _rowsync_scope) VALUES ('u3', 'C', repeat('s', 256))$$, 'a scope must have 1 to 255 bytes, not 256'),
('writes', 'RS004', '', $$INSERT INTO app.users (id, name, _rowsync_scope) VALUES ('u3', 'C', NULL)$$, 'a row of app.users has no scope'),
('writes', 'RS006', 'CREATE TRIGGER _rowsync_capture AFTER INSERT ON app.pile FOR EACH ROW EXECUTE FUNCTION rowsync._capture()', $$INSERT INTO app.pile VALUES (1)$$, 'table pile has rowsync''s triggers but is not registered'),
('writes', 'RS007', 'old', $$INSERT INTO app.users (id, name) VALUES ('u3', 'C')$$, 'the rowsync library is version'),
('writes', '54000', '', $$SELECT t.flushed($q$INSERT INTO app.users (id, name) VALUES (repeat('k', 2001), 'C')$q$)$$, 'the primary key of a row that syncs is 2001 bytes long, more than 2000'),
('ALTER TABLE', 'RS005', '', 'ALTER TABLE app.users DROP COLUMN _rowsync_scope', 'table app.users has lost its scope column');

CREATE FUNCTION t.one() RETURNS text LANGUAGE sql AS $$ SELECT '{"changes":[' || change(1, 'INSERT', 'users', 'new', 0, '{"name":"N"}') || ']}' $$;
-- Captures are flushed at commit, or when a table is unregistered.
CREATE FUNCTION t.flushed(statement text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE statement; PERFORM rowsync.unregister_table('app.comments'); END $$;
CREATE FUNCTION t.raised(before text, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    BEGIN
        IF before = 'old' THEN
            UPDATE pg_extension SET extversion = '0.0.9' WHERE extname = 'rowsync';
            REVOKE ALL ON rowsync.synced_table FROM PUBLIC;
        ELSIF before <> '' THEN
            EXECUTE before;
        END IF;
        EXECUTE statement;
        RAISE EXCEPTION USING ERRCODE = 'ZZ999', MESSAGE = 'no error';
    EXCEPTION WHEN OTHERS THEN
        result := SQLSTATE || ': ' || SQLERRM;
    END;
    RETURN result;
END $$;
SELECT plan((SELECT count(*)::int FROM t.case) + 4);
SELECT matches(raised(before, statement), '^' || sqlstate || ': ' || '(' || replace(replace(message, '(', '\('), ')', '\)') || ')', what || ' ' || sqlstate) FROM t.case ORDER BY n;

-- A scope that somebody else has written to since the transaction began.
CREATE EXTENSION dblink;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) AS seen FROM app.users \gset
SELECT dblink_exec(format('dbname=%L host=%L port=%L', current_database(), split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port')),
                   $$SET rowsync.scope = 'ann'; UPDATE app.users SET age = 1 WHERE id = 'u2'$$) AS done \gset
SELECT is(left(raised('', $$SELECT rowsync.upload('ann', 'phone', t.one())$$), 6), '40001:', 'upload 40001');
SELECT is(left(raised('', $$SELECT t.flushed('INSERT INTO app.users (id, name) VALUES (''u5'', ''E'')')$$), 6), '40001:', 'writes 40001');
ROLLBACK;
SELECT is((SELECT count(*)::int FROM app.users), 2, 'nothing of all that was written');
SELECT is_empty('SELECT unsound(false)', 'log, versions and tables agree');
SELECT finish();
