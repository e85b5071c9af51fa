-- The table "Values" of protocol.md, both ways and to the bit: what a device sends is stored as that
-- value, what is stored travels as it should be written, and what travelled comes back as it was.
\ir include/helpers.sql
CREATE SCHEMA app;
CREATE TYPE app.colour AS ENUM ('red', 'light green');
CREATE DOMAIN app.word AS text CHECK (VALUE <> '');
CREATE DOMAIN app.deep AS app.word;
CREATE TYPE app.pair AS (a integer, b text);
CREATE TABLE app.vals (
    id text PRIMARY KEY, i2 smallint, i4 integer, i8 bigint, f4 real, f8 double precision, num numeric, num2 numeric(10, 2),
    flag boolean, txt text, vc varchar(20), ch char(5), e app.colour, w app.deep, u uuid, bin bytea, tstz timestamptz, ts timestamp,
    d date, tm time, tmz timetz, iv interval, js json, jb jsonb, ints integer[], texts text[], pr app.pair, rng int4range,
    ip inet, bits bit varying, stamps timestamptz[]);
SELECT rowsync.register_table('app.vals') > 0 AS registered \gset
-- A session with settings that would spoil it all, if they were heeded.
SET datestyle = 'German, DMY';
SET intervalstyle = 'postgres_verbose';
SET timezone = 'Asia/Kathmandu';
SET extra_float_digits = -5;
SET bytea_output = 'escape';
SET lc_monetary = 'C';
SELECT plan(204);

-- What of a row's latest payload stands behind a column, byte by byte.
CREATE FUNCTION t.wire(key text, col text) RETURNS text LANGUAGE sql AS $$
    SELECT substring(regexp_replace(l.payload, '^.*?"' || col || '":', '') FROM
                     '^("(?:[^"\\]|\\.)*"|\{.*?\}(?=,"|\}$)|\[.*?\](?=,"|\}$)|[^,}]*)')
    FROM rowsync.change_log AS l WHERE l.row_key = convert_to(key, 'UTF8') ORDER BY seq DESC LIMIT 1 $$;

