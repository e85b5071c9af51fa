-- Attacks: what others planted in front of pg_catalog is never run, whichever function is called; a user
-- cannot tell whether a row of another user exists, but by taking its very key; and every string is only
-- letters.
\ir include/helpers.sql
\ir include/app.sql
SELECT plan(54);
CALL role('tap_attack');
SELECT rowsync.grant_gateway('tap_attack') IS NULL AS granted \gset
GRANT USAGE ON SCHEMA app TO tap_attack;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO tap_attack;

-- Bob's rows, and those that ann has and may speak of.
SELECT is(up('bob', 'phone', change(1, 'INSERT', 'users', 'b1', 0, '{"name":"Bob","email":"bob@b"}'),
                             change(2, 'INSERT', 'posts', 'bp', 0, '{"author_id":"b1","title":"T"}')), '1 applied 1, 2 applied 2', 'bob has rows');
SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'a1', 0, '{"name":"Ann"}')), '1 applied 1', 'ann too');
-- The whole answer of ann to a change of a row, with the key taken out of it.
CREATE FUNCTION t.told(id bigint, op text, tab text, pk text, version bigint, payload text) RETURNS text LANGUAGE sql AS $$
    SELECT replace(t.answer('ann', 'phone', t.change(id, op, tab, pk, version, payload))::text, to_json(pk)::text, '"KEY"') $$;
SET ROLE tap_attack;
SELECT is(regexp_replace(replace(told(10, 'DELETE', 'users', 'b1', 0, NULL), '"source_change_id": 10', ''), '\d+', 'N', 'g'),
          regexp_replace(replace(told(11, 'DELETE', 'users', 'x1', 0, NULL), '"source_change_id": 11', ''), '\d+', 'N', 'g'), 'DELETE on version 0: the same whether bob has such a row or not');
SELECT is(regexp_replace(replace(told(12, 'DELETE', 'users', 'b1', 7, NULL), '"source_change_id": 12', ''), '\d+', 'N', 'g'),
          regexp_replace(replace(told(13, 'DELETE', 'users', 'x2', 7, NULL), '"source_change_id": 13', ''), '\d+', 'N', 'g'), 'DELETE on a version that is guessed');
SELECT is(replace(told(14, 'UPDATE', 'posts', 'bp', 7, '{"title":"X"}'), '14', 'N'),
          replace(told(15, 'UPDATE', 'posts', 'xp', 7, '{"title":"X"}'), '15', 'N'), 'UPDATE on a version that is guessed');
SELECT is(replace(told(16, 'INSERT', 'posts', 'bp', 7, '{"title":"X","author_id":"a1"}'), '16', 'N'),
          replace(told(17, 'INSERT', 'posts', 'xp', 7, '{"title":"X","author_id":"a1"}'), '17', 'N'), 'INSERT on a version that is guessed');
SELECT is(replace(replace(told(18, 'INSERT', 'posts', 'p1', 0, '{"title":"X","author_id":"b1"}'), '18', 'N'), 'b1', 'PARENT'),
          replace(replace(told(19, 'INSERT', 'posts', 'p1', 0, '{"title":"X","author_id":"x1"}'), '19', 'N'), 'x1', 'PARENT'), 'a reference');
SELECT is(fault(answer('ann', 'phone', change(18, 'INSERT', 'posts', 'p1', 0, '{"title":"X","author_id":"b1"}'))),
          'fk_missing | a row that this change refers to is not there yet | {"missing": ["app.users:b1"]}', 'which names the parent and no more');
