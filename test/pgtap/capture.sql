-- Every write to a registered table reaches the change log, whoever makes it and in whatever way.
\ir include/helpers.sql
\ir include/app.sql
SET rowsync.scope = 'ann';
SELECT plan(38);

-- Takes what was logged since it was last asked.
CREATE TABLE t.seen (seq bigint);
INSERT INTO t.seen VALUES (0);
CREATE FUNCTION t.news() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    SELECT string_agg(substr(l, strpos(l, ' ') + 1), ', ') INTO result FROM t.seen, LATERAL log('ann', seq) AS l;
    UPDATE t.seen SET seq = coalesce((SELECT head FROM rowsync.scope WHERE name = 'ann'), 0);
    RETURN result;
END $$;

INSERT INTO app.users (id, name) VALUES ('u1', 'A'), ('u2', 'B'), ('u3', 'C');
SELECT is(news(), 'users I u1 server, users I u2 server, users I u3 server', 'INSERT');
UPDATE app.users SET age = 1 WHERE id <> 'u3';
SELECT is(news(), 'users U u1 server, users U u2 server', 'UPDATE');
DELETE FROM app.users WHERE id = 'u2';
SELECT is(news(), 'users D u2 server', 'DELETE');
SELECT is((SELECT payload::jsonb FROM rowsync.change_log WHERE seq = 6),
          '{"id":"u2","name":"B","email":null,"age":1}'::jsonb, 'a DELETE keeps the row that went');
COPY app.users (id, name) FROM stdin;
c1	from COPY
c2	from COPY
\.
SELECT is(news(), 'users I c1 server, users I c2 server', 'COPY');
INSERT INTO app.users (id, name) VALUES ('u1', 'AA'), ('u4', 'D')
    ON CONFLICT (id) DO UPDATE SET name = excluded.name;
SELECT is(news(), 'users U u1 server, users I u4 server', 'INSERT ... ON CONFLICT DO UPDATE');
INSERT INTO app.users (id, name) VALUES ('u1', 'AAA'), ('u5', 'E') ON CONFLICT DO NOTHING;
SELECT is(news(), 'users I u5 server', 'INSERT ... ON CONFLICT DO NOTHING');
MERGE INTO app.users AS u USING (VALUES ('u1', 'M'), ('u5', NULL), ('u6', 'N')) AS v (id, name) ON u.id = v.id
    WHEN MATCHED AND v.name IS NULL THEN DELETE
    WHEN MATCHED THEN UPDATE SET name = v.name
    WHEN NOT MATCHED THEN INSERT (id, name) VALUES (v.id, v.name);
SELECT is((SELECT string_agg(x, ', ' ORDER BY x) FROM string_to_table(news(), ', ') AS x),
          'users D u5 server, users I u6 server, users U u1 server', 'MERGE');
WITH gone AS (DELETE FROM app.users WHERE id = 'u6' RETURNING name), came AS (
    INSERT INTO app.users (id, name) SELECT 'u7', name FROM gone RETURNING id)
SELECT count(*) AS n FROM came \gset
SELECT is((SELECT string_agg(x, ', ' ORDER BY x) FROM string_to_table(news(), ', ') AS x),
          'users D u6 server, users I u7 server', 'writes in a WITH');
UPDATE app.users SET age = 9 WHERE id = 'nobody';
SELECT is(news(), NULL, 'a statement that finds nothing logs nothing');

-- One transaction: one entry for each row, with what it became.
BEGIN;
INSERT INTO app.users (id, name) VALUES ('x1', '1');
UPDATE app.users SET name = '2' WHERE id = 'x1';
UPDATE app.users SET name = '3' WHERE id = 'x1';
INSERT INTO app.users (id, name) VALUES ('x2', '1');
DELETE FROM app.users WHERE id = 'x2';
UPDATE app.users SET name = 'late' WHERE id = 'u7';
DELETE FROM app.users WHERE id = 'u7';
DELETE FROM app.users WHERE id = 'u4';
INSERT INTO app.users (id, name) VALUES ('u4', 'again');
COMMIT;
SELECT is(news(), 'users I x1 server, users D u7 server, users U u4 server', 'several changes of a row in a transaction are one');
SELECT is((SELECT payload::jsonb ->> 'name' FROM rowsync.change_log WHERE row_key = 'x1'), '3', 'in its last state');
BEGIN;
DELETE FROM app.users WHERE id = 'x1';
ROLLBACK;
SELECT is(news(), NULL, 'a transaction rolled back is nothing');