-- The cases: column, the value in SQL, what travels; what else is accepted for it.
CREATE TABLE t.cases (n serial, col text, literal text, json text, also text[] DEFAULT '{}');
INSERT INTO t.cases (col, literal, json, also) VALUES
    ('i2', '-32768', '-32768', '{}'), ('i2', '32767', '32767', '{}'), ('i2', '0', '0', '{-0}'),
    ('i4', '-2147483648', '-2147483648', '{}'), ('i4', '2147483647', '2147483647', '{}'),
    ('i8', '-9223372036854775808', '-9223372036854775808', '{}'), ('i8', '9223372036854775807', '9223372036854775807', '{}'),
    ('i8', '9007199254740993', '9007199254740993', '{}'),
    ('f4', '0.1', '0.10000000149011612', '{0.1,1e-1}'), ('f4', '16777217', '16777216', '{16777216}'), ('f4', '3.4028235e38', '3.4028234663852886e+38', '{}'),
    ('f4', '1e-45', '1.401298464324817e-45', '{1e-45}'), ('f4', 'NaN', '"NaN"', '{}'), ('f4', '-Infinity', '"-Infinity"', '{}'),
    ('f8', '0.1', '0.1', '{0.10}'), ('f8', '0.30000000000000004', '0.30000000000000004', '{}'), ('f8', '1e300', '1e+300', '{1E300}'),
    ('f8', '5e-324', '5e-324', '{}'), ('f8', '1.7976931348623157e308', '1.7976931348623157e+308', '{}'), ('f8', '-0', '-0.0', '{-0}'),
    ('f8', '9007199254740993', '9.007199254740992e+15', '{}'), ('f8', 'NaN', '"NaN"', '{}'), ('f8', 'Infinity', '"Infinity"', '{}'),
    ('f8', '-Infinity', '"-Infinity"', '{}'), ('f8', '1', '1', '{1.0}'),
    ('num', '0', '"0"', '{0}'), ('num', '1.10', '"1.10"', '{1.10}'), ('num', '-0.000000000000000000000000001', '"-0.000000000000000000000000001"', '{}'),
    ('num', '123456789012345678901234567890.123456789', '"123456789012345678901234567890.123456789"', '{123456789012345678901234567890.123456789}'),
    ('num', 'NaN', '"NaN"', '{}'), ('num', 'Infinity', '"Infinity"', '{}'), ('num2', '7.5', '"7.50"', '{7.5}'),
    ('flag', 'true', 'true', '{1}'), ('flag', 'false', 'false', '{0}'),
    ('txt', '', '""', '{}'), ('txt', 'null', '"null"', '{}'), ('txt', E' "quoted" \\ back/slash \b\f\n\r\t \x01\x1f\x7f', '" \"quoted\" \\ back/slash \b\f\n\r\t \u0001\u001f' || E'\x7f"', '{}'),
    ('txt', 'héllo 日本 😀 e' || U&'\0301', '"héllo 日本 😀 e' || U&'\0301' || '"', ARRAY['"h\u00e9llo \u65e5\u672c \ud83d\ude00 e\u0301"']),
    ('txt', U&'\2028\FEFF\FFFD', '"' || U&'\2028\FEFF\FFFD' || '"', '{}'), ('txt', '\u0041', '"\\u0041"', '{}'),
    ('vc', 'twenty characters !!', '"twenty characters !!"', '{}'), ('ch', 'ab', '"ab   "', '{"\"ab\""}'),
    ('e', 'light green', '"light green"', '{}'), ('w', 'word', '"word"', '{}'),
    ('u', '550E8400-E29B-41D4-A716-446655440000', '"550e8400-e29b-41d4-a716-446655440000"',
     ARRAY['"550E8400-E29B-41D4-A716-446655440000"', '"550e8400e29b41d4a716446655440000"', '"VQ6EAOKbQdSnFkRmVUQAAA=="']),
    ('bin', '', '""', '{}'), ('bin', '\x00', '"AA=="', ARRAY['"\\x00"']), ('bin', '\x00ff10', '"AP8Q"', ARRAY['"\\x00FF10"']),
    ('bin', '\x' || repeat('0123456789abcdef', 20), '"' || translate(encode(decode(repeat('0123456789abcdef', 20), 'hex'), 'base64'), E'\n', '') || '"', '{}'),
    ('tstz', '2026-11-24 03:00:00.123456+00', '"2026-11-24T03:00:00.123456Z"', ARRAY['"2026-11-24T08:45:00.123456+05:45"', '"2026-11-24 03:00:00.123456Z"']),
    ('tstz', '1969-12-31 23:59:59.999999+00', '"1969-12-31T23:59:59.999999Z"', '{}'), ('tstz', '0044-03-15 12:00:00+00 BC', '"0044-03-15T12:00:00.000000Z BC"', '{}'),
    ('tstz', '294276-12-31 23:59:59.999999+00', '"294276-12-31T23:59:59.999999Z"', '{}'), ('tstz', '4714-11-24 00:00:00+00 BC', '"4714-11-24T00:00:00.000000Z BC"', '{}'),
    ('tstz', 'infinity', '"infinity"', '{}'), ('tstz', '-infinity', '"-infinity"', '{}'),
    ('ts', '2026-11-24 03:00:00', '"2026-11-24T03:00:00.000000"', ARRAY['"2026-11-24T03:00:00"', '"2026-11-24 03:00"']), ('ts', '10000-01-01 00:00:00', '"10000-01-01T00:00:00.000000"', '{}'),
    ('ts', '-infinity', '"-infinity"', '{}'),
    ('d', '2026-11-04', '"2026-11-04"', '{}'), ('d', '0001-01-01 BC', '"0001-01-01 BC"', '{}'), ('d', '5874897-12-31', '"5874897-12-31"', '{}'), ('d', 'infinity', '"infinity"', '{}'),
    ('tm', '23:59:59.999999', '"23:59:59.999999"', '{}'), ('tm', '24:00:00', '"24:00:00"', '{}'), ('tmz', '12:00:00.5+05:45', '"12:00:00.5+05:45"', '{}'),
    ('iv', '1 year 2 months -3 days 04:05:06.789', '"P1Y2M-3DT4H5M6.789S"', ARRAY['"1 year 2 months -3 days 4:05:06.789"']), ('iv', '0', '"PT0S"', '{}'),
    ('iv', '-178000000 years', '"P-178000000Y"', '{}'),
    ('js', '{"b":1,"a":[1.0,null,"x"],"b":2}', '{"b":1,"a":[1.0,null,"x"],"b":2}', '{}'), ('js', '"word"', '"word"', '{}'), ('js', '1.50', '1.50', '{}'), ('js', '[]', '[]', '{}'),
    ('jb', '{"b": 1, "a": 1.10}', '{"a": 1.10, "b": 1}', ARRAY['"{\"b\":1,\"a\":1.10}"']), ('jb', 'true', 'true', '{}'), ('jb', '[1, {"a": "\u00e9"}]', '[1, {"a": "é"}]', '{}'),
    ('ints', '{1,NULL,-3}', '"{1,NULL,-3}"', '{}'), ('texts', '{"a b","q\"q",NULL,""}', '"{\"a b\",\"q\\\"q\",NULL,\"\"}"', '{}'),
    ('pr', '(1,"a b")', '"(1,\"a b\")"', '{}'), ('rng', '[1,5)', '"[1,5)"', '{}'), ('ip', '10.0.0.1/8', '"10.0.0.1/8"', '{}'), ('bits', '10110', '"10110"', '{}'),
    ('stamps', '{"2026-11-24 03:00:00.5+00"}', '"{\"2026-11-24 03:00:00.5+00\"}"', '{}');

-- Server to device.
SET rowsync.scope = 'ann';
SET datestyle = 'ISO, YMD';
DO $$
DECLARE
    c record;
BEGIN
    FOR c IN SELECT * FROM t.cases LOOP
        EXECUTE format('INSERT INTO app.vals (id, %I) VALUES (%L, %L)', c.col, 's' || c.n, c.literal);
    END LOOP;
