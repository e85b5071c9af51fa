-- Downloads: windows, pages, what is left out, where the cursor goes, and every refusal.
\ir include/helpers.sql
\ir include/app.sql
CREATE SCHEMA other;
CREATE TABLE other.things (id text PRIMARY KEY);
SELECT rowsync.register_table('other.things') > 0 AS registered \gset
SELECT plan(51);

SELECT is(rowsync.download('ann', 'phone'), '{"changes":[],"has_more":false,"next_after":0,"window_until":0,"floor":0,"epoch":0,"last_upload":0,"head":0}',
          'a user whom nobody knows yet');
SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'u1', 0, '{"name":"A"}'), change(2, 'INSERT', 'users', 'u2', 0, '{"name":"B"}'),
                             change(3, 'INSERT', 'users', 'u3', 0, '{"name":"C"}')), '1 applied 1, 2 applied 2, 3 applied 3', 'three rows');
SET rowsync.scope = 'ann';
UPDATE app.users SET age = 5 WHERE id = 'u2';
DELETE FROM app.users WHERE id = 'u3';
INSERT INTO other.things VALUES ('x1');
RESET rowsync.scope;
UPDATE rowsync.change_log SET ts = '2026-11-23 21:00:00.000012+00';

-- The answer in full.
SELECT is(rowsync.download('ann', 'tablet'),
          '{"changes":[{"server_id":1,"schema":"app","table":"users","op":"INSERT","pk":"u1","payload":{"id":"u1","name":"A","email":null,"age":null},'
          '"server_version":1,"deleted":false,"source_id":"phone","source_change_id":1,"ts":"2026-11-23T21:00:00.000012Z"},'
          '{"server_id":4,"schema":"app","table":"users","op":"UPDATE","pk":"u2","payload":{"id":"u2","name":"B","email":null,"age":5},'
          '"server_version":4,"deleted":false,"source_id":"","source_change_id":0,"ts":"2026-11-23T21:00:00.000012Z"},'
          '{"server_id":5,"schema":"app","table":"users","op":"DELETE","pk":"u3","payload":null,'
          '"server_version":5,"deleted":true,"source_id":"","source_change_id":0,"ts":"2026-11-23T21:00:00.000012Z"},'
          '{"server_id":6,"schema":"other","table":"things","op":"INSERT","pk":"x1","payload":{"id":"x1"},'
          '"server_version":6,"deleted":false,"source_id":"","source_change_id":0,"ts":"2026-11-23T21:00:00.000012Z"}],'
          '"has_more":false,"next_after":6,"window_until":6,"floor":0,"epoch":' || (SELECT epoch FROM rowsync.scope) || ',"last_upload":0,"head":6}', 'every field, superseded changes left out');

SELECT is((SELECT p ->> 'next_after' || ' ' || (p ->> 'head') FROM CAST(rowsync.download('ann', 'tablet', 9) AS jsonb) AS p), '9 6',
          'a device that has read further than the log goes can see it');

-- Whose changes.
SELECT is(page('ann', 'phone'), '4 UPDATE u2, 5 DELETE u3, 6 INSERT x1, > 6/6', 'the caller''s own are left out, the server''s are not');
SELECT is(page('ann', 'phone', include_self => true), page('ann', 'tablet'), 'with include_self all come');
SELECT is(page('bob', 'phone'), '> 0/0', 'another user has none of them');
SELECT is(page('ann', 'phone', until => 3), '> 3/3', 'the cursor passes the caller''s own, also with nothing to show');
SELECT is(page('ann', 'phone', schema_name => 'other'), '6 INSERT x1, > 6/6', 'one schema');
SELECT is(page('ann', 'tablet', schema_name => 'app'), '1 INSERT u1, 4 UPDATE u2, 5 DELETE u3, > 6/6', 'another, with the cursor at the end');
SELECT is(page('ann', 'tablet', schema_name => 'none'), '> 6/6', 'none');