SELECT is(fault(answer('ann', 'phone', change(20, 'INSERT', 'users', 'b1', 0, '{"name":"Mine"}'))), 'forbidden | this key is not yours to use: give the row another one', 'the very key of a row of bob''s cannot be taken');
SELECT is(fault(answer('ann', 'phone', change(21, 'UPDATE', 'users', 'b1', 0, '{"name":"Mine"}'))), 'forbidden | this key is not yours to use: give the row another one', 'nor by an UPDATE that would insert');
SELECT is(fault(answer('ann', 'phone', change(22, 'INSERT', 'users', 'a2', 0, '{"name":"A","email":"bob@b"}'))) !~ 'bob|b1', true, 'a unique value that is taken does not say by whom');
SELECT matches(up('ann', 'phone', change(23, 'INSERT', 'users', 'a2', 0, '{"name":"A","_rowsync_scope":"bob"}')), '^23 applied \d+', 'a device may name a scope');
SELECT is((SELECT _rowsync_scope FROM app.users WHERE id = 'a2'), 'ann', 'but it is its own that is written');
SELECT is((rowsync.download('ann', 'tablet') || string_agg(s, '')) !~ 'Bob|bob@b|"bp"', true, 'nothing of bob is in ann''s page or snapshot') FROM rowsync.snapshot('ann', 'tablet') AS s;
SELECT is((SELECT count(*)::int FROM rowsync.heads('{bob}')), 1, 'heads, which the gateway asks for its own streams, has numbers only');
RESET ROLE;
SELECT results_eq($$SELECT name, email, _rowsync_scope FROM app.users WHERE id = 'b1'$$, $$VALUES ('Bob', 'bob@b', 'bob')$$, 'bob''s row is as it was');
SELECT is((SELECT count(*)::int FROM app.users WHERE _rowsync_scope = 'bob') + (SELECT count(*)::int FROM app.posts WHERE _rowsync_scope = 'bob'), 2, 'and nothing was slipped under him');