END $$;
SET datestyle = 'German, DMY';
UPDATE app.vals SET txt = txt;
SELECT is(wire('s' || n, col), json, format('%s %s travels', col, left(to_json(literal)::text, 40))) FROM t.cases ORDER BY n;

-- Device to server: what travels, and what else is accepted, is stored as the same value.
DO $$
DECLARE
    answer jsonb;
BEGIN
    SELECT answer('ann', 'phone', VARIADIC array_agg(change(1000 * a + n, 'INSERT', 'vals', concat('d', a, '.', n), 0, format('{%s:%s}', to_json(col), v)) ORDER BY n))
    INTO answer FROM t.cases, unnest(json || also) WITH ORDINALITY AS w(v, a);
    CREATE TABLE t.refused AS SELECT s FROM jsonb_array_elements(answer -> 'statuses') AS s WHERE s ->> 'status' <> 'applied';
END $$;
SELECT is_empty('SELECT s FROM t.refused', 'every form of every value is applied');
CREATE FUNCTION t.image(key text, col text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    image text;
BEGIN
    EXECUTE format('SELECT encode(record_send(ROW(%I)), ''hex'') FROM app.vals WHERE id = %L', col, key) INTO image;
    RETURN image;
END $$;
SELECT is(image('d1.' || n, col), image('s' || n, col), format('%s %s comes back as it was', col, left(to_json(literal)::text, 40))) FROM t.cases ORDER BY n;
SELECT is(image(concat('d', a, '.', n), col), image('s' || n, col), format('%s %s is accepted for %s', col, left(v, 40), left(to_json(literal)::text, 40)))
    FROM t.cases, unnest(also) WITH ORDINALITY AS w(v, b), LATERAL (SELECT b + 1 AS a) AS x ORDER BY n, b;

-- A value that came and is stored is no difference to the device.
SELECT is((SELECT array_agg(concat_ws(' ', col, literal)) FROM t.cases, LATERAL up('ann', 'phone', change(900000 + n, 'UPDATE', 'vals', 's' || n, 0, format('{%s:%s}', to_json(col), json))) AS a
           WHERE a NOT LIKE '%applied%'), NULL, 'what travelled, sent back, is what the row already is');

-- NULL.
SELECT is((SELECT payload FROM rowsync.change_log WHERE row_key = 's1' ORDER BY seq DESC LIMIT 1),
          '{"id":"s1","i2":-32768,' || (SELECT string_agg(format('"%s":null', attname), ',' ORDER BY attnum) FROM pg_attribute
              WHERE attrelid = 'app.vals'::regclass AND attnum > 2 AND attname <> '_rowsync_scope') || '}', 'NULL is null, in the order of the columns');
SELECT is(up('ann', 'phone', change(999999, 'UPDATE', 'vals', 'd1.1', 0, (SELECT '{' || string_agg(format('"%s":null', attname), ',') || '}' FROM pg_attribute
              WHERE attrelid = 'app.vals'::regclass AND attnum > 1 AND attname <> '_rowsync_scope'))) LIKE '999999 applied%', true, 'null is accepted for every type');
SELECT is((SELECT num_nulls(VARIADIC ARRAY[i2::text, i4::text, f8::text, num::text, flag::text, txt, u::text, bin::text, tstz::text, jb::text, ints::text, pr::text]) FROM app.vals WHERE id = 'd1.1'),
          12, 'and is NULL');

-- Large values.
SELECT is(up('ann', 'phone', change(1000001, 'INSERT', 'vals', 'big', 0, format('{"txt":"%s","bin":"%s"}', repeat('é', 5000000), repeat('AAAA', 2500000)))) LIKE '1000001 applied%', true, '10 MB of text and 7.5 MB of bytes');
SELECT is((SELECT row(md5(txt), octet_length(txt), octet_length(bin))::text FROM app.vals WHERE id = 'big'), (SELECT row(md5(repeat('é', 5000000)), 10000000, 7500000)::text), 'arrive whole');
SELECT is((SELECT length(rowsync.download('ann', 'tablet', l.seq - 1)) > 15000000 FROM rowsync.change_log AS l WHERE row_key = 'big'), true, 'and travel on');
SELECT is((SELECT (jsonb_path_query_first(rowsync.download('ann', 'tablet', l.seq - 1)::jsonb, '$.changes[0].payload.txt') #>> '{}') = repeat('é', 5000000) FROM rowsync.change_log AS l WHERE row_key = 'big'), true, 'unchanged');

-- Bytes within an array, whatever the session's setting.
CREATE TABLE app.blobs (id text PRIMARY KEY, parts bytea[]);
SELECT rowsync.register_table('app.blobs') > 0 AS registered \gset
SET rowsync.scope = 'ann';
SET bytea_output = 'escape';
INSERT INTO app.blobs VALUES ('b1', ARRAY['\x00ff'::bytea]);
RESET bytea_output;
SELECT is((SELECT payload::json ->> 'parts' FROM rowsync.change_log WHERE row_key = 'b1'), '{"\\x00ff"}', 'bytes in an array are hexadecimal');
SELECT finish();
