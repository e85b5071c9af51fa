-- What was refused is counted, and what a source has not read is told without what it has sent.
\ir include/helpers.sql
\ir include/app.sql
SELECT plan(18);
CREATE VIEW counted AS SELECT concat_ws(' ', scope, coalesce(table_name::text, '-'), reason, refused, last_source_id) COLLATE "default" AS line FROM rowsync.refusal_count;

SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'u1', 0, '{"name":"A"}')), '1 applied 1', 'nothing is refused');
SELECT is_empty('SELECT * FROM rowsync.refusal', 'nothing is counted');
SELECT is(up('ann', 'phone', change(2, 'INSERT', 'users', 'u2', 0, '{"name":"B","age":-1}'), change(3, 'INSERT', 'users', 'u3', 0, '{}'),
                             change(4, 'INSERT', 'users', 'u4', 0, '{"name":"D","age":"x"}'), change(5, 'INSERT', 'posts', 'p5', 0, '{"author_id":"u9","title":"x"}'),
                             change(6, 'INSERT', 'nothing', 'n6', 0, '{}'), change(7, 'INSERT', 'users', 'u7', 0, '{"name":"G"}'), change(6, 'INSERT', 'nothing', 'n6', 0, '{}')),
          '2 invalid constraint, 3 invalid constraint, 4 invalid bad_payload, 5 invalid fk_missing, 6 invalid unregistered_table, 7 applied 2, 6 invalid unregistered_table', 'refusals of every kind');
SELECT results_eq('SELECT line FROM counted ORDER BY 1', '{ann - unregistered_table 1 phone,ann app.posts fk_missing 1 phone,ann app.users bad_payload 1 phone,ann app.users constraint 2 phone}'::text[],
                  'by table and reason');
SELECT is(up('ann', 'tablet', change(1, 'INSERT', 'users', 'u2', 0, '{"name":"B","age":-1}')) || up('bob', 'phone', change(1, 'INSERT', 'users', 'b1', 0, '{"name":"B","age":-1}')),
          '1 invalid constraint1 invalid constraint', 'from others, and again');
SELECT results_eq($$SELECT line FROM counted WHERE line LIKE '%constraint%' ORDER BY 1$$, '{ann app.users constraint 3 tablet,bob app.users constraint 1 phone}'::text[], 'by user, with the last who sent one');
SELECT is(brief(atomic_answer('ann', 'phone', change(8, 'INSERT', 'users', 'u8', 0, '{"name":"H"}'), change(9, 'INSERT', 'users', 'u9', 0, '{"name":null}'))),
          '8 invalid internal_error, 9 invalid constraint', 'an atomic request that is refused');
SELECT results_eq($$SELECT line FROM counted WHERE line LIKE 'ann app.users%' ORDER BY 1$$,
                  '{ann app.users bad_payload 1 phone,ann app.users constraint 4 phone,ann app.users internal_error 1 phone}'::text[], 'counts too');
SELECT ok(first_refused < last_refused AND last_message LIKE 'null value in column "name"%', 'first and last, and what the last was told')
  FROM rowsync.refusal_count WHERE scope = 'ann' AND reason = 'constraint';
SELECT results_eq($$SELECT last_message FROM rowsync.refusal_count WHERE reason IN ('fk_missing', 'unregistered_table') ORDER BY 1$$,
                  ARRAY['a row that this change refers to is not there yet: ["app.users:u9"]', 'table app.nothing does not sync'], 'what it missed');
SELECT is(up('ann', 'phone', change(20, 'INSERT', 'other', 'n1', 0, '{}'), change(21, 'INSERT', 'nothing', 'n2', 0, '{}'), change(22, 'INSERT', 'other', 'n3', 0, '{}')),
          '20 invalid unregistered_table, 21 invalid unregistered_table, 22 invalid unregistered_table', 'more tables that do not sync');
SELECT is((SELECT concat_ws(' ', refused, last_message) FROM rowsync.refusal_count WHERE reason = 'unregistered_table'),
          '4 table app.other does not sync; table app.nothing does not sync', 'are all named, each once');
SELECT count(up('ann', 'phone', change(30 + n, 'INSERT', 'invented' || n, 'n', 0, '{}'))) AS invented FROM generate_series(1, 40) AS n \gset
SELECT ok(length(last_message) <= 500 AND last_message LIKE 'table app.invented40 does not sync; table app.invented39 %', 'as far as there is room, the latest first')
  FROM rowsync.refusal_count WHERE reason = 'unregistered_table';
SELECT is(up('ann', 'phone', change(80, 'INSERT', 'users', 'u80', 0, '{"name":"X","age":"' || repeat('é', 100) || '"}')), '80 invalid bad_payload', 'a long value');
SELECT is((SELECT last_message FROM rowsync.refusal_count WHERE scope = 'ann' AND reason = 'bad_payload'), 'column "age": expected a number, not "' || repeat('é', 30) || '..."', 'is cut');

-- A right that was forgotten.
CREATE ROLE tap_refused;
SELECT rowsync.grant_gateway('tap_refused') AS done \gset
GRANT USAGE ON SCHEMA t, app TO tap_refused;
SET ROLE tap_refused;
SELECT is(up('ann', 'phone', change(10, 'INSERT', 'teams', 't1', 0, '{"name":"T"}')), '10 invalid forbidden', 'no GRANT');
RESET ROLE;
SELECT is((SELECT concat_ws(' ', table_name, refused, last_message) FROM rowsync.refusal_count WHERE reason = 'forbidden'),
          'app.teams 1 permission denied for table teams', 'is seen by who looks after the server');
DROP OWNED BY tap_refused;
DROP ROLE tap_refused;

-- What a source has sent is nothing that it lags behind with.
INSERT INTO app.users (id, name, _rowsync_scope) VALUES ('s1', 'S', 'ann');
SELECT results_eq($$SELECT concat_ws(' ', source_id, last_download, changes_behind) COLLATE "default" FROM rowsync.source_lag WHERE scope = 'ann' ORDER BY 1$$, '{phone 0 1,tablet 0 3}'::text[],
                  'source_lag counts what others have written');
SELECT finish();
