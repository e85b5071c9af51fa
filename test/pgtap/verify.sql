-- rowsync.verify finds each kind of damage, inflicted here one by one behind its back, and nothing in a
-- sound database. The views show what is there.
\ir include/helpers.sql
\ir include/app.sql
SET rowsync.scope = 'ann';
SELECT plan(30);

INSERT INTO app.users (id, name) VALUES ('u1', 'A'), ('u2', 'B'), ('u3', 'C');
UPDATE app.users SET name = 'AA' WHERE id = 'u1';
DELETE FROM app.users WHERE id = 'u3';
SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'u4', 0, '{"name":"D"}')), '1 applied 6', 'an upload too');
SELECT is(up('bob', 'phone', change(1, 'INSERT', 'users', 'b1', 0, '{"name":"D"}')), '1 applied 1', 'and another user');
SELECT is_empty('SELECT * FROM rowsync.verify()', 'sound');

-- Inflicts damage, asks verify (of ann, and of bob, who has none), and takes it back.
CREATE FUNCTION t.damage(VARIADIC statements text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    found text;
    statement text;
    bob int;
BEGIN
    BEGIN
        SET LOCAL session_replication_role = replica;
        FOREACH statement IN ARRAY statements LOOP
            EXECUTE statement;
        END LOOP;
        SET LOCAL session_replication_role = origin;
        SELECT string_agg(concat_ws(' ', v.problem, '|', v.scope, v.table_name, v.key, v.version), '; ' ORDER BY v.version, v.problem) INTO found FROM rowsync.verify() AS v;
        SELECT count(*) INTO bob FROM rowsync.verify('bob') AS v WHERE v.scope IS NOT NULL;
        RAISE EXCEPTION 'undo' USING ERRCODE = 'ZZ999';
    EXCEPTION WHEN SQLSTATE 'ZZ999' THEN
        NULL;
    END;
    RETURN CASE WHEN bob > 0 THEN 'bob too: ' ELSE '' END || coalesce(found, 'nothing found');
END $$;
\set ann '(SELECT scope_id FROM rowsync.scope WHERE name = ''ann'')'

SELECT matches(damage('DELETE FROM rowsync.change_log WHERE seq = 1 AND payload LIKE ''%u1%'''), 'change missing from the log \| ann 1', 'a change that is gone');
SELECT matches(damage('UPDATE rowsync.scope SET head = 5 WHERE name = ''ann'''), 'change beyond the head \| ann 6', 'a head that went back');
SELECT matches(damage('UPDATE rowsync.scope SET head = 7 WHERE name = ''ann'''), 'change missing from the log \| ann 7', 'a head that ran ahead');
SELECT matches(damage('UPDATE rowsync.row_meta SET version = 99 WHERE row_key = ''u2'''), 'version without a change in the log \| ann app.users u2 99', 'a version out of thin air');
SELECT matches(damage('UPDATE rowsync.row_meta SET version = 1 WHERE row_key = ''u2'''), 'version that is another row''s change \| ann app.users u2 1', 'another row''s version');
SELECT matches(damage('UPDATE rowsync.row_meta SET deleted = true WHERE row_key = ''u2'''), 'version and change disagree about deletion \| ann app.users u2 2', 'a live row that counts as deleted');
SELECT matches(damage('UPDATE rowsync.row_meta SET deleted = false WHERE row_key = ''u3'''), 'live version of a row that is not there \| ann app.users u3 5', 'a tombstone that counts as live');
SELECT matches(damage('DELETE FROM rowsync.row_meta WHERE row_key = ''u2'''), 'change of a row without a version \| ann app.users u2 2', 'a version that is gone');
SELECT matches(damage('DELETE FROM rowsync.row_meta WHERE row_key = ''u2'''), 'row that was never captured \| ann app.users u2', 'whose row is still there');
SELECT matches(damage('UPDATE rowsync.row_meta SET version = 1 WHERE row_key = ''u1'''), 'change newer than its row''s version \| ann app.users u1 4', 'a version left behind');
SELECT matches(damage('UPDATE rowsync.change_log SET prior_version = 2 WHERE seq = 4'), 'chain of a row''s changes is broken \| ann app.users u1 4', 'a chain that leads to another row');
SELECT matches(damage('UPDATE rowsync.change_log SET prior_version = 9 WHERE seq = 4'), 'chain of a row''s changes is broken \| ann app.users u1 4', 'a chain that leads ahead');
SELECT matches(damage('UPDATE rowsync.change_log SET source_no = 9 WHERE seq = 6'), 'change of an unknown source \| ann 6', 'a source that nobody knows');
SELECT matches(damage('INSERT INTO app.users VALUES (''x'', ''X'', NULL, NULL, ''ann'')'), 'row that was never captured \| ann app.users x', 'a row that came unseen');
SELECT matches(damage('DELETE FROM app.users WHERE id = ''u2'''), 'live version of a row that is not there \| ann app.users u2 2', 'one that went unseen');
SELECT matches(damage('UPDATE app.users SET name = ''unseen'' WHERE id = ''u2'''), 'row differs from its latest change \| ann app.users u2 2', 'one that changed unseen');
SELECT matches(damage('UPDATE app.users SET age = 5 WHERE id = ''u2'''), 'row differs from its latest change \| ann app.users u2 2', 'in one column');
SELECT matches(damage('INSERT INTO app.users VALUES (''u3'', ''C'', NULL, NULL, ''ann'')'), 'row that counts as deleted \| ann app.users u3', 'one that came back unseen');
SELECT matches(damage('INSERT INTO app.users VALUES (''lost'', ''L'', NULL, NULL, NULL)'), 'row without a scope \| app.users lost', 'a row that nobody can sync');
SELECT matches(damage('ALTER TABLE app.users DISABLE TRIGGER _rowsync_capture'), 'trigger _rowsync_capture is disabled \| app.users', 'a trigger switched off');
SELECT matches(damage('DROP TRIGGER _rowsync_truncate ON app.users'), 'trigger _rowsync_truncate is missing \| app.users', 'a trigger dropped');
SELECT is_empty('SELECT * FROM rowsync.verify()', 'sound again');

-- Views.
SELECT results_eq($$SELECT concat_ws(' ', scope, seq, table_name, key, op, source_id) COLLATE "default" FROM rowsync.change WHERE scope = 'ann' AND seq > 4 ORDER BY seq$$,
                  '{"ann 5 app.users u3 DELETE ","ann 6 app.users u4 INSERT phone"}'::text[], 'change');
SELECT results_eq($$SELECT concat_ws(' ', key, version, deleted) COLLATE "default" FROM rowsync.row_version WHERE scope = 'ann' ORDER BY key$$,
                  '{u1 4 f,u2 2 f,u3 5 t,u4 6 f}'::text[], 'row_version');
SELECT results_eq($$SELECT concat_ws(' ', scope, source_id, last_download, changes_behind) COLLATE "default" FROM rowsync.source_lag WHERE scope = 'ann'$$, '{ann phone 0 6}'::text[], 'source_lag');
SELECT results_eq($$SELECT concat_ws(' ', scope, head, floor, sources, live_rows, tombstones, changes_kept) COLLATE "default" FROM rowsync.scope_status ORDER BY scope$$,
                  '{ann 6 0 1 3 1 6,bob 1 0 1 1 0 1}'::text[], 'scope_status');
SELECT results_eq($$SELECT concat_ws(' ', table_name, live_rows, tombstones) COLLATE "default" FROM rowsync.table_status WHERE live_rows > 0$$, '{app.users 4 1}'::text[], 'table_status');
SELECT finish();
