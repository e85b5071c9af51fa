-- Transactions that write more than memory may hold, with savepoints undone and several users: captured
-- as exactly as small ones.
\ir include/helpers.sql
\ir include/app.sql
SET work_mem = '64kB';
SELECT plan(17);

BEGIN;
INSERT INTO app.users (id, name, _rowsync_scope) SELECT 'a' || n, repeat('x', 50), 'ann' FROM generate_series(1, 20000) AS n;
SAVEPOINT undone;
UPDATE app.users SET name = 'undone';
DELETE FROM app.users WHERE id LIKE 'a1%';
ROLLBACK TO undone;
UPDATE app.users SET age = 1 WHERE id LIKE 'a2%';
SAVEPOINT kept;
DELETE FROM app.users WHERE id LIKE 'a3%';
RELEASE kept;
INSERT INTO app.users (id, name, _rowsync_scope) SELECT 'b' || n, 'x', 'user ' || n % 40 FROM generate_series(1, 2000) AS n;
COMMIT;
SELECT is((SELECT count(*)::int FROM rowsync.change_log JOIN rowsync.scope USING (scope_id) WHERE name = 'ann'), 20000 - 1111, 'one entry for each row that stays');
SELECT is((SELECT count(*)::int FROM rowsync.change_log WHERE op <> 'I'), 0, 'each as an insert');
SELECT is((SELECT count(*)::int FROM rowsync.change_log WHERE payload LIKE '%undone%'), 0, 'nothing of what was undone');
SELECT is((SELECT count(DISTINCT scope_id)::int FROM rowsync.change_log), 41, 'every user has got the own rows');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');

UPDATE app.users SET age = coalesce(age, 0) + 1 WHERE _rowsync_scope = 'ann';
SELECT is((SELECT count(*)::int FROM rowsync.change_log WHERE op = 'U'), 20000 - 1111, 'a large UPDATE');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
BEGIN;
UPDATE app.users SET id = 'c' || id WHERE id LIKE 'a4%';
UPDATE app.users SET _rowsync_scope = 'zoe' WHERE id LIKE 'ca4%';
COMMIT;
SELECT is((SELECT count(*)::int FROM rowsync.change_log JOIN rowsync.scope USING (scope_id) WHERE name = 'ann' AND op = 'D'), 1111, 'rows that change their key and their user leave');
SELECT is((SELECT head FROM rowsync.scope WHERE name = 'zoe'), 1111::bigint, 'and enter');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');

SELECT head AS head FROM rowsync.scope WHERE name = 'ann' \gset
BEGIN;
UPDATE app.users SET name = 'never';
ROLLBACK;
SELECT is((SELECT head FROM rowsync.scope WHERE name = 'ann'), :head::bigint, 'a large transaction rolled back');
BEGIN;
UPDATE app.users SET name = 'prepared' WHERE _rowsync_scope = 'ann';
PREPARE TRANSACTION 'large';
COMMIT PREPARED 'large';
SELECT is((SELECT head FROM rowsync.scope WHERE name = 'ann'), :head + (SELECT count(*) FROM app.users WHERE _rowsync_scope = 'ann'), 'one prepared');
BEGIN;
DELETE FROM app.users WHERE id LIKE 'a5%';
INSERT INTO app.users (id, name, _rowsync_scope) SELECT 'a5' || n, 'again', 'ann' FROM generate_series(1, 500) AS n;
DELETE FROM app.users WHERE id LIKE 'a6%';
COMMIT;
SELECT is((SELECT string_agg(op || ' ' || count, ', ' ORDER BY op) FROM (SELECT op::text, count(*) FROM rowsync.change_log JOIN rowsync.scope USING (scope_id)
           WHERE name = 'ann' AND payload NOT LIKE '%"prepared"%' AND seq > :head OR op = 'D' AND name = 'ann' AND seq > :head GROUP BY op) AS c) ~ '^D 1[0-9]{3}, U', true, 'deleted, and come again in part');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
TRUNCATE app.users CASCADE;
SELECT is((SELECT count(*)::int FROM rowsync.row_meta WHERE NOT deleted), 0, 'a large TRUNCATE');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
SELECT is_empty($$SELECT * FROM rowsync.verify() LIMIT 5$$, 'verify finds nothing');
SELECT finish();
