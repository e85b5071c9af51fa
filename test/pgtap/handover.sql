-- Unique values that rows pass on to each other in one request: a list put into another order.
\ir include/helpers.sql
\ir include/app.sql
CREATE TABLE app.item (id text PRIMARY KEY, pos int UNIQUE, v int CHECK (v > 0));
CREATE TABLE app.slot (id text PRIMARY KEY, pos int UNIQUE DEFERRABLE);
SELECT plan(12);
SELECT rowsync.register_table('app.item') > 0, rowsync.register_table('app.slot') > 0 \g /dev/null

-- How many statuses of each kind an answer has.
CREATE FUNCTION brief_counts(answer jsonb) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(n || ' ' || status, ', ' ORDER BY status)
      FROM (SELECT s ->> 'status' AS status, count(*) AS n
              FROM jsonb_array_elements(answer -> 'statuses') AS s GROUP BY 1) AS c
$$;

-- A request that moves every one of n rows to the next position, in an order that follows no rule.
CREATE FUNCTION shift(tab text, first_id int, n int, extra text DEFAULT '') RETURNS text LANGUAGE sql AS $$
    SELECT brief_counts(answer('ann', 'phone', VARIADIC array_agg(
               change(first_id + i, 'UPDATE', tab, 'i' || i, i, format('{"pos":%s%s}', i + 1, extra))
               ORDER BY md5(i::text)))) FROM generate_series(1, n) AS i
$$;
-- Rows get their versions in this order, one request each.
SELECT count(up('ann', 'phone', change(i, 'INSERT', 'item', 'i' || i, 0, format('{"pos":%s,"v":1}', i))))
  FROM generate_series(1, 200) AS i \g /dev/null
SELECT count(up('bob', 'phone', change(i, 'INSERT', 'slot', 's' || i, 0, format('{"pos":%s}', i))))
  FROM generate_series(1, 3) AS i \g /dev/null

SELECT is(shift('item', 1000, 200), '200 applied', 'all rows move up by one');
SELECT is((SELECT string_agg(id, ' ' ORDER BY pos) FROM app.item WHERE pos BETWEEN 2 AND 5), 'i1 i2 i3 i4',
          'and stand where they should');
SELECT is(up('ann', 'phone', change(2001, 'UPDATE', 'item', 'i1', 0, '{"pos":1}'), change(2002, 'DELETE', 'item', 'i2', 0),
             change(2003, 'UPDATE', 'item', 'i3', 0, '{"pos":3}')) LIKE '%applied%applied%applied%', true,
          'a value that a deletion frees, too');
SELECT is(up('bob', 'phone', change(11, 'UPDATE', 'slot', 's1', 1, '{"pos":2}'), change(12, 'UPDATE', 'slot', 's2', 2, '{"pos":3}'),
             change(13, 'UPDATE', 'slot', 's3', 3, '{"pos":1}')) LIKE '%applied%applied%applied%', true,
          'a circle, where the constraint is deferrable');
SELECT is((SELECT string_agg(id, ' ' ORDER BY pos) FROM app.slot), 's3 s1 s2', 'which is as it should be');
SELECT is((SELECT count(up('cy', 'phone', change(i, 'INSERT', 'item', 'c' || i, 0, format('{"pos":%s,"v":1}', 1000 + i)))) FROM generate_series(1, 3) AS i), 3::bigint, 'three more');
SELECT is((SELECT string_agg(s ->> 'message', ' | ') FROM jsonb_array_elements(answer('cy', 'phone', change(11, 'UPDATE', 'item', 'c1', 0, '{"pos":1002}'),
             change(12, 'UPDATE', 'item', 'c2', 0, '{"pos":1001}'), change(13, 'UPDATE', 'item', 'c3', 0, '{"pos":1004}')) -> 'statuses') AS s),
          'duplicate key value violates unique constraint "item_pos_key": rows of this request exchange its values, which only a DEFERRABLE constraint allows | '
          'duplicate key value violates unique constraint "item_pos_key": rows of this request exchange its values, which only a DEFERRABLE constraint allows',
          'a circle where it is not deferrable: refused, and told why');
SELECT is(up('bob', 'phone', change(21, 'UPDATE', 'slot', 's1', 4, '{"pos":9}'), change(22, 'INSERT', 'slot', 's4', 0, '{"pos":2}'))
          LIKE '%applied%applied%', true, 'a new row takes what another gives up');

-- What no order is found for is tried there and back; a request that would go on for ever is cut short, and
-- what is left of it is done when it is sent again.
CREATE TABLE app.place (id text PRIMARY KEY, pos int, EXCLUDE (pos WITH =));
SELECT rowsync.register_table('app.place') > 0 \g /dev/null
SELECT is(brief_counts(answer('ann', 'phone', VARIADIC array_agg(change(5000 + i, 'INSERT', 'place', 'i' || i, 0, format('{"pos":%s}', i))))), '400 applied', 'places')
  FROM generate_series(1, 400) AS i;
CREATE TABLE t.answers (a jsonb);
CREATE FUNCTION t.send() RETURNS void LANGUAGE sql AS $$
    INSERT INTO t.answers SELECT answer('ann', 'phone', VARIADIC array_agg(change(6000 + i, 'UPDATE', 'place', 'i' || i, 0, format('{"pos":%s}', i + 1)) ORDER BY md5(i::text)))
      FROM generate_series(1, 400) AS i $$;
SELECT send() \g /dev/null
SELECT is((SELECT string_agg(DISTINCT concat_ws(' ', s ->> 'status', s #>> '{invalid,reason}', s #>> '{invalid,details,sqlstate}'), ', ') FROM t.answers, jsonb_array_elements(a -> 'statuses') AS s),
          'applied, invalid internal_error 54000', 'each pass to the next place, by an exclusion constraint, in no order: some are put off');
DO $$ BEGIN
    FOR n IN 1..9 LOOP
        EXIT WHEN (SELECT brief_counts(a) FROM t.answers) = '400 applied';
        DELETE FROM t.answers;
        PERFORM send();
    END LOOP;
END $$;
SELECT is((SELECT brief_counts(a) FROM t.answers), '400 applied', 'sent again, all are there');
SELECT is_empty('SELECT unsound()', 'log, versions and tables agree');
SELECT finish();
