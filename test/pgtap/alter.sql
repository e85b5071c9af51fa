-- Registered tables whose shape changes: columns come and go and devices see it, what could no longer
-- sync is refused, a dropped table is forgotten. And the shapes of table that sync.
\ir include/helpers.sql
CREATE SCHEMA app;
CREATE SCHEMA "Odd ""Schema""";
CREATE TABLE app.notes (id text PRIMARY KEY, body text, extra text);
CREATE TABLE app.kids (id text PRIMARY KEY, note_id text REFERENCES app.notes);
CREATE TABLE "Odd ""Schema"""."Mixed Case" ("Id" integer PRIMARY KEY, "select" text, "a""b" text, "é" text);
CREATE TABLE app.numbers (id bigint PRIMARY KEY, v text);
CREATE TABLE app.small (id smallint PRIMARY KEY);
CREATE TABLE app.codes (id varchar(10) PRIMARY KEY, v text);
CREATE TABLE app.days (d date, flag boolean, id bytea, PRIMARY KEY (flag, d, id));
CREATE TABLE app.parted (id integer, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE app.parted_a PARTITION OF app.parted FOR VALUES IN ('a');
CREATE TABLE app.parted_b PARTITION OF app.parted FOR VALUES IN ('b');
DO $$ BEGIN PERFORM rowsync.register_table(c) FROM unnest('{app.notes,app.kids,"\"Odd \"\"Schema\"\"\".\"Mixed Case\"",app.numbers,app.small,app.codes,app.days,app.parted}'::regclass[]) AS c; END $$;
SET rowsync.scope = 'ann';
SELECT plan(47);

-- Uploads one change by ann's phone on the latest version; without the number in the answer.
CREATE SEQUENCE t.ids START 1000;
CREATE FUNCTION t.one(op text, tab text, key text, payload text) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(up('ann', 'phone', change(nextval('t.ids'), op, tab, key,
        (SELECT coalesce(max(m.version), 0) FROM rowsync.row_meta AS m WHERE m.row_key = convert_to(key, 'UTF8')), payload)), '^\d+ (applied|invalid|conflict)( \d+)?', '\1') $$;
-- What tablet has not read yet, without numbers.
CREATE TABLE t.read (upto bigint);
INSERT INTO t.read VALUES (0);
CREATE FUNCTION t.news() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    d jsonb := rowsync.download('ann', 'tablet', (SELECT upto FROM t.read))::jsonb;
BEGIN
    UPDATE t.read SET upto = (d ->> 'next_after')::bigint;
    RETURN (SELECT string_agg(concat_ws(' ', c ->> 'op', c ->> 'pk'), ', ' ORDER BY (c ->> 'server_id')::bigint) FROM jsonb_array_elements(d -> 'changes') AS c);
END $$;

-- Columns.
SELECT is(one('INSERT', 'notes', 'n1', '{"body":"x","extra":"y"}'), 'applied', 'a row');
SELECT is(news(), 'INSERT n1', 'which a device has read');
SELECT rowsync.schema_version() AS version \gset
ALTER TABLE app.notes ADD COLUMN stars integer NOT NULL DEFAULT 3;
SELECT cmp_ok(rowsync.schema_version(), '>', :version, 'a new column: the schema''s version grows');
SELECT is(news(), 'UPDATE n1', 'its default reaches the devices');
SELECT is((SELECT payload FROM rowsync.change_log ORDER BY seq DESC LIMIT 1), '{"id":"n1","body":"x","extra":"y","stars":3}', 'as part of the row');
SELECT is(one('INSERT', 'notes', 'n2', '{"stars":5,"body":"x","extra":"x"}'), 'applied', 'it can be uploaded');
SELECT rowsync.schema_version() AS version \gset
ALTER TABLE app.notes DROP COLUMN extra;
SELECT cmp_ok(rowsync.schema_version(), '>', :version, 'a dropped column: it grows');
SELECT is(fault(answer('ann', 'phone', change(4, 'INSERT', 'notes', 'n3', 0, '{"extra":"y"}'))),
          'bad_payload | table app.notes has no column "extra" | {"column": "extra"}', 'which is now unknown');
SELECT is(up('ann', 'phone', change(1000, 'INSERT', 'notes', 'n1', 0, '{"body":"x"}')) LIKE '1000 applied 1%', true, 'a change sent again is still known');
SELECT is(one('INSERT', 'notes', 'n3', '{"body":"x","stars":1}'), 'applied', 'the table syncs on');
ALTER TABLE app.notes ALTER COLUMN stars TYPE text;
SELECT is(one('UPDATE', 'notes', 'n3', '{"stars":"many"}'), 'applied', 'a changed type');
ALTER TABLE app.notes RENAME COLUMN stars TO likes;
SELECT is(one('UPDATE', 'notes', 'n3', '{"likes":"few"}'), 'applied', 'a renamed column');
ALTER TABLE app.notes RENAME TO memos;
SELECT is(one('UPDATE', 'memos', 'n3', '{"likes":"none"}'), 'applied', 'a renamed table');
SELECT is(one('UPDATE', 'notes', 'n3', '{"likes":"none"}'), 'invalid unregistered_table', 'under its new name only');
SELECT matches(news(), 'UPDATE n3$', 'downloads go on');
INSERT INTO app.memos (id) VALUES ('by SQL');
SELECT is(news(), 'INSERT by SQL', 'capture too');

-- What could no longer sync.
SELECT matches(refusal('ALTER TABLE app.memos DROP CONSTRAINT notes_pkey CASCADE'), '^RS005: ', 'the key cannot be dropped');
SELECT matches(refusal('ALTER TABLE app.memos DROP COLUMN _rowsync_scope'), '^RS005: ', 'nor the scope column');
SELECT matches(refusal('ALTER TABLE app.memos SET UNLOGGED'), '^RS005: |^42P16: ', 'nor can it become unlogged');
SELECT is(one('UPDATE', 'memos', 'n3', '{"body":"still"}'), 'applied', 'after a refusal all is as it was');
SELECT is(news(), 'UPDATE n3', 'and downloads go on');

-- A dropped table.
DROP TABLE app.kids;
SELECT is((SELECT count(*)::int FROM rowsync.synced_table AS s LEFT JOIN pg_class AS c ON c.oid = s.relid WHERE c.oid IS NULL), 0, 'a dropped table is forgotten');
SELECT is(one('INSERT', 'kids', 'k', '{}'), 'invalid unregistered_table', 'and syncs no more');
BEGIN;
DROP TABLE app.small;
ROLLBACK;
SELECT is(one('INSERT', 'small', '7', '{}'), 'applied', 'a DROP rolled back changes nothing');
SELECT is(news(), 'INSERT 7', 'downloads go on without it');

-- Keys of every kind.
SELECT is(one('INSERT', 'numbers', '-9223372036854775808', '{"id":-9223372036854775808}'), 'applied', 'the smallest bigint as a key');
SELECT is(one('INSERT', 'numbers', '0', '{"v":"x"}'), 'applied', 'and 0');
SELECT is(news(), 'INSERT -9223372036854775808, INSERT 0', 'travel as strings');
SELECT is(one('INSERT', 'small', '32768', '{}'), 'invalid bad_payload', 'a smallint key out of range');
SELECT is(one('INSERT', 'codes', 'a"b\c', '{}'), 'applied', 'a varchar key');
SELECT is(one('INSERT', 'codes', 'longer than ten', '{}'), 'invalid bad_payload', 'one too long');
SELECT is(one('INSERT', 'days', '[true,"2026-11-24","AP8="]', '{}'), 'applied', 'a key of boolean, date and bytea');
SELECT is(news(), 'INSERT a"b\c, INSERT [true, "2026-11-24", "AP8="]', 'travels as an array');
SELECT is(up('ann', 'phone', change(26, 'DELETE', 'days', '["true","2026-11-24","\\x00ff"]', 0)) LIKE '26 applied%', true, 'and is found in other writing');
SELECT is((SELECT count(*)::int FROM app.days), 0, 'the row is gone');
SELECT is(up('ann', 'phone', change(27, 'UPDATE', 'numbers', '00', 0, '{"v":"y"}')) LIKE '27 applied%', true, 'a number with zeros in front names the same row');
SELECT is(news() IS NULL, false, 'which a device has read');

-- Quoted and mixed-case names.
SELECT is(brief(rowsync.upload('ann', 'phone', '{"changes":[{"source_change_id":30,"schema":"Odd \"Schema\"","table":"Mixed Case","op":"INSERT","pk":"1",'
    '"payload":{"Id":1,"select":"from","a\"b":"c","é":"ü"}}]}')::jsonb) LIKE '30 applied%', true, 'names that need quotes');
SELECT is((SELECT payload FROM rowsync.change_log ORDER BY seq DESC LIMIT 1), '{"Id":1,"select":"from","a\"b":"c","é":"ü"}', 'travel as they are');
SELECT is(brief(rowsync.upload('ann', 'phone', '{"changes":[{"source_change_id":31,"schema":"Odd \"Schema\"","table":"Mixed Case","op":"UPDATE","pk":"1",'
    '"payload":{"a\"b":"d"}},{"source_change_id":32,"schema":"Odd \"Schema\"","table":"Mixed Case","op":"DELETE","pk":"1"}]}')::jsonb) ~ '^31 applied \d+, 32 applied \d+$', true, 'in UPDATE and DELETE too');

-- Partitioned tables.
SELECT is(up('ann', 'phone', change(40, 'INSERT', 'parted', '[1,"a"]', 0, '{"v":"x"}'), change(41, 'INSERT', 'parted', '[2,"b"]', 0, '{"v":"x"}')) LIKE '%invalid%', false, 'a partitioned table');
INSERT INTO app.parted_b (id, region, v) VALUES (3, 'b', 'direct');
SELECT is(news(), 'DELETE 1, INSERT [1, "a"], INSERT [2, "b"], INSERT [3, "b"]', 'a row written to a partition');
UPDATE app.parted SET region = 'b' WHERE id = 1;
SELECT set_eq($$SELECT op::text, payload::jsonb ->> 'region' FROM rowsync.change_log, t.read WHERE seq > upto$$, $$VALUES ('D', 'a'), ('I', 'b')$$, 'a row that moves to another partition');
CREATE TABLE app.parted_c PARTITION OF app.parted FOR VALUES IN ('c');
SELECT is(up('ann', 'phone', change(42, 'INSERT', 'parted', '[9,"c"]', 0, '{"v":"x"}')) LIKE '42 applied%', true, 'a partition that comes later');

-- A type that several tables use gets another name, which only the next ALTER TABLE brings to light.
CREATE TYPE app.mood AS ENUM ('good', 'bad');
CREATE TABLE app.moody_a (id text PRIMARY KEY, mood app.mood);
CREATE TABLE app.moody_b (id text PRIMARY KEY, mood app.mood);
SELECT rowsync.register_table('app.moody_a') < rowsync.register_table('app.moody_b') AS registered \gset
ALTER TYPE app.mood RENAME TO temper;
SELECT rowsync.schema_version() AS version \gset
SELECT lives_ok('ALTER TABLE app.moody_a ADD COLUMN note text', 'ALTER TABLE where two tables have changed');
SELECT is(rowsync.schema_version(), :version + 2, 'each has a schema version');
SELECT is_empty('SELECT * FROM rowsync.verify()', 'verify finds nothing');
SELECT finish();
