-- Requests that are wrong as a whole: RS001 or RS002 with the exact message, and nothing written.
\ir include/helpers.sql
\ir include/app.sql
SELECT plan(44);

-- The error of an upload by ann's phone.
CREATE FUNCTION t.raw(request text) RETURNS text LANGUAGE sql AS $$
    SELECT refusal(format('SELECT rowsync.upload(''ann'', ''phone'', %L)', request)) $$;

SELECT is(raw(''), 'RS001: the request must be a JSON object', 'empty body');
SELECT is(raw('   '), 'RS001: the request must be a JSON object', 'blank body');
SELECT is(raw('[]'), 'RS001: the request must be a JSON object', 'array');
SELECT is(raw('null'), 'RS001: the request must be a JSON object', 'null');
SELECT is(raw('"changes"'), 'RS001: the request must be a JSON object', 'string');
SELECT is(raw('{}'), 'RS001: changes is missing', 'no changes');
SELECT is(raw('{"x":{"changes":[]}}'), 'RS001: changes is missing', 'changes somewhere else');
SELECT is(raw('{"changes":{}}'), 'RS001: changes must be an array', 'changes is an object');
SELECT is(raw('{"changes":null}'), 'RS001: changes must be an array', 'changes is null');
SELECT is(raw('{"changes":"[]"}'), 'RS001: changes must be an array', 'changes is a string');
SELECT is(raw('{"changes":[],"changes":[]}'), 'RS001: changes must be given once', 'changes twice');
SELECT is(raw('{"changes":[1]}'), 'RS001: every element of changes must be an object', 'a number as change');
SELECT is(raw('{"changes":[null]}'), 'RS001: every element of changes must be an object', 'null as change');
SELECT is(raw('{"changes":[[]]}'), 'RS001: every element of changes must be an object', 'an array as change');
SELECT is(raw('{"changes":[{}]}'),
          'RS001: every change needs a source_change_id: a whole number above 0', 'no source_change_id');
SELECT is(raw('{"changes":[{"source_change_id":0}]}'),
          'RS001: source_change_id must be a whole number above 0', 'source_change_id 0');
SELECT is(raw('{"changes":[{"source_change_id":-1}]}'),
          'RS001: source_change_id must be a whole number above 0', 'source_change_id -1');
SELECT is(raw('{"changes":[{"source_change_id":"1"}]}'),
          'RS001: source_change_id must be a whole number above 0', 'source_change_id a string');
SELECT is(raw('{"changes":[{"source_change_id":1.5}]}'),
          'RS001: source_change_id must be a whole number above 0', 'source_change_id 1.5');
SELECT is(raw('{"changes":[{"source_change_id":9223372036854775808}]}'),
          'RS001: source_change_id must be a whole number above 0', 'source_change_id over 64 bits');
SELECT is(raw('{"last_server_seq_seen":-1,"changes":[]}'),
          'RS001: last_server_seq_seen must be a whole number, 0 or more', 'last_server_seq_seen -1');
SELECT is(raw('{"last_server_seq_seen":"1","changes":[]}'),
          'RS001: last_server_seq_seen must be a whole number, 0 or more', 'last_server_seq_seen a string');
SELECT is(raw('{"last_server_seq_seen":null,"changes":[]}'),
          'RS001: last_server_seq_seen must be a whole number, 0 or more', 'last_server_seq_seen null');
SELECT is(raw('{"atomic":1,"changes":[]}'), 'RS001: atomic must be true or false', 'atomic 1');
SELECT is(raw('{"atomic":"true","changes":[]}'), 'RS001: atomic must be true or false', 'atomic a string');
SELECT is(raw('{"changes":[{"source_change_id" 1}]}'),
          'RS001: the request is not valid JSON, near line 1: Expected ":", but found "1".',
          'malformed');
SELECT is(raw('{"changes":[}'), 'RS001: the request is not valid JSON, near line 1: Expected JSON value, but found "}".',
          'an object closed that was not open');
SELECT is(raw(E'{\n"changes":\n[],}'),
          'RS001: the request is not valid JSON, near line 3: Expected string, but found "}".',
          'a comma too many, with its line');
SELECT is(raw('{"changes":[]'),
          'RS001: the request is not valid JSON, near line 1: The input string ended unexpectedly.',
          'cut off');
SELECT is(raw('{"changes":[]} x'),
          'RS001: the request is not valid JSON, near line 1: Token "x" is invalid.', 'something behind');
SELECT matches(raw('{"changes":' || repeat('[', 100000) || repeat(']', 100000) || '}'),
               '^(RS001|54001): ', 'nested without end');

-- One good change beside a bad whole is not written.
SELECT is(raw('{"changes":[' || change(1, 'INSERT', 'users', 'u1', 0, '{"name":"x"}') || ',{}]}'),
          'RS001: every change needs a source_change_id: a whole number above 0',
          'a good change in a bad request');
SELECT is((SELECT count(*)::int FROM rowsync.change_log), 0, 'nothing is written');
SELECT is((SELECT count(*)::int FROM rowsync.source), 0, 'not even the source');

-- Where nothing can be written, nothing is half done.
BEGIN READ ONLY;
SELECT matches(raw('{"changes":[' || change(99, 'DELETE', 'users', 'never') || ']}'), '^25006: ', 'an upload in a read-only transaction');
COMMIT;

-- Who.
SELECT is(refusal($$SELECT rowsync.upload('', 'phone', '{"changes":[]}')$$),
          'RS002: user_id must have 1 to 255 bytes, not 0', 'empty user');
SELECT is(refusal($$SELECT rowsync.upload('ann', '', '{"changes":[]}')$$),
          'RS002: source_id must have 1 to 255 bytes, not 0', 'empty source');
SELECT is(refusal($$SELECT rowsync.upload(repeat('é', 128), 'phone', '{"changes":[]}')$$),
          'RS002: user_id must have 1 to 255 bytes, not 256', 'user too long, in bytes');
SELECT is(refusal($$SELECT rowsync.upload('ann', repeat('x', 256), '{"changes":[]}')$$),
          'RS002: source_id must have 1 to 255 bytes, not 256', 'source too long');
SELECT is(up(repeat('u', 255), repeat('s', 255), change(1, 'INSERT', 'users', 'long', 0, '{"name":"x"}')),
          '1 applied 1', '255 bytes are fine');
SELECT is(up('O''Brien"; DROP TABLE app.users; --', '''', change(1, 'INSERT', 'users', 'q', 0, '{"name":"x"}')),
          '1 applied 1', 'quotes in names are only letters');

-- What is tolerated.
SELECT is(brief(rowsync.upload('ann', 'phone',
    '{"changes":[{"source_change_id":1,"schema":"app","table":"users","op":"INSERT","pk":"u1",'
    '"payload":{"name":"x"},"future":{"source_change_id":7,"a":[{"b":1}]}}],"more":[1,{"changes":[]}]}')::jsonb),
          '1 applied 1', 'unknown fields; no last_server_seq_seen, no server_version');
SELECT is(brief(rowsync.upload('ann', 'phone', E' \r\n\t{"changes" : [ ] }\n')::jsonb), NULL, 'white space');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
SELECT finish();
