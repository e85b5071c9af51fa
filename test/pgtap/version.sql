-- Library and SQL objects of different versions refuse to work together, and say what to do.
\ir include/helpers.sql
\ir include/app.sql
SELECT plan(8);

SELECT lives_ok($$SELECT rowsync.download('ann', 'phone')$$, 'one version: works');
SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'rowsync' \gset
UPDATE pg_catalog.pg_extension SET extversion = '0.0.9' WHERE extname = 'rowsync';
-- As at the end of an update by another session: what is cached of the registry is thrown away.
REVOKE ALL ON ALL TABLES IN SCHEMA rowsync FROM PUBLIC;
SELECT matches(refusal($$SELECT rowsync.download('ann', 'phone')$$),
               '^RS007: the rowsync library is version [0-9.]+, but its SQL objects are version 0.0.9 \| Run ALTER EXTENSION rowsync UPDATE',
               'a download refuses');
SELECT matches(refusal($$SELECT rowsync.upload('ann', 'phone', '{"changes": []}')$$), '^RS007: ', 'an upload refuses');
SET rowsync.scope = 'ann';
SELECT matches(refusal($$INSERT INTO app.users (id, name) VALUES ('u1', 'Ann')$$), '^RS007: ',
               'a write refuses, for nobody could capture it');
UPDATE pg_catalog.pg_extension SET extversion = :'extversion' WHERE extname = 'rowsync';
SELECT lives_ok($$SELECT rowsync.download('ann', 'phone')$$, 'and when they fit again it goes on');

-- A session that saw the extension go and come again remembers nothing of the first.
SELECT is(up('bob', 'phone', change(1, 'INSERT', 'users', 'b1', 0, '{"name":"Bob"}')), '1 applied 1', 'before');
DROP EXTENSION rowsync CASCADE;
DROP SCHEMA app CASCADE;
CREATE EXTENSION rowsync;
\ir include/app.sql
SELECT is(up('ann', 'phone', change(1, 'INSERT', 'users', 'a1', 0, '{"name":"Ann"}')), '1 applied 1', 'another user');
SELECT is(up('bob', 'phone', change(1, 'INSERT', 'users', 'b1', 0, '{"name":"Bob"}')), '1 applied 1', 'and the first one');
SELECT finish();
