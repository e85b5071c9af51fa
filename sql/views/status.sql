-- For people and dashboards. Readable by who may read the tables behind them.

CREATE FUNCTION rowsync._key_text(table_id integer, row_key bytea) RETURNS text
    LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'rowsync_key_text';
COMMENT ON FUNCTION rowsync._key_text(integer, bytea) IS 'A packed key as the pk that devices know; NULL if the table is no longer registered';

CREATE VIEW rowsync.change AS
SELECT s.name AS scope, l.seq, l.ts, t.relid AS table_name,
       rowsync._key_text(l.table_id, l.row_key) AS key,
       CASE l.op WHEN 'I' THEN 'INSERT' WHEN 'U' THEN 'UPDATE' ELSE 'DELETE' END AS op,
       coalesce(d.source_id, '') AS source_id, l.source_change_id, l.prior_version,
       l.payload::json AS payload
  FROM rowsync.change_log AS l
  JOIN rowsync.scope AS s USING (scope_id)
  LEFT JOIN rowsync.synced_table AS t USING (table_id)
  LEFT JOIN rowsync.source AS d USING (scope_id, source_no);
COMMENT ON VIEW rowsync.change IS 'The change log, readable: who changed which row when, and what it was then. source_id '''' is the server itself';

CREATE VIEW rowsync.row_version AS
SELECT s.name AS scope, t.relid AS table_name, rowsync._key_text(m.table_id, m.row_key) AS key,
       m.version, m.deleted
  FROM rowsync.row_meta AS m
  JOIN rowsync.scope AS s USING (scope_id)
  LEFT JOIN rowsync.synced_table AS t USING (table_id);
COMMENT ON VIEW rowsync.row_version IS 'The version of every row that syncs, tombstones included';

CREATE VIEW rowsync.source_lag AS
SELECT s.name AS scope, d.source_id, d.first_seen, d.last_seen, d.last_download,
       greatest(s.head - d.last_download, 0) AS changes_behind
  FROM rowsync.source AS d
  JOIN rowsync.scope AS s USING (scope_id);
COMMENT ON VIEW rowsync.source_lag IS 'How far each source has read, and when it was last seen. A source notes its progress with the request after the one that it applied';

CREATE VIEW rowsync.scope_status AS
SELECT s.name AS scope, s.head, s.floor, s.epoch,
       (SELECT count(*) FROM rowsync.source AS d WHERE d.scope_id = s.scope_id) AS sources,
       m.live_rows, m.tombstones,
       (SELECT count(*) FROM rowsync.change_log AS l WHERE l.scope_id = s.scope_id) AS changes_kept
  FROM rowsync.scope AS s,
       LATERAL (SELECT count(*) FILTER (WHERE NOT m.deleted) AS live_rows,
                       count(*) FILTER (WHERE m.deleted) AS tombstones
                  FROM rowsync.row_meta AS m WHERE m.scope_id = s.scope_id) AS m;
COMMENT ON VIEW rowsync.scope_status IS 'Each scope in numbers. Counts rows: name a scope in WHERE on a large database';

CREATE VIEW rowsync.table_status AS
SELECT t.relid AS table_name, t.upsert_order, t.schema_version, t.scope_column, t.key_columns,
       m.live_rows, m.tombstones
  FROM rowsync.synced_table AS t
  LEFT JOIN LATERAL (SELECT count(*) FILTER (WHERE NOT m.deleted) AS live_rows,
                            count(*) FILTER (WHERE m.deleted) AS tombstones
                       FROM rowsync.row_meta AS m WHERE m.table_id = t.table_id) AS m ON true;
COMMENT ON VIEW rowsync.table_status IS 'Each registered table in numbers. Counts all rows';
