-- References of every shape: several columns, other schemas, tables that do not sync, and what ON DELETE
-- and ON UPDATE do to rows elsewhere, which reaches every device as the server's own change.
\ir include/helpers.sql
CREATE SCHEMA app;
CREATE SCHEMA "Other";
CREATE TABLE app.place (country text, town text, note text, PRIMARY KEY (country, town));
CREATE TABLE "Other"."Visit" (
    id text PRIMARY KEY,
    town text,
    country text DEFAULT 'de',
    FOREIGN KEY (country, town) REFERENCES app.place ON UPDATE CASCADE ON DELETE SET NULL (town)
);
CREATE TABLE app.rank (id integer PRIMARY KEY, name text);
CREATE TABLE app.pupil (
    id bigint PRIMARY KEY,
    rank_id integer NOT NULL DEFAULT 0 REFERENCES app.rank ON DELETE SET DEFAULT
);
CREATE TABLE app.badge (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), rank_id integer REFERENCES app.rank ON DELETE RESTRICT);
CREATE TABLE app.trail (id text PRIMARY KEY, up text REFERENCES app.trail ON DELETE CASCADE, v text);
CREATE TABLE app.outside (code text PRIMARY KEY);
CREATE TABLE app.inside (id text PRIMARY KEY, code text REFERENCES app.outside ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE app.stock (id text PRIMARY KEY, code text REFERENCES app.outside ON DELETE RESTRICT);
DO $$ BEGIN PERFORM rowsync.register_table(c) FROM unnest('{app.place,"\"Other\".\"Visit\"",app.rank,app.pupil,app.badge,app.trail,app.inside,app.stock}'::regclass[]) AS c; END $$;
INSERT INTO app.outside VALUES ('a'), ('b');
SELECT plan(71);

-- One change of app.* or, by its name, of "Other"."Visit".
CREATE FUNCTION t.visit(id bigint, op text, pk text, version bigint, payload text) RETURNS text LANGUAGE sql AS $$
    SELECT replace(change(id, op, 'Visit', pk, version, payload), '"app"', '"Other"') $$;
-- What tablet has not read yet: "op key payload" of each change.
CREATE TABLE t.read (upto bigint);
INSERT INTO t.read VALUES (0);
CREATE FUNCTION t.news() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    d jsonb := rowsync.download('ann', 'phone', (SELECT upto FROM t.read))::jsonb;
BEGIN
    UPDATE t.read SET upto = (d ->> 'next_after')::bigint;
    RETURN (SELECT string_agg(concat_ws(' ', c ->> 'op', c ->> 'pk', c ->> 'payload'), ', ' ORDER BY (c ->> 'server_id')::bigint)
            FROM jsonb_array_elements(d -> 'changes') AS c);
END $$;

-- Several columns, in another order than the key's, in another schema.
SELECT is(up('ann', 'phone', visit(1, 'INSERT', 'v1', 0, '{"country":"de","town":"Ulm"}'), change(2, 'INSERT', 'place', '["de","Ulm"]', 0, '{"note":"x"}'),
             visit(3, 'INSERT', 'v2', 0, '{"country":"de","town":"Bonn"}')),
          '1 applied 2, 2 applied 1, 3 invalid fk_missing', 'a child before its parent, and one whose parent is not there');
SELECT is(answer('ann', 'phone', visit(3, 'INSERT', 'v2', 0, '{"country":"de","town":"Bonn"}')) #> '{statuses,0,invalid,details,missing}',
          '["app.place:[\"de\",\"Bonn\"]"]'::jsonb, 'which is named by its whole key');
SELECT is(up('ann', 'phone', visit(4, 'INSERT', 'v3', 0, '{"town":"Rome"}'), visit(5, 'INSERT', 'v4', 0, '{"country":"fr"}'), visit(6, 'INSERT', 'v5', 0, '{"country":"it","town":null}')),
          '4 invalid fk_missing, 5 applied 3, 6 applied 4', 'with a null in it a reference names nobody');
SELECT is(fault(answer('ann', 'phone', visit(4, 'INSERT', 'v3', 0, '{"town":"Rome"}'))),
          'fk_missing | a row that this change refers to is not there yet | {"missing": [], "constraint": "Visit_country_town_fkey"}', 'completed by a default, it is the table that refuses');
SELECT is(up('ann', 'phone', visit(7, 'UPDATE', 'v1', 0, '{"town":"Bonn"}')), '7 invalid fk_missing', 'an UPDATE of a part of it is seen with the rest of the row');
SELECT is(up('bob', 'phone', change(1, 'INSERT', 'place', '["fr","Metz"]', 0, '{}')), '1 applied 1', 'a place of another user');
SELECT is(answer('ann', 'phone', visit(8, 'UPDATE', 'v4', 0, '{"town":"Metz"}')) #> '{statuses,0,invalid}',
          '{"reason":"fk_missing","details":{"missing":["app.place:[\"fr\",\"Metz\"]"]}}'::jsonb, 'which no part of a reference can reach');
-- Nor can one that the server completes: by a default, by a generated column.
CREATE TABLE app.link (id text PRIMARY KEY, kind text GENERATED ALWAYS AS (left(id, 2)) STORED, town text, FOREIGN KEY (kind, town) REFERENCES app.place);
SELECT rowsync.register_table('app.link') > 0 AS registered \gset
SELECT is(up('bob', 'phone', change(2, 'INSERT', 'place', '["de","Hamm"]', 0, '{}')), '2 applied 2', 'another place of the other user');
SELECT is(answer('ann', 'phone', visit(60, 'INSERT', 'v6', 0, '{"town":"Hamm"}')) #> '{statuses,0}',
          jsonb_set(answer('ann', 'phone', visit(61, 'INSERT', 'v6', 0, '{"town":"Nowhere"}')) #> '{statuses,0}', '{source_change_id}', '60'),
          'a default leads to a row of another user: the same answer as to no row');
SELECT is(answer('ann', 'phone', change(62, 'INSERT', 'link', 'de1', 0, '{"town":"Hamm"}')) #> '{statuses,0}',
          jsonb_set(answer('ann', 'phone', change(63, 'INSERT', 'link', 'de1', 0, '{"town":"Nowhere"}')) #> '{statuses,0}', '{source_change_id}', '62'),
          'so does a generated column');
SELECT is(up('ann', 'phone', change(64, 'INSERT', 'link', 'de1', 0, '{"town":"Ulm"}'), change(65, 'INSERT', 'link', 'de2', 0, '{"town":"Aalen"}'), change(66, 'INSERT', 'place', '["de","Aalen"]', 0, '{}'))
          LIKE '%invalid%', false, 'to the own rows it leads, those of the same batch too');
SELECT is(up('ann', 'phone', change(67, 'UPDATE', 'link', 'de1', 0, '{"town":"Hamm"}'), change(68, 'UPDATE', 'link', 'de2', 0, '{"town":null}')) ~ '^67 invalid fk_missing, 68 applied \d+$', true, 'UPDATE');
SELECT is(up('ann', 'phone', change(69, 'DELETE', 'link', 'de1', 0), change(70, 'DELETE', 'place', '["de","Aalen"]', 0)) LIKE '%invalid%', false, 'and away with them');
SELECT is(news(), NULL, 'all so far is the phone''s own');
UPDATE app.place SET town = 'Neu-Ulm' WHERE town = 'Ulm';
SELECT is((SELECT town FROM "Other"."Visit" WHERE id = 'v1'), 'Neu-Ulm', 'ON UPDATE CASCADE');
SELECT matches(news(), '^DELETE \["de", "Ulm"\], INSERT \["de", "Neu-Ulm"\] .*, UPDATE v1 .*"town": "Neu-Ulm"', 'reaches the uploader: the key that went, the one that came, who refers to it');
SELECT is(up('ann', 'phone', change(9, 'DELETE', 'place', '["de","Neu-Ulm"]', (SELECT version FROM rowsync.row_meta WHERE row_key = '["de","Neu-Ulm"]'))) LIKE '9 applied%', true, 'a DELETE');
SELECT is(news(), 'UPDATE v1 {"id": "v1", "town": null, "country": "de"}', 'ON DELETE SET NULL of one column of two reaches the uploader');

-- SET DEFAULT, RESTRICT.
SELECT is(up('ann', 'phone', change(20, 'INSERT', 'rank', '0', 0, '{"name":"none"}'), change(21, 'INSERT', 'rank', '1', 0, '{}'), change(22, 'INSERT', 'rank', '2', 0, '{}'),
             change(23, 'INSERT', 'pupil', '9007199254740993', 0, '{"rank_id":1}'), change(24, 'INSERT', 'badge', '550e8400-e29b-41d4-a716-446655440000', 0, '{"rank_id":2}'))
          LIKE '%invalid%', false, 'ranks');
SELECT is(up('ann', 'phone', change(25, 'DELETE', 'rank', '1', 0)) LIKE '25 applied%', true, 'a DELETE');
SELECT is(news(), 'UPDATE 9007199254740993 {"id": 9007199254740993, "rank_id": 0}', 'ON DELETE SET DEFAULT reaches the uploader');
SELECT is(fault(answer('ann', 'phone', change(26, 'DELETE', 'rank', '0', 0))),
          'constraint | update or delete on table "rank" violates foreign key constraint "pupil_rank_id_fkey" on table "pupil" | {"sqlstate": "23503", "constraint": "pupil_rank_id_fkey"}',
          'the default itself cannot go');
SELECT is(fault(answer('ann', 'phone', change(27, 'DELETE', 'rank', '2', 0))),
          'constraint | update or delete on table "rank" violates foreign key constraint "badge_rank_id_fkey" on table "badge" | {"sqlstate": "23503", "constraint": "badge_rank_id_fkey"}',
          'ON DELETE RESTRICT');
SELECT is(up('ann', 'phone', change(28, 'DELETE', 'rank', '2', 0), change(29, 'DELETE', 'badge', '550E8400E29B41D4A716446655440000', 0)) ~ '^28 applied \d+, 29 applied \d+$', true,
          'with the row that refers to it, it goes');
SELECT is(up('ann', 'phone', change(30, 'INSERT', 'rank', '3', 0, '{}'), change(31, 'INSERT', 'badge', '00000000-0000-0000-0000-000000000001', 0, '{"rank_id":3}')) LIKE '%invalid%', false, 'another');
SELECT is(up('ann', 'phone', change(32, 'DELETE', 'rank', '3', 0), change(33, 'UPDATE', 'badge', '00000000-0000-0000-0000-000000000001', 0, '{"rank_id":0}')) ~ '^32 applied \d+, 33 applied \d+$', true,
          'or with one that moves on');

-- A tree: its cascade goes down level by level.
SELECT is(up('ann', 'phone', change(40, 'INSERT', 'trail', 't1', 0, '{}'), change(41, 'INSERT', 'trail', 't2', 0, '{"up":"t1"}'), change(42, 'INSERT', 'trail', 't3', 0, '{"up":"t2"}')) LIKE '%invalid%', false, 'a tree');
SELECT is(news(), NULL, 'nothing new of the server''s');
SELECT is(up('ann', 'phone', change(43, 'DELETE', 'trail', 't1', 0), change(44, 'UPDATE', 'trail', 't3', 0, '{"v":"edited"}')) ~ '^43 applied \d+, 44 applied \d+$', true,
          'its root goes while a leaf is edited: both are heard');
SELECT is((SELECT count(*)::int FROM app.trail), 0, 'the tree is gone');
SELECT is(news(), 'DELETE t3, DELETE t2', 'which reaches the uploader, the edited leaf too');
SELECT is(up('ann', 'phone', change(45, 'INSERT', 'trail', 't5', 0, '{}'), change(46, 'INSERT', 'trail', 't6', 0, '{"up":"t5"}')) LIKE '%invalid%', false, 'another');
SELECT is(up('ann', 'phone', change(47, 'DELETE', 'trail', 't5', 0), change(48, 'UPDATE', 'trail', 't6', 0, '{"up":null}')) ~ 'invalid|conflict', false, 'whose root goes while the child is taken out of it');
SELECT is((SELECT string_agg(id, ' ') FROM app.trail), 't6', 'the child stays');

-- A table that does not sync.
SELECT is(up('ann', 'phone', change(50, 'INSERT', 'inside', 'i1', 0, '{"code":"a"}'), change(51, 'INSERT', 'inside', 'i2', 0, '{"code":"b"}'), change(52, 'INSERT', 'inside', 'i3', 0, '{"code":"c"}')) ~
          '^50 applied \d+, 51 applied \d+, 52 invalid fk_missing$', true, 'references to rows that do not sync are the table''s business');
SELECT is(news() IS NOT NULL, false, 'nothing of the server''s');
UPDATE app.outside SET code = 'z' WHERE code = 'a';
SELECT is(news(), 'UPDATE i1 {"id": "i1", "code": "z"}', 'ON UPDATE CASCADE from outside is captured');
DELETE FROM app.outside WHERE code = 'b';
SELECT is(news(), 'DELETE i2', 'ON DELETE CASCADE from outside too');
SET rowsync.scope = 'ann';
INSERT INTO app.stock VALUES ('s1', 'z');
SELECT is(refusal($$DELETE FROM app.outside$$) LIKE '23503: %', true, 'ON DELETE RESTRICT holds');
SELECT is(news(), 'INSERT s1 {"id": "s1", "code": "z"}', 'and of what it refused nothing is captured');
-- A new row's parents are looked for when it has been written, as it was sent. What triggers make of the
-- row or of its parent meanwhile is PostgreSQL's to check.
CREATE TABLE app.owner (id text PRIMARY KEY, note text);
CREATE TABLE app.pet (id text PRIMARY KEY, owner_id text NOT NULL REFERENCES app.owner);
SELECT rowsync.register_table('app.owner') + rowsync.register_table('app.pet') > 0 AS registered \gset
CREATE FUNCTION t.meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'owner' THEN
        DELETE FROM app.owner WHERE id = NEW.id AND NEW.note = 'vanishes';
    ELSIF NEW.owner_id LIKE '%>%' THEN
        NEW.owner_id := split_part(NEW.owner_id, '>', 2);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER meddle BEFORE INSERT ON app.pet FOR EACH ROW EXECUTE FUNCTION t.meddle();
CREATE TRIGGER meddle AFTER INSERT ON app.owner FOR EACH ROW EXECUTE FUNCTION t.meddle();
SELECT is(up('ann', 'phone', change(80, 'INSERT', 'owner', 'o1', 0, '{}'), change(81, 'INSERT', 'owner', 'o1>o9', 0, '{}'), change(82, 'INSERT', 'owner', 'o1>o1', 0, '{}')) LIKE '%invalid%', false, 'owners');
SELECT is(fault(answer('ann', 'phone', change(83, 'INSERT', 'pet', 'p1', 0, '{"owner_id":"o1>o9"}'))),
          'fk_missing | a row that this change refers to is not there yet | {"missing": [], "constraint": "pet_owner_id_fkey"}',
          'a trigger lets the row refer to nobody');
SELECT is(up('ann', 'phone', change(84, 'INSERT', 'pet', 'p2', 0, '{"owner_id":"o1>o1"}'), change(85, 'INSERT', 'pet', 'p3', 0, '{"owner_id":"o1"}')) ~ '^84 applied \d+ \+row, 85 applied \d+$', true, 'to somebody else');
SELECT is(up('ann', 'phone', change(86, 'INSERT', 'pet', 'p4', 0, '{"owner_id":"o2"}'), change(87, 'INSERT', 'owner', 'o2', 0, '{"note":"vanishes"}')) ~ '^86 invalid fk_missing, 87 applied \d+$', true,
          'a trigger takes the parent away before the child comes');
SELECT is(up('bob', 'phone', change(3, 'INSERT', 'owner', 'o3', 0, '{}')), '3 applied 3', 'an owner of another user');
SELECT is(answer('ann', 'phone', change(88, 'INSERT', 'pet', 'p5', 0, '{"owner_id":"o3"}'), change(89, 'INSERT', 'pet', 'p6', 0, '{"owner_id":"o1"}')) #> '{statuses,0,invalid}',
          '{"reason":"fk_missing","details":{"missing":["app.owner:o3"]}}'::jsonb, 'is missing');
SELECT is(answer('ann', 'phone', change(90, 'UPDATE', 'pet', 'p6', 0, '{"owner_id":"o3"}')) #> '{statuses,0,invalid}',
          '{"reason":"fk_missing","details":{"missing":["app.owner:o3"]}}'::jsonb, 'is missing to an UPDATE too');
SELECT is(up('ann', 'phone', change(91, 'UPDATE', 'pet', 'p6', 0, '{"owner_id":"o9"}'), change(92, 'UPDATE', 'pet', 'p3', 0, '{"owner_id":"o1"}'), change(93, 'UPDATE', 'pet', 'p2', 0, '{"owner_id":"o1>o9"}'))
          ~ '^91 invalid fk_missing, 92 applied \d+, 93 applied \d+$', true, 'so is one that is not there; one that stays, or that is there, is fine');
SELECT results_eq('SELECT p.id, o._rowsync_scope FROM app.pet AS p LEFT JOIN app.owner AS o ON o.id = p.owner_id ORDER BY 1',
                  $$VALUES ('p2', 'ann'), ('p3', 'ann'), ('p6', 'ann')$$, 'every pet has an owner of its user');
SELECT is(up('ann', 'phone', change(94, 'INSERT', 'owner', 'o4', 0, '{}'), change(95, 'INSERT', 'pet', 'p7', 0, '{"owner_id":"o4"}')) LIKE '%invalid%', false, 'an owner with a pet');
UPDATE app.owner SET _rowsync_scope = 'bob' WHERE id = 'o4';
SELECT is(up('ann', 'phone', change(96, 'UPDATE', 'pet', 'p7', 0, '{"owner_id":"o4"}')), '96 invalid fk_missing', 'who has gone to another user is missing, though the row refers to it already');
SELECT is(up('ann', 'phone', change(97, 'DELETE', 'pet', 'p7', 0)) LIKE '97 applied%', true, 'the pet can go');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
SELECT is_empty('SELECT * FROM rowsync.verify()', 'verify finds nothing');

-- References that come late: by ALTER TABLE of tables that sync, and with a parent that syncs only now.
CREATE TABLE app.shelf (id text PRIMARY KEY);
CREATE TABLE app.book (id text PRIMARY KEY, shelf_id text);
CREATE TABLE app.page (id text PRIMARY KEY, book_id text REFERENCES app.book);
SELECT rowsync.register_table('app.page') + rowsync.register_table('app.book') > 0 AS registered \gset
INSERT INTO app.shelf VALUES ('open');
SELECT is(up('lia', 'phone', change(1, 'INSERT', 'book', 'b1', 0, '{"shelf_id":"nowhere"}'), change(2, 'INSERT', 'page', 'p1', 0, '{"book_id":"b1"}')) || up('max', 'phone', change(1, 'INSERT', 'book', 'b2', 0, '{}')),
          '1 applied 1, 2 applied 21 applied 1', 'a column that refers to nothing yet');
UPDATE app.book SET shelf_id = NULL;
ALTER TABLE app.book ADD CONSTRAINT book_shelf_id_fkey FOREIGN KEY (shelf_id) REFERENCES app.shelf;
SELECT is(up('lia', 'phone', change(3, 'INSERT', 'book', 'b3', 0, '{"shelf_id":"open"}'), change(4, 'INSERT', 'book', 'b4', 0, '{"shelf_id":"nowhere"}')),
          '3 applied 4, 4 invalid fk_missing', 'then to a table that does not sync, as PostgreSQL has it');
UPDATE app.book SET shelf_id = NULL;
DELETE FROM app.shelf;
SELECT rowsync.register_table('app.shelf') > 0 AS registered \gset
SELECT ok((SELECT array_agg(relid::text ORDER BY upsert_order) FROM rowsync.synced_table WHERE relid IN ('app.shelf'::regclass, 'app.book', 'app.page'))
          = '{app.shelf,app.book,app.page}', 'then to one that does: the order of tables follows');
SELECT is(up('max', 'phone', change(2, 'INSERT', 'shelf', 'of max', 0, '{}')), '2 applied 4', 'a parent of another user');
SELECT is(answer('lia', 'phone', change(5, 'INSERT', 'book', 'b5', 0, '{"shelf_id":"of max"}')) #> '{statuses,0,invalid}',
          '{"reason":"fk_missing","details":{"missing":["app.shelf:of max"]}}'::jsonb, 'is missing');
SELECT is(up('lia', 'phone', change(6, 'UPDATE', 'book', 'b3', (SELECT version FROM rowsync.row_version WHERE key = 'b3'), '{"shelf_id":"s6"}'), change(7, 'INSERT', 'shelf', 's6', 0, '{}')) ~ '^6 applied \d+, 7 applied \d+$', true, 'one of the same request is there, in whatever place');
SELECT is(up('lia', 'phone', change(8, 'DELETE', 'shelf', 's6', 0)), '8 invalid constraint', 'and is kept while something refers to it');
ALTER TABLE app.book DROP CONSTRAINT book_shelf_id_fkey;
SELECT is(up('lia', 'phone', change(9, 'INSERT', 'book', 'b9', 0, '{"shelf_id":"of max"}')) ~ '^9 applied \d+$', true, 'a reference that has gone holds nothing up');
SELECT is_empty('SELECT * FROM rowsync.verify()', 'verify finds nothing wrong');

-- A trigger that has the last word about a reference, whatever was sent.
CREATE TABLE app.host (id text PRIMARY KEY);
CREATE TABLE app.guest (id text PRIMARY KEY, host_id text REFERENCES app.host, code text);
CREATE FUNCTION app.lodge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.host_id := new.code; RETURN new; END $$;
CREATE TRIGGER lodge BEFORE INSERT OR UPDATE ON app.guest FOR EACH ROW EXECUTE FUNCTION app.lodge();
SELECT rowsync.register_table('app.host') + rowsync.register_table('app.guest') > 0 AS registered \gset
SELECT is(up('max', 'tablet', change(1, 'INSERT', 'host', 'of max', 0, '{}')) || up('lia', 'tablet', change(1, 'INSERT', 'host', 'of lia', 0, '{}')) LIKE '%invalid%', false, 'two hosts');
SELECT is(up('lia', 'tablet', change(2, 'INSERT', 'guest', 'g1', 0, '{"host_id":null,"code":"nobody"}')), '2 invalid fk_missing', 'nobody may take the place of null');
SELECT is(up('lia', 'tablet', change(3, 'INSERT', 'guest', 'g2', 0, '{"host_id":null,"code":"of max"}')), '3 invalid fk_missing', 'nor somebody of another user');
SELECT is(up('lia', 'tablet', change(4, 'INSERT', 'guest', 'g3', 0, '{"host_id":"of lia","code":"of max"}')), '4 invalid fk_missing', 'nor of an own one');
SELECT is(up('lia', 'tablet', change(5, 'INSERT', 'guest', 'g4', 0, '{"host_id":"of lia","code":"nobody"}')), '5 invalid fk_missing', 'nor may nobody');
SELECT is(up('lia', 'tablet', change(6, 'INSERT', 'guest', 'g5', 0, '{"host_id":null,"code":"of lia"}')) ~ '^6 applied \d+ \+row$', true, 'an own one may');
SELECT is(up('lia', 'tablet', change(7, 'UPDATE', 'guest', 'g5', (SELECT version FROM rowsync.row_version WHERE key = 'g5'), '{"host_id":null,"code":"of max"}')), '7 invalid fk_missing', 'so it is with an UPDATE');
SELECT is_empty('SELECT * FROM rowsync.verify()', 'and verify finds nothing');
SELECT finish();
