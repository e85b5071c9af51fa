-- Rights: the gateway's role can call what it must and nothing else; business tables are written with
-- its rights, by the policies of its tables; what others plant in public is never run.
\ir include/helpers.sql
\ir include/app.sql
CALL role('tap_gateway');
CALL role('tap_reader');
CALL role('tap_nobody');
CALL role('tap_app');
CALL role('tap_free');
CALL role('tap_paid');
CALL role('tap_operator');
SELECT rowsync.grant_gateway('tap_gateway') IS NULL AS granted \gset
SELECT rowsync.grant_gateway('tap_reader') IS NULL AS granted \gset
GRANT USAGE ON SCHEMA app TO tap_gateway, tap_reader;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO tap_gateway;
REVOKE ALL ON app.teams, app.members FROM tap_gateway;
REVOKE DELETE ON app.categories FROM tap_gateway;
GRANT SELECT ON ALL TABLES IN SCHEMA app TO tap_reader;
SELECT plan(60);

-- PUBLIC.
SELECT is((SELECT count(*)::int FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
           WHERE p.pronamespace = 'rowsync'::regnamespace AND a.grantee = 0), 0, 'PUBLIC may execute no function of rowsync');
SELECT is((SELECT count(*)::int FROM pg_class AS c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS a
           WHERE c.relnamespace = 'rowsync'::regnamespace AND c.relkind IN ('r', 'v') AND a.grantee = 0), 0, 'and read no table');
SELECT is((SELECT count(*)::int FROM aclexplode((SELECT coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace WHERE nspname = 'rowsync')) AS a
           WHERE a.grantee = 0), 0, 'nor enter the schema');
-- Every function sets search_path, but for these.
CREATE TABLE t.unpinned (function regprocedure, why text);
INSERT INTO t.unpinned VALUES
    ('rowsync.upload(text, text, text)', 'C, resolves no name; the triggers of the tables must find theirs'),
    ('rowsync.restore_row(regclass, text, bigint, text)', 'its body was resolved when it was made; the triggers of the table must find theirs'),
    ('rowsync._write_row(regclass, text, text, boolean)', 'C, resolves no name; the triggers of the table must find theirs'),
    ('rowsync._parse_key(regclass, text)', 'C, resolves no name; the CHECK of a key''s domain must find what it finds elsewhere'),
    ('rowsync.download(text, text, bigint, integer, bigint, boolean, text)', 'C, resolves no name; every poll would pay for it'),
    ('rowsync._capture()', 'C, resolves no name; every row would pay for it'),
    ('rowsync._capture_truncate()', 'C, resolves no name'),
    ('rowsync._key_text(integer, bytea)', 'C, resolves no name; every row would pay for it'),
    ('rowsync._same_row(regclass, text, text)', 'C, resolves no name; every row would pay for it'),
    ('rowsync._is_row(integer, bytea, text)', 'C, resolves no name; every row would pay for it');
SELECT set_eq($$SELECT p.oid::regprocedure FROM pg_proc AS p WHERE p.pronamespace = 'rowsync'::regnamespace
                   AND NOT coalesce(p.proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false)$$,
              'SELECT function FROM t.unpinned', 'every function sets search_path, but for the ones listed here with the reason');
SELECT is((SELECT string_agg(p.oid::regprocedure::text, ', ') FROM pg_proc AS p JOIN t.unpinned AS u ON u.function = p.oid WHERE p.prosecdef), NULL,
          'none of which changes its rights');
SET ROLE tap_nobody;
SELECT is(refusal($$SELECT rowsync.upload('ann', 'phone', '{"changes":[]}')$$), '42501: permission denied for schema rowsync', 'who has no grant cannot upload');
SELECT is(refusal($$SELECT rowsync.download('ann', 'phone')$$), '42501: permission denied for schema rowsync', 'nor download');
RESET ROLE;

-- The gateway.
SET ROLE tap_gateway;
SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'u1', 0, '{"name":"A"}')), '1 applied 1', 'the gateway uploads');
SELECT is(page('ann', 'tablet'), '1 INSERT u1, > 1/1', 'and downloads');
SELECT is(rowsync.schema_version() >= 1, true, 'and asks the version of the schema');
SELECT is(refusal(format('SELECT * FROM rowsync.%I', rel)), '42501: permission denied for table ' || rel, 'it cannot read rowsync.' || rel)
    FROM unnest('{scope,source,synced_table,row_meta,change_log}'::text[]) AS rel;
SELECT is(refusal(format('DELETE FROM rowsync.%I', rel)), '42501: permission denied for table ' || rel, 'nor write rowsync.' || rel)
    FROM unnest('{scope,source,synced_table,row_meta,change_log}'::text[]) AS rel;
