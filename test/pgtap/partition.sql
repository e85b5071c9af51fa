-- Partitioned tables sync as one: errors that PostgreSQL reports of a partition are those of the table,
-- and what comes and goes with a partition is captured.
\ir include/helpers.sql
CREATE SCHEMA app;
CREATE TABLE app.kind (id text PRIMARY KEY);
CREATE TABLE app.event (
    id integer,
    day date,
    note text NOT NULL,
    kind text REFERENCES app.kind,
    PRIMARY KEY (id, day)
) PARTITION BY RANGE (day);
CREATE TABLE app.event_1 PARTITION OF app.event FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
-- One with its columns elsewhere, partitioned itself.
CREATE TABLE app.event_2 (gone integer, kind text, note text NOT NULL, day date NOT NULL, id integer NOT NULL) PARTITION BY LIST (id);
ALTER TABLE app.event_2 DROP COLUMN gone;
CREATE TABLE app.event_2_rest (id integer NOT NULL, gone integer, day date NOT NULL, kind text, note text NOT NULL);
ALTER TABLE app.event_2_rest DROP COLUMN gone;
ALTER TABLE app.event_2 ATTACH PARTITION app.event_2_rest DEFAULT;
ALTER TABLE app.event ATTACH PARTITION app.event_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE TABLE app.guest (id text PRIMARY KEY, event integer, day date, FOREIGN KEY (event, day) REFERENCES app.event ON DELETE CASCADE);
DO $$ BEGIN PERFORM rowsync.register_table(c) FROM unnest('{app.kind,app.event,app.guest}'::regclass[]) AS c; END $$;
SET rowsync.scope = 'ann';
SELECT plan(31);

SELECT is(up('ann', 'phone', change(1, 'INSERT', 'guest', 'g1', 0, '{"event":1,"day":"2026-01-05"}'), change(2, 'INSERT', 'event', '[1,"2026-01-05"]', 0, '{"note":"x","kind":"k"}'),
             change(3, 'INSERT', 'event', '[1,"2026-02-05"]', 0, '{"note":"y","kind":null}'), change(4, 'INSERT', 'kind', 'k', 0, '{}')),
          '1 applied 4, 2 applied 2, 3 applied 3, 4 applied 1', 'rows of two partitions, what they refer to and what refers to them');
SELECT is((SELECT string_agg(payload, ' ' ORDER BY seq) FROM rowsync.change_log WHERE table_id = 2),
          '{"id":1,"day":"2026-01-05","note":"x","kind":"k"} {"id":1,"day":"2026-02-05","note":"y","kind":null}', 'travel alike');
SELECT is(up('ann', 'phone', change(5, 'UPDATE', 'event', '[1,"2026-02-05"]', 0, '{"note":"z"}'), change(6, 'UPDATE', 'event', '[1,"2026-01-05"]', 0, '{"kind":null}')) ~ '^5 applied \d, 6 applied \d$', true, 'UPDATE');
SELECT is(fault(answer('bob', 'phone', change(1, 'INSERT', 'event', '[1,"2026-01-05"]', 0, '{"note":"x"}'))), 'forbidden | this key is not yours to use: give the row another one', 'a key that another user has');
SELECT is(fault(answer('bob', 'phone', change(1, 'INSERT', 'event', '[1,"2026-02-05"]', 0, '{"note":"x"}'))), 'forbidden | this key is not yours to use: give the row another one', 'two levels down');
SELECT is(fault(answer('ann', 'phone', change(7, 'INSERT', 'event', '[2,"2026-02-05"]', 0, '{"note":null}'))),
          'constraint | null value in column "note" of relation "event_2_rest" violates not-null constraint | {"column": "note", "sqlstate": "23502"}', 'NOT NULL');
SELECT is(fault(answer('ann', 'phone', change(8, 'INSERT', 'event', '[2,"2026-04-05"]', 0, '{"note":"x"}'))),
          'constraint | no partition of relation "event" found for row | {"sqlstate": "23514"}', 'a row that no partition takes');
ALTER TABLE app.event ALTER kind SET DEFAULT 'nobody';
SELECT is(fault(answer('ann', 'phone', change(9, 'INSERT', 'event', '[2,"2026-02-05"]', 0, '{"note":"x"}'))),
          'fk_missing | a row that this change refers to is not there yet | {"missing": [], "constraint": "event_kind_fkey"}', 'a reference that the table refuses');
SELECT is(up('ann', 'phone', change(10, 'DELETE', 'event', '[1,"2026-01-05"]', 0)) LIKE '10 applied%', true, 'DELETE');
SELECT is((SELECT string_agg(l, ', ') FROM log('ann', 6) AS l), '7 event D 1 phone, 8 guest D g1 server', 'and its cascade');
INSERT INTO app.event_2_rest (id, day, note, kind) VALUES (7, '2026-02-07', 'direct', NULL);
UPDATE app.event SET day = '2026-01-07' WHERE id = 7;
UPDATE app.event SET note = 'again' WHERE id = 7;
SELECT is((SELECT string_agg(l, ', ') FROM log('ann', 8) AS l), '9 event I 7 server, 10 event D 7 server, 11 event I 7 server, 12 event U 7 server', 'SQL into a partition, and from one into the other');
TRUNCATE app.event CASCADE;
SELECT is((SELECT count(*)::int FROM rowsync.row_meta WHERE table_id = 2 AND NOT deleted), 0, 'TRUNCATE');

