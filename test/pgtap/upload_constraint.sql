-- Every kind of refusal by the business table: its reason, SQLSTATE, constraint and message, and
-- that the rest of the batch is applied.
\ir include/helpers.sql
CREATE EXTENSION btree_gist;
CREATE SCHEMA app;
CREATE TABLE app.outside (code text PRIMARY KEY);
CREATE TABLE app.rooms (
    id text PRIMARY KEY,
    name varchar(5) UNIQUE,
    slot int4range,
    floor integer UNIQUE DEFERRABLE,
    outside_code text REFERENCES app.outside,
    mood text,
    note text UNIQUE,
    EXCLUDE USING gist (floor WITH =, slot WITH &&)
);
CREATE DOMAIN app.even AS integer CHECK (VALUE % 2 = 0);
CREATE TYPE app.colour AS ENUM ('red', 'green');
CREATE TABLE app.tints (id text PRIMARY KEY, n app.even, c app.colour, ids integer[]);

CREATE FUNCTION app.moody() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.mood = 'raise' THEN
        RAISE EXCEPTION 'not in this mood';
    ELSIF NEW.mood = 'divide' THEN
        PERFORM 1 / 0;
    ELSIF NEW.mood = 'skip' THEN
        RETURN NULL;
    ELSIF NEW.mood = 'code' THEN
        RAISE EXCEPTION 'no way' USING ERRCODE = 'PT403';
    ELSIF NEW.mood = 'remote' THEN
        RAISE EXCEPTION 'could not connect' USING ERRCODE = '08001';
    ELSIF NEW.mood = 'forbid' THEN
        RAISE insufficient_privilege USING MESSAGE = 'not yours';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER moody BEFORE INSERT OR UPDATE ON app.rooms FOR EACH ROW EXECUTE FUNCTION app.moody();
CREATE FUNCTION app.late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.mood = 'late' THEN
        RAISE EXCEPTION 'late but sure';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON app.rooms DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION app.late();
DO $$ BEGIN PERFORM rowsync.register_table('app.rooms'), rowsync.register_table('app.tints'); END $$;
SELECT plan(33);

-- The fault of an INSERT into app.rooms between two good ones, which must both be applied.
CREATE SEQUENCE t.ids;
CREATE FUNCTION t.room(payload text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    n bigint := nextval('t.ids') * 3;
    got jsonb := answer('ann', 'phone',
                        change(n, 'INSERT', 'rooms', 'a' || n, 0, '{}'),
                        change(n + 1, 'INSERT', 'rooms', 'r' || n, 0, payload),
                        change(n + 2, 'INSERT', 'rooms', 'z' || n, 0, '{}'));
BEGIN
    IF got #>> '{statuses,0,status}' <> 'applied' OR got #>> '{statuses,2,status}' <> 'applied' THEN
        RETURN 'the others were not applied: ' || brief(got);
    END IF;
    RETURN coalesce(nullif(fault(jsonb_build_object('statuses', (got -> 'statuses') - 0)), ''), 'applied');
END $$;

SELECT is(room('{"name":"one","slot":"[1,5)","floor":1}'), 'applied', 'a good one to clash with');
SELECT is(room('{"name":"one"}'),
          'constraint | duplicate key value violates unique constraint "rooms_name_key"'
          ' | {"sqlstate": "23505", "constraint": "rooms_name_key"}', 'unique');
SELECT is(room('{"floor":1}'),
          'constraint | duplicate key value violates unique constraint "rooms_floor_key"'
          ' | {"sqlstate": "23505", "constraint": "rooms_floor_key"}', 'unique, deferrable');
ALTER TABLE app.rooms DROP CONSTRAINT rooms_floor_key;
SELECT is(room('{"slot":"[4,6)","floor":1}'),
          'constraint | conflicting key value violates exclusion constraint "rooms_floor_slot_excl"'
          ' | {"sqlstate": "23P01", "constraint": "rooms_floor_slot_excl"}', 'exclusion');
SELECT is(room('{"outside_code":"none"}'),
          'fk_missing | a row that this change refers to is not there yet'
          ' | {"missing": [], "constraint": "rooms_outside_code_fkey"}', 'a reference to a table that does not sync');
SELECT is(room('{"name":"too long"}'),
          'bad_payload | column "name": value too long for type character varying(5) | {"column": "name", "sqlstate": "22001"}',
          'a value too long for its column');
SELECT is(room('{"slot":"[6,5)"}'),
          'bad_payload | column "slot": range lower bound must be less than or equal to range upper bound'
          ' | {"column": "slot", "sqlstate": "22000"}', 'what the type''s input function refuses');
SELECT is(room('{"mood":"raise"}'), 'constraint | not in this mood | {"sqlstate": "P0001"}', 'raised by a trigger');
SELECT is(room('{"mood":"code"}'), 'constraint | no way | {"sqlstate": "PT403"}', 'raised under a code of its own');
SELECT is(room('{"note":"' || (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 500) AS n) || '"}'),
          'constraint | index row requires 16016 bytes, maximum size is 8191 | {"sqlstate": "54000"}', 'a value too long for its index');