SELECT is(refusal($$SELECT rowsync.register_table('app.users')$$), '42501: permission denied for function register_table', 'nor register a table');
SELECT is(refusal($$SELECT rowsync.unregister_table('app.users')$$), '42501: permission denied for function unregister_table', 'nor unregister one');
SELECT is(refusal($$SELECT rowsync.grant_gateway('tap_nobody')$$), '42501: permission denied for function grant_gateway', 'nor grant');
SELECT is(refusal($$SET rowsync.max_changes = 1000000$$), '42501: permission denied to set parameter "rowsync.max_changes"', 'nor lift the limits');
SELECT is((SELECT string_agg(p.proname, ' ' ORDER BY p.proname) FROM pg_proc AS p
           WHERE p.pronamespace = 'rowsync'::regnamespace AND has_function_privilege('tap_gateway', p.oid, 'EXECUTE')),
          'digest download heads schema schema_version snapshot upload', 'this is all it may execute');

-- Rights on the business tables decide, change by change.
SELECT is(fault(answer('ann', 'phone', change(10, 'INSERT', 'teams', 't1', 0, '{}'))),
          'forbidden | permission denied for table teams | {"sqlstate": "42501"}', 'a table without any right');
SELECT is(up('ann', 'phone', change(11, 'INSERT', 'categories', 'k1', 0, '{}'), change(12, 'DELETE', 'categories', 'k1', 0),
                             change(13, 'INSERT', 'users', 'u2', 0, '{"name":"B"}')) ~ '^11 applied \d, 12 invalid forbidden, 13 applied \d$', true,
          'a table without the right to delete');
RESET ROLE;
SET ROLE tap_reader;
SELECT is(up('ann', 'phone', change(20, 'UPDATE', 'users', 'u1', 0, '{"name":"X"}'), change(21, 'DELETE', 'users', 'u1', 0)),
          '20 invalid forbidden, 21 invalid forbidden', 'a role that may only read');
SELECT is(refusal($$UPDATE app.users SET name = 'X'$$), '42501: permission denied for table users', 'as in SQL');
RESET ROLE;
SELECT is((SELECT string_agg(id || name, ' ' ORDER BY id) FROM app.users), 'u1A u2B', 'nothing of it was written');

-- A role without any right on rowsync writes its tables, and is captured.
GRANT USAGE ON SCHEMA app TO tap_app;
GRANT ALL ON app.users TO tap_app;
SET ROLE tap_app;
SET rowsync.scope = 'ann';
INSERT INTO app.users (id, name) VALUES ('u9', 'by an app');
RESET rowsync.scope;
RESET ROLE;
SELECT is((SELECT count(*)::int FROM rowsync.change_log WHERE row_key = 'u9'), 1, 'an application role needs no right on rowsync to be captured');
SET ROLE tap_app;
SELECT is(refusal($$SELECT rowsync._capture()$$), '42501: permission denied for schema rowsync', 'and cannot call what captures it');
RESET ROLE;

-- Row-level security: policies written for PostgREST and Supabase decide.
ALTER TABLE app.posts ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON app.posts USING (_rowsync_scope = current_setting('request.jwt.claims', true)::json ->> 'sub')
    WITH CHECK (title NOT LIKE 'banned%' AND current_setting('request.jwt.claims', true)::json ->> 'plan' = 'paid');
CREATE POLICY locked ON app.posts AS RESTRICTIVE FOR UPDATE USING (title <> 'locked');
SET ROLE tap_gateway;
SET request.jwt.claims = '{"sub":"ann","plan":"free"}';
SELECT is(fault(answer('ann', 'phone', change(30, 'INSERT', 'posts', 'p1', 0, '{"author_id":"u1","title":"x"}'))),
          'forbidden | new row violates row-level security policy for table "posts" | {"sqlstate": "42501"}', 'a policy that looks at a claim refuses');
SET request.jwt.claims = '{"sub":"ann","plan":"paid"}';
SELECT is(up('ann', 'phone', change(30, 'INSERT', 'posts', 'p1', 0, '{"author_id":"u1","title":"x"}'),
                             change(31, 'INSERT', 'posts', 'p2', 0, '{"author_id":"u1","title":"banned"}'),
                             change(32, 'INSERT', 'posts', 'p3', 0, '{"author_id":"u1","title":"locked"}')) ~ '^30 applied \d+, 31 invalid forbidden, 32 applied \d+$', true,
          'and lets through, change by change');