ALTER TABLE app.event ALTER kind DROP DEFAULT;
-- What tablet has not read yet: "op pk" of each change.
CREATE TABLE t.read AS SELECT head AS upto FROM rowsync.scope WHERE name = 'ann';
CREATE FUNCTION t.news() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    d jsonb := rowsync.download('ann', 'tablet', (SELECT upto FROM t.read))::jsonb;
BEGIN
    UPDATE t.read SET upto = (d ->> 'next_after')::bigint;
    RETURN (SELECT string_agg(concat_ws(' ', c ->> 'op', c ->> 'pk'), ', ' ORDER BY (c ->> 'server_id')::bigint) FROM jsonb_array_elements(d -> 'changes') AS c);
END $$;
INSERT INTO app.event (id, day, note) VALUES (1, '2026-01-01', 'x'), (2, '2026-01-02', 'x'), (3, '2026-02-03', 'x');
SELECT is(news(), 'INSERT [1, "2026-01-01"], INSERT [2, "2026-01-02"], INSERT [3, "2026-02-03"]', 'rows');
TRUNCATE app.event_1 CASCADE;
SELECT is(news(), 'DELETE [1, "2026-01-01"], DELETE [2, "2026-01-02"]', 'TRUNCATE of a partition');
INSERT INTO app.event (id, day, note) VALUES (1, '2026-01-01', 'back');
SELECT is(news(), 'INSERT [1, "2026-01-01"]', 'the partition goes on');
CREATE TABLE app.event_3 PARTITION OF app.event FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
INSERT INTO app.event (id, day, note) VALUES (4, '2026-03-01', 'x');
SELECT is(news(), 'INSERT [4, "2026-03-01"]', 'a partition that comes later');
TRUNCATE app.event_3 CASCADE;
SELECT is(news(), 'DELETE [4, "2026-03-01"]', 'is like any other');

CREATE TABLE app.event_4 (note text NOT NULL, id integer NOT NULL, day date NOT NULL, kind text, _rowsync_scope text NOT NULL);
INSERT INTO app.event_4 VALUES ('came', 5, '2026-04-01', NULL, 'ann'), ('came', 6, '2026-04-02', NULL, 'bob');
ALTER TABLE app.event ATTACH PARTITION app.event_4 FOR VALUES FROM ('2026-04-01') TO ('2026-05-01');
SELECT is(news(), 'INSERT [5, "2026-04-01"]', 'ATTACH brings the rows of a partition');
SELECT results_eq($$SELECT log('bob')$$, '{1 event I 6 server}'::text[], 'to every user');
CREATE TABLE app.event_2_seven (LIKE app.event_2_rest);
INSERT INTO app.event_2_seven (id, day, note, _rowsync_scope) VALUES (7, '2026-02-02', 'came', 'ann');
ALTER TABLE app.event_2 ATTACH PARTITION app.event_2_seven FOR VALUES IN (7);
SELECT is(news(), 'INSERT [7, "2026-02-02"]', 'also two levels down');

ALTER TABLE app.event DETACH PARTITION app.event_4;
SELECT is(news(), 'DELETE [5, "2026-04-01"]', 'DETACH takes them away');
SELECT is((SELECT count(*)::int FROM app.event_4), 2, 'from the devices, not from the table');
INSERT INTO app.event_4 VALUES ('free', 9, '2026-04-09', NULL, 'ann');
TRUNCATE app.event_4;
SELECT is(news(), NULL, 'which is its own master now');
ALTER TABLE app.event DETACH PARTITION app.event_2;
SELECT is(news(), 'DELETE [3, "2026-02-03"], DELETE [7, "2026-02-02"]', 'a partition with partitions of its own');
BEGIN;
ALTER TABLE app.event DETACH PARTITION app.event_1;
UPDATE app.event_1 SET note = 'meanwhile' WHERE id = 1;
ALTER TABLE app.event ATTACH PARTITION app.event_1 FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
COMMIT;
SELECT is(news(), 'UPDATE [1, "2026-01-01"]', 'away and back in a transaction');
SELECT is(refusal('DROP TABLE app.event_1 CASCADE'),
          'RS005: app.event_1 is a partition of a table that syncs: dropped, its rows would stay on the devices | Run ALTER TABLE ... DETACH PARTITION first: that deletes them there.', 'DROP of a partition');
ALTER TABLE app.event DETACH PARTITION app.event_3 CONCURRENTLY;
DROP TABLE app.event_3, app.event_4;
SELECT is(news(), NULL, 'detached, it can be dropped');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
SELECT is_empty('SELECT * FROM rowsync.verify()', 'verify finds nothing');
SELECT rowsync.unregister_table('app.event') IS NULL AS gone \gset
SELECT is((SELECT count(*)::int FROM pg_trigger AS r JOIN pg_partition_tree('app.event') AS p ON p.relid = r.tgrelid WHERE tgname LIKE '_rowsync%'), 0, 'unregistered, no partition has a trigger left');
DROP TABLE app.event_1 CASCADE;
SELECT is((SELECT count(*)::int FROM pg_partition_tree('app.event')), 1, 'and may be dropped');
SELECT finish();