-- Savepoints.
BEGIN;
INSERT INTO app.users (id, name) VALUES ('s1', 'kept');
SAVEPOINT a;
INSERT INTO app.users (id, name) VALUES ('s2', 'gone');
UPDATE app.users SET name = 'gone' WHERE id = 's1';
ROLLBACK TO a;
INSERT INTO app.users (id, name) VALUES ('s3', 'kept');
SAVEPOINT b;
INSERT INTO app.users (id, name) VALUES ('s4', 'kept');
SAVEPOINT c;
INSERT INTO app.users (id, name) VALUES ('s5', 'gone');
ROLLBACK TO c;
INSERT INTO app.users (id, name) VALUES ('s6', 'kept');
RELEASE c;
RELEASE b;
SAVEPOINT d;
INSERT INTO app.users (id, name) VALUES ('s7', 'gone');
SAVEPOINT e;
INSERT INTO app.users (id, name) VALUES ('s8', 'gone with it');
RELEASE e;
ROLLBACK TO d;
COMMIT;
SELECT is(news(), 'users I s1 server, users I s3 server, users I s4 server, users I s6 server',
          'savepoints: released ones count, rolled back ones do not');
SELECT is((SELECT payload::jsonb ->> 'name' FROM rowsync.change_log WHERE row_key = 's1'), 'kept', 'a row is as it was before the part undone');
BEGIN;
SAVEPOINT a;
UPDATE app.users SET name = 'x' WHERE id = 's1';
SAVEPOINT b;
DELETE FROM app.users WHERE id = 's1';
ROLLBACK TO b;
ROLLBACK TO a;
COMMIT;
SELECT is(news(), NULL, 'all undone: nothing');

-- Functions with exception blocks.
CREATE FUNCTION app.tries() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.users (id, name) VALUES ('f1', 'kept');
    BEGIN
        INSERT INTO app.users (id, name) VALUES ('f2', 'gone');
        INSERT INTO app.users (id, name) VALUES ('f1', 'twice');
    EXCEPTION WHEN unique_violation THEN
        INSERT INTO app.users (id, name) VALUES ('f3', 'kept');
    END;
END $$;
SELECT app.tries() IS NULL AS done \gset
SELECT is(news(), 'users I f1 server, users I f3 server', 'a function with an exception block');

-- Procedures that commit.
CREATE PROCEDURE app.steps() LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1..4 LOOP
        INSERT INTO app.users (id, name) VALUES ('q' || n, 'q');
        IF n = 3 THEN ROLLBACK; ELSE COMMIT; END IF;
    END LOOP;
END $$;
CALL app.steps();
SELECT is(news(), 'users I q1 server, users I q2 server, users I q4 server', 'a procedure that commits and rolls back');

-- Triggers.
CREATE FUNCTION app.greet() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_WHEN = 'BEFORE' THEN
        NEW.name := NEW.name || '!';
        RETURN NEW;
    END IF;
    INSERT INTO app.posts (id, author_id, title) VALUES ('hello ' || NEW.id, NEW.id, 'Hello');
    UPDATE app.users SET age = 0 WHERE id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER before_greet BEFORE INSERT ON app.users FOR EACH ROW EXECUTE FUNCTION app.greet();
CREATE TRIGGER after_greet AFTER INSERT ON app.users FOR EACH ROW EXECUTE FUNCTION app.greet();
CREATE TRIGGER "AFTER_GREET" AFTER INSERT ON app.users FOR EACH ROW WHEN (NEW.id = 'g2') EXECUTE FUNCTION app.greet();
INSERT INTO app.users (id, name) VALUES ('g1', 'G');
SELECT is((SELECT string_agg(x, ', ' ORDER BY x) FROM string_to_table(news(), ', ') AS x),
          'posts I hello g1 server, users I g1 server', 'what triggers write, to the same row too');
SELECT is((SELECT payload::jsonb FROM rowsync.change_log WHERE row_key = 'g1'), '{"id":"g1","name":"G!","email":null,"age":0}'::jsonb,
          'the row as the last trigger left it');
DROP TRIGGER after_greet ON app.users;
INSERT INTO app.users (id, name) VALUES ('g2', 'G');
SELECT is((SELECT payload::jsonb FROM rowsync.change_log WHERE row_key = 'g2' ORDER BY seq DESC LIMIT 1),
          '{"id":"g2","name":"G!","email":null,"age":0}'::jsonb, 'also where that trigger fires before the capture does');