SELECT is(fault(answer('ann', 'phone', change(33, 'UPDATE', 'posts', 'p3', 0, '{"title":"free"}'))), 'forbidden | a policy of the table hides this row', 'a row that a policy hides from UPDATE');
SELECT is(fault(answer('ann', 'phone', change(34, 'UPDATE', 'posts', 'p1', 0, '{"title":"banned too"}'))),
          'forbidden | new row violates row-level security policy for table "posts" | {"sqlstate": "42501"}', 'an UPDATE to what the policy refuses');
SET request.jwt.claims = '{"sub":"someone","plan":"paid"}';
SELECT is(fault(answer('ann', 'phone', change(35, 'DELETE', 'posts', 'p1', 0))), 'forbidden | a policy of the table hides this row', 'a row that a policy hides from DELETE');
RESET ROLE;
SELECT is(up('ann', 'phone', change(36, 'UPDATE', 'posts', 'p3', 0, '{"title":"free"}')) LIKE '36 applied%', true, 'the owner is above policies, in the same session too');
SET ROLE tap_gateway;
SET request.jwt.claims = '{"sub":"ann","plan":"free"}';
SELECT is(up('ann', 'phone', change(37, 'UPDATE', 'posts', 'p3', 0, '{"title":"y"}')), '37 invalid forbidden', 'and the gateway below them again');
RESET ROLE;