SELECT is(room('{"mood":"remote"}'), 'internal_error | could not connect | {"sqlstate": "08001"}', 'a connection that a trigger could not make');
SELECT is(room('{"mood":"divide"}'), 'constraint | division by zero | {"sqlstate": "22012"}', 'an error of a trigger');
SELECT is(room('{"mood":"late"}'), 'constraint | late but sure | {"sqlstate": "P0001"}', 'a deferred constraint trigger');
SELECT is(room('{"mood":"skip"}'),
          'constraint | the row was not written: a trigger of the table suppressed it', 'suppressed by a trigger');
SELECT is(room('{"mood":"forbid"}'), 'forbidden | not yours | {"sqlstate": "42501"}', 'forbidden by a trigger');

-- A table's CHECK; a trigger that looks at a statement as a whole; rights on columns; NOT NULL by UPDATE.
ALTER TABLE app.rooms ADD CONSTRAINT floor_sane CHECK (floor < 100);
SELECT is(room('{"floor":100}'),
          'constraint | new row for relation "rooms" violates check constraint "floor_sane" | {"sqlstate": "23514", "constraint": "floor_sane"}', 'CHECK');
CREATE FUNCTION app.no_thirteen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM came WHERE floor = 13) THEN RAISE EXCEPTION 'there is no floor 13'; END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER no_thirteen AFTER INSERT ON app.rooms REFERENCING NEW TABLE AS came FOR EACH STATEMENT EXECUTE FUNCTION app.no_thirteen();
SELECT is(room('{"floor":13}'), 'constraint | there is no floor 13 | {"sqlstate": "P0001"}', 'a trigger that refuses a whole statement');
CALL role('tap_columns');
SELECT rowsync.grant_gateway('tap_columns') IS NULL AS granted \gset
GRANT USAGE ON SCHEMA app TO tap_columns;
GRANT SELECT, INSERT ON app.tints TO tap_columns;
GRANT UPDATE (n) ON app.tints TO tap_columns;
SET ROLE tap_columns;
SELECT is(up('dee', 'phone', change(1, 'INSERT', 'tints', 'x1', 0, '{"n":2}'), change(2, 'INSERT', 'tints', 'x2', 0, '{"n":2}')) ~ '^1 applied \d, 2 applied \d$', true, 'INSERT without the right to UPDATE all');
SELECT is(up('dee', 'phone', change(3, 'UPDATE', 'tints', 'x1', 0, '{"n":4}'), change(4, 'UPDATE', 'tints', 'x2', 0, '{"c":"red"}'), change(5, 'DELETE', 'tints', 'x2', 0)) ~
          '^3 applied \d, 4 invalid forbidden, 5 invalid forbidden$', true, 'UPDATE of the columns that are granted, and of no other');
RESET ROLE;
ALTER TABLE app.tints ADD CONSTRAINT n_or_c CHECK (n IS NOT NULL OR c IS NOT NULL), ALTER n SET NOT NULL;
SELECT is(fault(answer('dee', 'phone', change(6, 'UPDATE', 'tints', 'x1', 0, '{"n":null}'))),
          'constraint | null value in column "n" of relation "tints" violates not-null constraint | {"column": "n", "sqlstate": "23502"}', 'NOT NULL');
ALTER TABLE app.tints ALTER n DROP NOT NULL;
SELECT is(fault(answer('dee', 'phone', change(6, 'UPDATE', 'tints', 'x1', 0, '{"n":null}'))),
          'constraint | new row for relation "tints" violates check constraint "n_or_c" | {"sqlstate": "23514", "constraint": "n_or_c"}', 'CHECK of several columns, by UPDATE');
ALTER TABLE app.tints DROP CONSTRAINT n_or_c;

-- Domains, enums, arrays.
SELECT is(fault(answer('ann', 'phone', change(201, 'INSERT', 'tints', 't1', 0, '{"n":3}'))),
          'bad_payload | column "n": value for domain app.even violates check constraint "even_check"'
          ' | {"column": "n", "sqlstate": "23514", "constraint": "even_check"}', 'a domain');