-- Windows.
SELECT is(page('ann', 'tablet', until => 3), '1 INSERT u1, 2 INSERT u2, 3 INSERT u3, > 3/3', 'a change after the window supersedes nothing in it');
SELECT is(page('ann', 'tablet', until => 4), '1 INSERT u1, 3 INSERT u3, 4 UPDATE u2, > 4/4', 'one in it does');
SELECT is(page('ann', 'tablet', 4), '5 DELETE u3, 6 INSERT x1, > 6/6', 'after');
SELECT is(page('ann', 'tablet', 3, until => 5), '4 UPDATE u2, 5 DELETE u3, > 5/5', 'after and until');
SELECT is(page('ann', 'tablet', 6), '> 6/6', 'at the head');
SELECT is(page('ann', 'tablet', 2, until => 2), '> 2/2', 'an empty window');
SELECT is(page('ann', 'tablet', 1, until => 99), '4 UPDATE u2, 5 DELETE u3, 6 INSERT x1, > 6/6', 'a window beyond the head ends at it');

-- Pages.
SELECT is(page('ann', 'tablet', 0, 1), '1 INSERT u1, > 1/6 more', 'a page of one');
SELECT is(page('ann', 'tablet', 1, 1, 6), '4 UPDATE u2, > 4/6 more', 'the next, past what is superseded');
SELECT is(page('ann', 'tablet', 4, 1, 6), '5 DELETE u3, > 5/6 more', 'the next');
SELECT is(page('ann', 'tablet', 5, 1, 6), '6 INSERT x1, > 6/6', 'the last');
SELECT is(page('ann', 'tablet', 0, 4), '1 INSERT u1, 4 UPDATE u2, 5 DELETE u3, 6 INSERT x1, > 6/6', 'a page that just fits has no more');

-- A window stays what it was while the server goes on.
CREATE TABLE t.device (id text PRIMARY KEY, payload jsonb);
-- Reads a window into t.device; when busy, the server changes rows of it between any two pages.
CREATE PROCEDURE t.pull(upto bigint, size int, busy boolean, INOUT pages int DEFAULT 0) LANGUAGE plpgsql AS $$
DECLARE
    after bigint := 0;
    d jsonb;
BEGIN
    DELETE FROM t.device;
    LOOP
        d := rowsync.download('cy', 'tablet', after, size, upto)::jsonb;
        INSERT INTO t.device SELECT c ->> 'pk', c -> 'payload' FROM jsonb_array_elements(d -> 'changes') AS c
            ON CONFLICT (id) DO UPDATE SET payload = excluded.payload;
        pages := pages + 1;
        after := (d ->> 'next_after')::bigint;
        EXIT WHEN NOT (d ->> 'has_more')::boolean;
        IF busy THEN
            UPDATE app.users SET age = pages WHERE _rowsync_scope = 'cy' AND substr(id, 2)::int % 4 = pages % 4;
            DELETE FROM app.users WHERE id = 'r' || pages * 6;
            INSERT INTO app.users (id, name, _rowsync_scope) VALUES ('r' || pages * 6 - 1, 'again', 'cy') ON CONFLICT DO NOTHING;
            COMMIT;
        END IF;
    END LOOP;
    DELETE FROM t.device WHERE payload = 'null';
END $$;
INSERT INTO app.users (id, name, _rowsync_scope) SELECT 'r' || n, 'first', 'cy' FROM generate_series(1, 50) AS n;
UPDATE app.users SET name = 'second' WHERE _rowsync_scope = 'cy' AND substr(id, 2)::int % 3 = 0;
DELETE FROM app.users WHERE _rowsync_scope = 'cy' AND substr(id, 2)::int % 5 = 0;
CREATE TABLE t.then AS SELECT id, to_jsonb(u) - '_rowsync_scope' AS payload FROM app.users AS u WHERE _rowsync_scope = 'cy';
SELECT head AS head FROM rowsync.scope WHERE name = 'cy' \gset
CALL t.pull(:head, 7, false) \gset
SELECT is(:pages, 8, 'fifty rows in pages of seven');
SELECT set_eq('SELECT id, payload FROM t.device', 'SELECT id, payload FROM t.then', 'give the state of the window');
CALL t.pull(:head, 3, true) \gset
SELECT set_eq('SELECT id, payload FROM t.device', 'SELECT id, payload FROM t.then', 'also while the server changes rows of it all the time');
CALL t.pull(:head, 7, false) \gset
SELECT set_eq('SELECT id, payload FROM t.device', 'SELECT id, payload FROM t.then', 'and when everything has moved on');
CALL t.pull(NULL, 1, false) \gset
SELECT set_eq('SELECT id, payload FROM t.device', $$SELECT id, to_jsonb(u) - '_rowsync_scope' FROM app.users AS u WHERE _rowsync_scope = 'cy'$$,
              'up to the head: the state of the table');