-- The token's role: the gateway takes it for the transaction, as PostgREST does. It needs to be a member.
SELECT count(rowsync.grant_gateway(r::regrole)) AS granted FROM unnest('{tap_free,tap_paid}'::text[]) AS r \gset
GRANT USAGE ON SCHEMA app, t TO tap_free, tap_paid;
GRANT INSERT, SELECT ON app.users TO tap_free, tap_paid;
GRANT UPDATE ON app.users TO tap_paid;
GRANT tap_free, tap_paid TO tap_gateway;
CREATE FUNCTION t.as_role(role text, VARIADIC changes text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    PERFORM set_config('role', role, true);
    answer := up('ann', 'phone', VARIADIC changes);
    PERFORM set_config('role', 'none', true);
    RETURN answer;
END $$;
SET SESSION AUTHORIZATION tap_gateway;
SELECT matches(as_role('tap_free', change(40, 'INSERT', 'users', 'r1', 0, '{"name":"R"}')), '^40 applied \d+$', 'an upload under the token''s role');
SELECT is(as_role('tap_free', change(41, 'UPDATE', 'users', 'r1', 0, '{"name":"S"}')), '41 invalid forbidden', 'which has that role''s rights, not the gateway''s');
SELECT matches(as_role('tap_paid', change(42, 'UPDATE', 'users', 'r1', 0, '{"name":"S"}')), '^42 applied \d+$', 'and in the same session another role''s');
SELECT is(as_role('tap_free', change(43, 'UPDATE', 'users', 'r1', 0, '{"name":"T"}')), '43 invalid forbidden', 'whose plan is not used for the first');
SELECT is(current_user::text, 'tap_gateway', 'the role ends with the transaction');
SELECT is(refusal($$SELECT as_role('no such role', '')$$), '22023: role "no such role" does not exist', 'a role that is not there');
SELECT is(refusal($$SELECT as_role('tap_reader', '')$$), '42501: permission denied to set role "tap_reader"', 'a role that the gateway is no member of');
SELECT is(refusal(format('SELECT as_role(%L, '''')', (SELECT rolname FROM pg_roles WHERE rolsuper ORDER BY oid LIMIT 1))) ~ '^42501: permission denied to set role', true, 'a superuser');
RESET SESSION AUTHORIZATION;
GRANT tap_nobody TO tap_gateway;
SET SESSION AUTHORIZATION tap_gateway;
SELECT matches(refusal($$SELECT as_role('tap_nobody', change(44, 'INSERT', 'users', 'r2', 0, '{"name":"R"}'))$$), '^42501: permission denied for ', 'a role without grant_gateway');
RESET SESSION AUTHORIZATION;
REVOKE tap_nobody FROM tap_gateway;

-- Who looks after rowsync.
SELECT rowsync.grant_operator('tap_operator') IS NULL AS granted \gset
GRANT USAGE ON SCHEMA app TO tap_operator;
GRANT SELECT, UPDATE ON app.users, app.posts TO tap_operator;
SET request.jwt.claims = '{"sub":"someone"}';
SET ROLE tap_operator;
SELECT is((SELECT count(*)::int FROM rowsync.verify()), 0, 'an operator may verify');
SELECT is((SELECT count(*) > 0 FROM rowsync.change) AND (SELECT count(*) > 0 FROM rowsync.row_version) AND (SELECT count(*) > 0 FROM rowsync.source_lag) AND (SELECT count(*) >= 0 FROM rowsync.refusal_count)
          AND (SELECT count(*) > 0 FROM rowsync.scope_status) AND (SELECT count(*) > 0 FROM rowsync.table_status), true, 'read the views');
SELECT is((SELECT string_agg(payload ->> 'name', ' ') FROM rowsync.row_history('app.users', 'r1')), 'S R', 'and the history of a row');
SELECT lives_ok(format($$SELECT rowsync.restore_row('app.users', 'r1', %s)$$, (SELECT min(version) FROM rowsync.row_history('app.users', 'r1'))), 'give a row an earlier state');
SELECT is(refusal(format($$SELECT rowsync.restore_row('app.posts', 'p1', %s)$$, (SELECT max(version) FROM rowsync.row_history('app.posts', 'p1')))),
          '42501: a policy or a trigger of app.posts kept the row from being written', 'with its own rights, under the table''s policies');
SELECT is(refusal($$SELECT rowsync.upload('ann', 'phone', '{"changes":[]}')$$), '42501: permission denied for function upload', 'and cannot upload');
SELECT is(refusal($$DELETE FROM rowsync.change_log$$), '42501: permission denied for table change_log', 'nor touch rowsync''s tables');
RESET ROLE;

-- What is planted in public, or in front of pg_catalog, is not run.
CREATE TABLE t.trap (what text);
CREATE FUNCTION t.sprung(text) RETURNS void LANGUAGE sql SECURITY DEFINER AS $$ INSERT INTO t.trap VALUES ($1) $$;
CREATE FUNCTION public.bad_eq(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM t.sprung('operator'); RETURN true; END $$;
CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.bad_eq);
CREATE FUNCTION public.bad_eq(name, name) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM t.sprung('operator'); RETURN true; END $$;
CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = name, FUNCTION = public.bad_eq);
CREATE FUNCTION public.current_setting(text, boolean) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM t.sprung('current_setting'); RETURN 'mallory'; END $$;
CREATE FUNCTION public.format(text, VARIADIC "any") RETURNS text LANGUAGE internal AS 'text_format';
CREATE FUNCTION public.sum(integer) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM t.sprung('sum'); RETURN 1; END $$;
CREATE FUNCTION public.upload(text, text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM t.sprung('upload'); RETURN NULL; END $$;
CREATE TABLE public.rowsync_batch (c0 text, scope text);
CREATE TABLE public.scope (LIKE rowsync.scope);
CREATE TABLE app.late (id text PRIMARY KEY, v text);
GRANT ALL ON app.late TO tap_gateway;
SET search_path = public, app, t, pg_catalog;
SELECT rowsync.register_table('app.late') > 0 AS registered \gset
SET ROLE tap_gateway;
SELECT rowsync.upload('ann', 'phone', '{"changes":[{"source_change_id":50,"schema":"app","table":"late","op":"INSERT","pk":"l1","payload":{"v":"1"}},'
    '{"source_change_id":51,"schema":"app","table":"late","op":"INSERT","pk":"l2","payload":{"v":"1"}}]}') AS one \gset
SELECT rowsync.upload('ann', 'phone', '{"changes":[{"source_change_id":52,"schema":"app","table":"late","op":"UPDATE","pk":"l1","payload":{"v":"2"}},'
    '{"source_change_id":53,"schema":"app","table":"late","op":"DELETE","pk":"l2","payload":null}]}') AS two \gset
SELECT rowsync.download('ann', 'tablet') AS three, rowsync.schema_version() AS four, rowsync.digest('ann') AS five, rowsync.schema() AS six \gset
RESET ROLE;
SET rowsync.scope = 'ann';
INSERT INTO app.late (id, v) VALUES ('l3', '3');
TRUNCATE app.late;
SET search_path = pg_catalog, t, public;
SELECT public.is(pg_catalog.count(*)::integer, 0, 'planted operators and functions are never run') FROM t.trap;
DROP OPERATOR public.= (text, text);
DROP OPERATOR public.= (name, name);
DROP FUNCTION public.current_setting(text, boolean), public.format(text, VARIADIC "any"), public.sum(integer);
SET search_path = t, public;
SELECT is(brief(:'one'::jsonb) || ' ' || brief(:'two'::jsonb) ~ 'invalid|conflict', false, 'and everything works beside them');
SELECT is((SELECT count(*)::int FROM public.rowsync_batch), 0, 'a table called like the batch is left alone');
SELECT is((SELECT string_agg(DISTINCT _rowsync_scope, ' ') FROM app.users), 'ann', 'scopes are the caller''s');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
SELECT finish();
