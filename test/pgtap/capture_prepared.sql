-- Prepared transactions are captured when they are prepared, and count when they are committed.
\ir include/helpers.sql
\ir include/app.sql
SET rowsync.scope = 'ann';
SELECT plan(9);

INSERT INTO app.users (id, name) VALUES ('u1', 'A');
BEGIN;
INSERT INTO app.users (id, name) VALUES ('u2', 'B');
PREPARE TRANSACTION 'first';
SELECT results_eq($$SELECT log('ann')$$, '{1 users I u1 server}'::text[], 'prepared: not seen');
COMMIT PREPARED 'first';
SELECT results_eq($$SELECT log('ann')$$, '{1 users I u1 server,2 users I u2 server}'::text[], 'committed: seen');
BEGIN;
INSERT INTO app.users (id, name) VALUES ('u3', 'C');
PREPARE TRANSACTION 'second';
ROLLBACK PREPARED 'second';
SELECT results_eq($$SELECT log('ann', 2)$$, '{}'::text[], 'rolled back: never was');
INSERT INTO app.users (id, name) VALUES ('u4', 'D');
SELECT results_eq($$SELECT log('ann', 2)$$, '{3 users I u4 server}'::text[], 'and left no gap');

-- One statement, several rows, savepoints.
BEGIN;
UPDATE app.users SET age = 1;
SAVEPOINT a;
DELETE FROM app.users;
ROLLBACK TO a;
PREPARE TRANSACTION 'third';
COMMIT PREPARED 'third';
SELECT results_eq($$SELECT log('ann', 3)$$, '{4 users U u1 server,5 users U u2 server,6 users U u4 server}'::text[], 'savepoints in it');
BEGIN;
SELECT up('ann', 'phone', change(1, 'INSERT', 'users', 'u5', 0, '{"name":"x"}')) AS answer \gset
PREPARE TRANSACTION 'fourth';
COMMIT PREPARED 'fourth';
SELECT is(:'answer'::text, '1 applied 7', 'an upload in it');
SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'u5', 0, '{"name":"x"}')), '1 applied 7', 'which is known afterwards');
BEGIN;
INSERT INTO app.users VALUES ('u6', 'F', NULL, NULL, 'new');
PREPARE TRANSACTION 'fifth';
ROLLBACK PREPARED 'fifth';
SELECT is(up('new', 'phone', change(1, 'INSERT', 'users', 'u6', 0, '{"name":"x"}')), '1 applied 1',
          'a user who came to be in it and did not');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
SELECT finish();