-- Size of a page in bytes.
SET rowsync.page_size = '1kB';
INSERT INTO app.users (id, name, _rowsync_scope) SELECT 'b' || n, repeat('x', 700), 'dee' FROM generate_series(1, 4) AS n;
SELECT is(page('dee', 'phone'), '1 INSERT b1, 2 INSERT b2, > 2/4 more', 'a page ends when it is large enough');
SET rowsync.page_size = '1kB';
SELECT is(page('dee', 'phone', 2, 1), '3 INSERT b3, > 3/4 more', 'but has at least one change');
RESET rowsync.page_size;

-- What a source has read is noted.
SELECT is(page('dee', 'reader', 0), '1 INSERT b1, 2 INSERT b2, 3 INSERT b3, 4 INSERT b4, > 4/4', 'a first page');
SELECT is(page('dee', 'reader', 4), '> 4/4', 'a poll');
SELECT is((SELECT last_download FROM rowsync.source WHERE source_id = 'reader'), 4::bigint, 'says that the page before was applied');
SELECT is(page('dee', 'reader', 1, 1), '2 INSERT b2, > 2/4 more', 'reading back');
SELECT is((SELECT last_download FROM rowsync.source WHERE source_id = 'reader'), 4::bigint, 'forgets nothing');
SELECT is(page('dee', 'cloned', 4), '> 4/4', 'a first request after a snapshot');
SELECT is((SELECT last_download FROM rowsync.source WHERE source_id = 'cloned'), 4::bigint, 'says up to where that went');
SELECT is(page('dee', 'boaster', 9), '> 9/9', 'and one that has read what is not there');
SELECT is((SELECT last_download FROM rowsync.source WHERE source_id = 'boaster'), 4::bigint, 'has read all that is');
BEGIN READ ONLY;
SELECT is(page('dee', 'nobody', 3), '4 INSERT b4, > 4/4', 'a read-only transaction, as on a standby');
COMMIT;
SELECT is((SELECT count(*)::int FROM rowsync.source WHERE source_id = 'nobody'), 0, 'notes nothing');

-- Refusals.
SELECT is(refusal($$SELECT rowsync.download('ann', 'phone', -1)$$), 'RS002: after must be 0 or more', 'after -1');
SELECT is(refusal($$SELECT rowsync.download('ann', 'phone', 0, 0)$$), 'RS002: limit must be from 1 to 10000', 'limit 0');
SELECT is(refusal($$SELECT rowsync.download('ann', 'phone', 0, -1)$$), 'RS002: limit must be from 1 to 10000', 'limit -1');
SELECT is(refusal($$SELECT rowsync.download('ann', 'phone', 0, 10001)$$), 'RS002: limit must be from 1 to 10000', 'limit 10001');
SELECT is(refusal($$SELECT rowsync.download('ann', 'phone', 5, 10, 4)$$), 'RS002: until must not be below after', 'until below after');
SELECT is(refusal($$SELECT rowsync.download(NULL, 'phone')$$), 'RS002: user_id and source_id must not be null', 'no user');
SELECT is(refusal($$SELECT rowsync.download('', 'phone')$$), 'RS002: user_id must have 1 to 255 bytes, not 0', 'an empty user');
SELECT is(refusal(format('SELECT rowsync.download(%L, %L)', 'ann', repeat('s', 256))), 'RS002: source_id must have 1 to 255 bytes, not 256',
          'a source too long');
UPDATE rowsync.scope SET floor = 3 WHERE name = 'ann';
SELECT is(refusal($$SELECT rowsync.download('ann', 'phone', 2)$$),
          'RS003: changes up to 3 are pruned, after is 2 | Hydrate from a snapshot, then download from its seq on.', 'below the floor');
SELECT is(page('ann', 'tablet', 3), '4 UPDATE u2, 5 DELETE u3, 6 INSERT x1, > 6/6', 'at the floor');
SELECT finish();