SELECT is(news() LIKE '%users I g2 server%', true, 'as one insert');
DROP TRIGGER before_greet ON app.users;
DROP TRIGGER "AFTER_GREET" ON app.users;
CREATE FUNCTION app.late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.categories (id, name) VALUES ('of ' || NEW.id, 'late');
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON app.users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.late();
INSERT INTO app.users (id, name) VALUES ('l1', 'L');
SELECT is(news(), 'users I l1 server, categories I of l1 server', 'what a deferred trigger writes at commit');
DROP TRIGGER late ON app.users;

-- Cascades.
INSERT INTO app.posts VALUES ('p1', 'u1', 'x', 'ann');
INSERT INTO app.comments VALUES ('c1', 'p1', 'x', 'ann'), ('c2', 'p1', 'x', 'ann');
SELECT is(news() IS NULL, false, 'a post with comments');
DELETE FROM app.posts WHERE id = 'p1';
SELECT is(news(), 'posts D p1 server, comments D c1 server, comments D c2 server', 'ON DELETE CASCADE');

-- Keys and scopes that change.
UPDATE app.users SET id = 'c9' WHERE id = 'c1';
SELECT is(news(), 'users D c1 server, users I c9 server', 'a changed key is a DELETE and an INSERT');
UPDATE app.users SET id = CASE id WHEN 's1' THEN 's3x' WHEN 's3' THEN 's1x' ELSE id END WHERE id IN ('s1', 's3');
UPDATE app.users SET id = left(id, 2) WHERE id IN ('s3x', 's1x');
SELECT is((SELECT string_agg(x, ', ' ORDER BY x) FROM string_to_table(news(), ', ') AS x),
          'users D s1 server, users D s1x server, users D s3 server, users D s3x server, '
          'users I s1 server, users I s1x server, users I s3 server, users I s3x server', 'keys that go round');
UPDATE app.users SET _rowsync_scope = 'bob' WHERE id = 'c9';
SELECT is(news(), 'users D c9 server', 'a changed scope leaves the one');
SELECT results_eq($$SELECT log('bob')$$, '{1 users I c9 server}'::text[], 'and enters the other');
BEGIN;
UPDATE app.users SET _rowsync_scope = 'bob' WHERE id = 'c2';
UPDATE app.users SET _rowsync_scope = 'ann' WHERE id = 'c2';
COMMIT;
SELECT is(news(), 'users U c2 server', 'there and back');
SELECT results_eq($$SELECT log('bob')$$, '{1 users I c9 server}'::text[], 'the other has not seen it');

-- TRUNCATE.
SELECT count(*) AS left FROM app.users WHERE _rowsync_scope = 'ann' \gset
BEGIN;
INSERT INTO app.users (id, name) VALUES ('before', 'x');
TRUNCATE app.users CASCADE;
INSERT INTO app.users (id, name) VALUES ('after', 'x'), ('c2', 'back');
COMMIT;
SELECT is((SELECT count(*)::int FROM string_to_table(news(), ', ') AS x WHERE x LIKE 'users D %'), :left - 1, 'TRUNCATE: the deletion of every row');
SELECT is((SELECT string_agg(encode(row_key, 'escape') || deleted, ' ' ORDER BY row_key) FROM rowsync.row_meta
           WHERE table_id = 1 AND row_key IN ('before', 'after', 'c2')), 'afterfalse c2false',
          'not of what came with the transaction, nor of what came again');
SELECT results_eq($$SELECT log('bob', 1)$$, '{2 users D c9 server}'::text[], 'in every scope');
BEGIN;
TRUNCATE app.users CASCADE;
ROLLBACK;
SELECT is(news(), NULL, 'a TRUNCATE rolled back');

-- An upload beside other writes of its transaction.
BEGIN;
INSERT INTO app.users (id, name) VALUES ('m1', 'before');
SELECT up('ann', 'phone', change(1, 'INSERT', 'users', 'm2', 0, '{"name":"x"}')) AS answer \gset
INSERT INTO app.users (id, name) VALUES ('m3', 'behind');
COMMIT;
SELECT is(news(), 'users I m1 server, users I m2 phone, users I m3 server', 'what came before an upload is logged before it');
SELECT is((SELECT bool_and(octet_length(row_key) > 0 AND ts IS NOT NULL) FROM rowsync.change_log), true, 'every entry has its key and time');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
SELECT finish();