-- SQL in every string.
CREATE TABLE t.evil (n int GENERATED ALWAYS AS IDENTITY, s text);
INSERT INTO t.evil (s) VALUES ($$'; DROP TABLE app.users; --$$), ($$"; DROP TABLE app.users; --$$), ($$\'); DELETE FROM app.users; --$$),
    ('$x$; DROP SCHEMA app CASCADE; $x$'), ('%s%n%I' || E'\t\n\r\x01'), (E'\u202e\U0001F600 O''Brien "the" \\ 100%'), ($$*/ DROP TABLE app.users; /*$$), ($${"a":[1]}$$);
SELECT is(refusal(format('SELECT rowsync.upload(%L, %L, %L)', s, s, format('{"changes":[%s]}', change(1, 'INSERT', 'users', s, 0, json_build_object('name', s, 'email', s)::text)))),
          'no error', 'user, source, key and values: ' || to_json(s)) FROM t.evil ORDER BY n;
SELECT is((SELECT count(*)::int FROM app.users JOIN t.evil ON id = s AND name = s AND email = s AND _rowsync_scope = s), 8, 'all are there, letter by letter');
SELECT is((SELECT count(*)::int FROM t.evil, LATERAL jsonb_array_elements(rowsync.download(s, 'other')::jsonb -> 'changes') AS c WHERE c ->> 'pk' = s AND c ->> 'source_id' = s AND c #>> '{payload,name}' = s), 8, 'and travel');
SELECT is((SELECT count(*)::int FROM t.evil, LATERAL rowsync.snapshot(s, s) AS x WHERE x LIKE '%"rows":1,%'), 8, 'also by snapshot');
SELECT is((SELECT count(*)::int FROM t.evil, LATERAL rowsync.row_history('app.users', s) AS h WHERE h.scope = s AND h.source_id = s), 8, 'row_history takes them as keys');
SELECT is((SELECT count(*)::int FROM t.evil WHERE rowsync.digest(s)::jsonb ->> 'rows' = '1'), 8, 'digest as users');
SELECT is((SELECT count(*)::int FROM t.evil, LATERAL rowsync.prune('0', '0', s)), 8, 'prune');
SELECT is((SELECT sum(rowsync.declare_restored(s))::int FROM t.evil), 8, 'and declare_restored');
SELECT is((SELECT count(*)::int FROM rowsync.heads(ARRAY(SELECT s FROM t.evil))), 8, 'and heads');
SELECT is((SELECT count(*)::int FROM t.evil WHERE refusal(format('SELECT rowsync.download(%L, %L, schema_name => %L)', 'ann', 'x', s)) = 'no error'), 8, 'no schema of such a name');
SELECT is((SELECT count(*)::int FROM t.evil, LATERAL (SELECT brief(rowsync.upload('ann', 'phone', replace(replace(replace($j${"changes":[{"source_change_id":#,"schema":@,"table":@,"op":"INSERT","pk":"1","payload":{}},
    {"source_change_id":#0,"schema":"app","table":"users","op":"INSERT","pk":"1","payload":{"name":"x",@:@}}]}$j$, '#0', (100 + n)::text), '#', (200 + n)::text), '@', to_json(s)::text))::jsonb) AS b) AS x
    WHERE b ~ '^\d+ invalid unregistered_table, \d+ invalid bad_payload$'), 8, 'nor a table, nor a column');
SELECT is((SELECT count(*)::int FROM t.evil WHERE refusal(format('SELECT rowsync.upload(%L, %L, %L)', 'ann', 'phone', replace('{"changes":[{"source_change_id":1,"schema":"app","table":"users","op":@,"pk":"1"}]}', '@', to_json(s)::text))) = 'no error'), 8, 'nor an op');
SELECT is(refusal(format('SELECT rowsync.register_table(%L, %L)', 'app.evil', $$x" ; DROP TABLE app.users; --$$)) ~ '^42P01', true, 'register_table: no such table');
CREATE TABLE app."ev'il"";--" ("i'd""" text PRIMARY KEY, "va""l';" text UNIQUE, "own'er""" text);
SELECT is(refusal($$SELECT rowsync.register_table('app."ev''il"";--"', 'own''er"')$$), 'no error', 'a table and columns full of quotes');
SELECT is(brief(rowsync.upload($$o'"$$, 'x', $j${"changes":[{"source_change_id":1,"schema":"app","table":"ev'il\";--","op":"INSERT","pk":"k'\"","payload":{"va\"l';":"v"}}]}$j$)::jsonb), '1 applied 1', 'take an upload');
SELECT is(brief(rowsync.upload($$o'"$$, 'x', $j${"changes":[{"source_change_id":2,"schema":"app","table":"ev'il\";--","op":"UPDATE","pk":"k'\"","server_version":1,"payload":{"va\"l';":"w"}}]}$j$)::jsonb), '2 applied 2', 'another');
SELECT lives_ok($$SELECT rowsync.restore_row('app."ev''il"";--"', 'k''"', 1)$$, 'an undo');
SELECT is(brief(rowsync.upload($$o'"$$, 'x', $j${"changes":[{"source_change_id":3,"schema":"app","table":"ev'il\";--","op":"DELETE","pk":"k'\"","server_version":3}]}$j$)::jsonb), '3 applied 4', 'a delete');
SELECT lives_ok($$ALTER TABLE app."ev'il"";--" ADD COLUMN "n'""" int DEFAULT 1$$, 'a column');
SELECT is_empty('SELECT * FROM rowsync.verify()', 'and verify');
SELECT lives_ok($$SELECT rowsync.unregister_table('app."ev''il"";--"')$$, 'and are let go');
SET rowsync.scope = $$'); DROP TABLE app.users; --$$;
CREATE TABLE app.scoped (id text PRIMARY KEY);
INSERT INTO app.scoped VALUES ('s1');
SELECT lives_ok($$SELECT rowsync.register_table('app.scoped')$$, 'a scope full of quotes, given to rows that are there');
SELECT is((SELECT _rowsync_scope FROM app.scoped), $$'); DROP TABLE app.users; --$$, 'is only letters');
RESET rowsync.scope;
SELECT is((SELECT count(*)::int FROM app.users), 11, 'the users are all still there');

-- Planted: a copy of every function of pg_catalog that rowsync's SQL names, and of every operator on the
-- types that it compares, in a schema that comes first, each of which raises an error.
CREATE SCHEMA planted;
CREATE FUNCTION planted.trap() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'planted code was run'; END $$;
DO $$
DECLARE
    f record;
    words text[] := (SELECT array_agg(DISTINCT w[1]) FROM (SELECT prosrc AS s FROM pg_proc WHERE pronamespace = 'rowsync'::regnamespace
                     UNION ALL SELECT pg_get_viewdef(oid) FROM pg_class WHERE relnamespace = 'rowsync'::regnamespace AND relkind = 'v') AS x, regexp_matches(s, '([a-z_0-9]+)', 'g') AS w);
BEGIN
    FOR f IN SELECT p.proname, pg_get_function_identity_arguments(p.oid) AS args, pg_get_function_result(p.oid) AS result
               FROM pg_proc AS p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY (words) AND p.prokind IN ('f', 'a', 'w')
                AND NOT EXISTS (SELECT FROM pg_type AS y WHERE y.oid = ANY (p.proargtypes || p.prorettype) AND y.typtype = 'p' AND y.typname !~ '^any.')
    LOOP
        EXECUTE format('CREATE FUNCTION planted.%I(%s) RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN PERFORM planted.trap(); END $f$', f.proname,
                       replace(f.args, 'ORDER BY', ''), f.result);
    END LOOP;
    FOR f IN SELECT o.oprname, o.oprleft::regtype AS l, o.oprright::regtype AS r, o.oprresult::regtype AS result, row_number() OVER () AS n FROM pg_operator AS o
              WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprleft::regtype::text = ANY ('{text,name,oid,integer,bigint,smallint,boolean,bytea,"\"char\"",regclass,"timestamp with time zone",interval,anyarray,anymultirange}')
                AND o.oprkind = 'b'
    LOOP
        EXECUTE format('CREATE FUNCTION planted._%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN PERFORM planted.trap(); END $f$', f.n, f.l, f.r, f.result);
        EXECUTE format('CREATE OPERATOR planted.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = planted._%s)', f.oprname, f.l, f.r, f.n);
    END LOOP;
END $$;
SELECT is((SELECT count(*) > 60 FROM pg_proc WHERE pronamespace = 'planted'::regnamespace AND proname NOT LIKE '\_%') AND (SELECT count(*) > 200 FROM pg_operator WHERE oprnamespace = 'planted'::regnamespace),
          true, 'functions and operators are planted');
CREATE TABLE planted.rowsync_batch (c0 text, scope text);
CREATE TABLE planted.synced_table (LIKE rowsync.synced_table);
CREATE TABLE planted.pg_class (LIKE pg_class);
CREATE DOMAIN planted.text AS pg_catalog.text CHECK (planted.trap() IS NULL);
CREATE DOMAIN planted.regclass AS pg_catalog.regclass CHECK (planted.trap() IS NULL);
CREATE TEMP TABLE synced_table (LIKE rowsync.synced_table);
CREATE TEMP TABLE scope (LIKE rowsync.scope);
CREATE TEMP TABLE rowsync_batch (c0 pg_catalog.text, scope pg_catalog.text);
CREATE TABLE app.late (id pg_catalog.text PRIMARY KEY, k integer UNIQUE, v pg_catalog.text);
GRANT ALL ON app.late TO tap_attack;
GRANT USAGE ON SCHEMA planted TO PUBLIC;

-- The traps work: what is not qualified and not pinned steps into one.
CREATE FUNCTION t.careless(a pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN a = 'x'; END $$;
SET search_path = planted, pg_temp, app, pg_catalog;
\set ON_ERROR_STOP off
SELECT t.careless('x');
\set careless :SQLSTATE
\set ON_ERROR_STOP on
-- Every public function, with nothing of this file's own around it.
SELECT rowsync.register_table('app.late') AS a1 \gset
SET ROLE tap_attack;
SELECT rowsync.upload('ann', 'phone', '{"changes":[{"source_change_id":50,"schema":"app","table":"late","op":"INSERT","pk":"l1","payload":{"v":"1","k":1}},'
    '{"source_change_id":51,"schema":"app","table":"late","op":"INSERT","pk":"l2","payload":{"v":"1","k":2}}]}') AS a2 \gset
SELECT rowsync.upload('ann', 'phone', '{"changes":[{"source_change_id":52,"schema":"app","table":"late","op":"UPDATE","pk":"l1","server_version":0,"payload":{"k":2}},'
    '{"source_change_id":53,"schema":"app","table":"late","op":"DELETE","pk":"l2","payload":null},{"source_change_id":54,"schema":"app","table":"late","op":"INSERT","pk":"l3","payload":{"k":1}}]}') AS a3 \gset
SELECT rowsync.download('ann', 'tablet') AS a4, rowsync.schema_version() AS a5, rowsync.digest('ann', 2) AS a6, rowsync.schema() AS a7 \gset
SELECT rowsync.snapshot('ann', 'tablet') AS a8 \gset
SELECT head AS a9 FROM rowsync.heads('{ann}') \gset
RESET ROLE;
SET rowsync.scope = 'ann';
INSERT INTO app.late (id, v) VALUES ('l4', '3');
ALTER TABLE app.late ADD COLUMN w pg_catalog.text DEFAULT 'w';
ALTER TABLE app.late RENAME COLUMN v TO u;
SELECT payload AS b1, version AS version FROM rowsync.row_history('app.late', 'l4') LIMIT 1 \gset
UPDATE app.late SET u = '4';
SELECT rowsync.restore_row('app.late', 'l4', :version) AS b2 \gset
SELECT rowsync._write_row('app.late', 'ann', '{"id":"l4","u":"5"}', true) AS b3 \gset
SELECT key AS b4 FROM rowsync.change LIMIT 1 \gset
SELECT key AS b4 FROM rowsync.row_version LIMIT 1 \gset
SELECT changes_behind AS b4 FROM rowsync.source_lag LIMIT 1 \gset
SELECT live_rows AS b4 FROM rowsync.scope_status LIMIT 1 \gset
SELECT refused AS b4 FROM rowsync.refusal_count LIMIT 1 \gset
SELECT live_rows AS b4 FROM rowsync.table_status LIMIT 1 \gset
SELECT floor AS b5 FROM rowsync.prune('0', '0', 'ann') \gset
SELECT rowsync.declare_restored('ann') AS b6 \gset
SELECT rowsync.grant_gateway('tap_attack') AS b7, rowsync.grant_registrar('tap_attack') AS b8, rowsync.grant_operator('tap_attack') AS b9 \gset
SELECT problem AS c1 FROM rowsync.problem_kinds() LIMIT 1 \gset
SELECT EXISTS (SELECT FROM rowsync.verify()) AS c2 \gset
TRUNCATE app.late;
SELECT rowsync.unregister_table('app.late') AS c3 \gset
DROP TABLE app.late;
SET search_path = pg_catalog, t, public;
SELECT is(:'careless'::text, 'P0001', 'the traps work');
SELECT is(brief(:'a2'::jsonb) || ', ' || brief(:'a3'::jsonb) ~ '^50 applied \d+, 51 applied \d+, 52 applied', true, 'uploads went on beside them: ' || brief(:'a3'::jsonb));
SELECT is(:'a4'::jsonb -> 'changes' = '[]' OR :'a8' = '' OR :'b6'::int <> 1 OR :'a9'::int < 5, false, 'so did every other public function');
SELECT is((SELECT count(*)::int FROM planted.rowsync_batch) + (SELECT count(*)::int FROM pg_temp.rowsync_batch) + (SELECT count(*)::int FROM pg_temp.synced_table), 0, 'tables that are called like rowsync''s are left alone');
DROP SCHEMA planted CASCADE;
SET search_path = t, public;
SELECT is_empty('SELECT * FROM rowsync.verify()', 'and all is sound');
SELECT finish();