SELECT is(fault(answer('ann', 'phone', change(202, 'INSERT', 'tints', 't2', 0, '{"c":"blue"}'))),
          'bad_payload | column "c": invalid input value for enum app.colour: "blue" | {"column": "c", "sqlstate": "22P02"}', 'an enum');
SELECT is(fault(answer('ann', 'phone', change(203, 'INSERT', 'tints', 't3', 0, '{"ids":"{1,x}"}'))),
          'bad_payload | column "ids": invalid input syntax for type integer: "x" | {"column": "ids", "sqlstate": "22P02"}', 'an array');
SELECT is(fault(answer('ann', 'phone', change(204, 'INSERT', 'tints', 't4', 0, '{"n":"4"}'))),
          'bad_payload | column "n": expected a number, not "4" | {"column": "n"}', 'a domain over integer wants a number');
SELECT is(up('ann', 'phone', change(205, 'INSERT', 'tints', 't5', 0, '{"n":3}'),
                             change(206, 'INSERT', 'tints', 't6', 0, '{"n":4,"c":"red","ids":"{1,2}"}'),
                             change(207, 'INSERT', 'tints', 't7', 0, '{"c":"blue"}')) ~
          '^205 invalid bad_payload, 206 applied \d+, 207 invalid bad_payload$', true, 'each by itself');

-- Rows elsewhere that refer to what an UPDATE would change.
CREATE TABLE app.borrowed (name varchar(5) REFERENCES app.rooms (name));
INSERT INTO app.borrowed VALUES ('one');
SELECT matches(fault(answer('ann', 'phone', change(208, 'UPDATE', 'rooms', 'r3', 0, '{"name":"uno"}'))),
               '^constraint [|] update or delete on table "rooms" violates foreign key constraint "borrowed_name_fkey" on table "borrowed"', 'an UPDATE that others refer against');
TRUNCATE app.borrowed;

-- UPDATE and DELETE are refused by themselves too.
SELECT is(up('ann', 'phone', change(301, 'UPDATE', 'rooms', 'a3', 0, '{"mood":"raise"}'),
                             change(302, 'UPDATE', 'rooms', 'z3', 0, '{"mood":"calm"}'),
                             change(303, 'UPDATE', 'rooms', 'r3', 0, '{"name":"two"}')) ~
          '^301 invalid constraint, 302 applied \d+, 303 applied \d+$', true, 'updates');
CREATE FUNCTION app.keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.id = 'a3' THEN RAISE EXCEPTION 'a3 stays'; END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER keep BEFORE DELETE ON app.rooms FOR EACH ROW EXECUTE FUNCTION app.keep();
SELECT is(up('ann', 'phone', change(304, 'DELETE', 'rooms', 'z3', 0),
                             change(305, 'DELETE', 'rooms', 'a3', 0),
                             change(306, 'DELETE', 'rooms', 'r3', 0)) ~
          '^304 applied \d+, 305 invalid constraint, 306 applied \d+$', true, 'deletes');

-- Swapped unique values: possible where the constraint can wait.
ALTER TABLE app.rooms ADD UNIQUE (mood) DEFERRABLE;
SELECT is(up('ann', 'phone', change(401, 'INSERT', 'rooms', 's1', 0, '{"mood":"m1"}'),
                             change(402, 'INSERT', 'rooms', 's2', 0, '{"mood":"m2"}')) LIKE '%invalid%', false, 'two values');
SELECT is(up('ann', 'phone', change(403, 'UPDATE', 'rooms', 's1', 0, '{"mood":"m2"}'),
                             change(404, 'UPDATE', 'rooms', 's2', 0, '{"mood":"m1"}')) LIKE '%invalid%', false, 'swapped');

-- A large batch with a bad change in every tenth place: the others are all there.
SELECT is((SELECT string_agg(s ->> 'source_change_id', ' ')
           FROM jsonb_array_elements(answer('ann', 'phone', VARIADIC
                (SELECT array_agg(change(1000 + n, 'INSERT', 'tints', 'big' || n, 0,
                                         CASE WHEN n % 10 = 3 THEN '{"c":"blue"}' ELSE '{"c":"red"}' END))
                 FROM generate_series(0, 59) AS n)) -> 'statuses') AS s
           WHERE s ->> 'status' <> 'applied'), '1003 1013 1023 1033 1043 1053', 'six bad ones of sixty');
SELECT is_empty('SELECT unsound(false)', 'log, versions and tables agree');
SELECT finish();
