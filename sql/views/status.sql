-- For people and dashboards; rowsync.grant_operator lets a role read them.

CREATE OR REPLACE FUNCTION rowsync._key_text(table_id integer, row_key bytea) RETURNS text
    LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'rowsync_key_text';
COMMENT ON FUNCTION rowsync._key_text(integer, bytea) IS 'A packed key as the pk that devices know; NULL if the table is no longer registered';

CREATE OR REPLACE VIEW rowsync.change AS
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
COMMENT ON COLUMN rowsync.change.scope IS 'The user';
COMMENT ON COLUMN rowsync.change.seq IS 'Number of the change: server_id and server_version on the wire';
COMMENT ON COLUMN rowsync.change.ts IS 'When it was written';
COMMENT ON COLUMN rowsync.change.table_name IS 'The table; null if it is no longer registered';
COMMENT ON COLUMN rowsync.change.key IS 'The pk as devices know it';
COMMENT ON COLUMN rowsync.change.op IS 'INSERT, UPDATE or DELETE';
COMMENT ON COLUMN rowsync.change.source_id IS 'Who made it; empty: the server';
COMMENT ON COLUMN rowsync.change.source_change_id IS 'The source''s own number for it; 0: the server';
COMMENT ON COLUMN rowsync.change.prior_version IS 'seq of the row''s change before this one; 0: none';
COMMENT ON COLUMN rowsync.change.payload IS 'The row as it was stored; of a DELETE the row that went';

CREATE OR REPLACE VIEW rowsync.row_version AS
SELECT s.name AS scope, t.relid AS table_name, rowsync._key_text(m.table_id, m.row_key) AS key,
       m.version, m.deleted
  FROM rowsync.row_meta AS m
  JOIN rowsync.scope AS s USING (scope_id)
  LEFT JOIN rowsync.synced_table AS t USING (table_id);
COMMENT ON VIEW rowsync.row_version IS 'The version of every row that syncs, tombstones included';
COMMENT ON COLUMN rowsync.row_version.scope IS 'The user';
COMMENT ON COLUMN rowsync.row_version.table_name IS 'The table';
COMMENT ON COLUMN rowsync.row_version.key IS 'The pk as devices know it';
COMMENT ON COLUMN rowsync.row_version.version IS 'seq of the row''s latest change';
COMMENT ON COLUMN rowsync.row_version.deleted IS 'True for a tombstone';

CREATE OR REPLACE VIEW rowsync.source_lag AS
SELECT s.name AS scope, d.source_id, d.first_seen, d.last_seen, d.last_download,
       (SELECT count(*) FROM rowsync.change_log AS l
         WHERE l.scope_id = d.scope_id AND l.seq > d.last_download AND l.source_no <> d.source_no) AS changes_behind
  FROM rowsync.source AS d
  JOIN rowsync.scope AS s USING (scope_id);
COMMENT ON VIEW rowsync.source_lag IS 'How far each source has read, and when it was last seen. A source notes its progress with the request after the one that it applied';
COMMENT ON COLUMN rowsync.source_lag.scope IS 'The user';
COMMENT ON COLUMN rowsync.source_lag.source_id IS 'The installation: the token''s did';
COMMENT ON COLUMN rowsync.source_lag.first_seen IS 'Its first request';
COMMENT ON COLUMN rowsync.source_lag.last_seen IS 'Its latest request, to the minute; -infinity after forget_source';
COMMENT ON COLUMN rowsync.source_lag.last_download IS 'It has read the change log up to here, as its latest request told';
COMMENT ON COLUMN rowsync.source_lag.changes_behind IS 'Changes of others in the log that it has not read. Counts them: name a scope on a large database';

CREATE OR REPLACE VIEW rowsync.scope_status AS
SELECT s.name AS scope, s.head, s.floor, s.epoch,
       (SELECT count(*) FROM rowsync.source AS d WHERE d.scope_id = s.scope_id) AS sources,
       m.live_rows, m.tombstones,
       (SELECT count(*) FROM rowsync.change_log AS l WHERE l.scope_id = s.scope_id) AS changes_kept
  FROM rowsync.scope AS s,
       LATERAL (SELECT count(*) FILTER (WHERE NOT m.deleted) AS live_rows,
                       count(*) FILTER (WHERE m.deleted) AS tombstones
                  FROM rowsync.row_meta AS m WHERE m.scope_id = s.scope_id) AS m;
COMMENT ON VIEW rowsync.scope_status IS 'Each scope in numbers. Counts rows: name a scope in WHERE on a large database';
COMMENT ON COLUMN rowsync.scope_status.scope IS 'The user';
COMMENT ON COLUMN rowsync.scope_status.head IS 'Number of the latest change';
COMMENT ON COLUMN rowsync.scope_status.floor IS 'Changes up to here may be pruned';
COMMENT ON COLUMN rowsync.scope_status.epoch IS 'Which log it is; another number after declare_restored';
COMMENT ON COLUMN rowsync.scope_status.sources IS 'Installations that have synced';
COMMENT ON COLUMN rowsync.scope_status.live_rows IS 'Rows that are there';
COMMENT ON COLUMN rowsync.scope_status.tombstones IS 'Deleted rows that are still remembered';
COMMENT ON COLUMN rowsync.scope_status.changes_kept IS 'Changes in the log';

CREATE OR REPLACE VIEW rowsync.table_status AS
SELECT t.relid AS table_name, t.upsert_order, t.schema_version, t.scope_column, t.key_columns,
       m.live_rows, m.tombstones
  FROM rowsync.synced_table AS t
  LEFT JOIN LATERAL (SELECT count(*) FILTER (WHERE NOT m.deleted) AS live_rows,
                            count(*) FILTER (WHERE m.deleted) AS tombstones
                       FROM rowsync.row_meta AS m WHERE m.table_id = t.table_id) AS m ON true;
COMMENT ON VIEW rowsync.table_status IS 'Each registered table in numbers. Counts all rows';
COMMENT ON COLUMN rowsync.table_status.table_name IS 'The table';
COMMENT ON COLUMN rowsync.table_status.upsert_order IS 'Parents first';
COMMENT ON COLUMN rowsync.table_status.schema_version IS 'The schema version in which its columns last changed';
COMMENT ON COLUMN rowsync.table_status.scope_column IS 'Holds each row''s user';
COMMENT ON COLUMN rowsync.table_status.key_columns IS 'The primary key';
COMMENT ON COLUMN rowsync.table_status.live_rows IS 'Rows that are there';
COMMENT ON COLUMN rowsync.table_status.tombstones IS 'Deleted rows that are still remembered';

CREATE OR REPLACE VIEW rowsync.refusal_count AS
SELECT s.name AS scope, t.relid AS table_name, f.reason, f.refused, f.first_refused, f.last_refused,
       d.source_id AS last_source_id, f.message AS last_message
  FROM rowsync.refusal AS f
  JOIN rowsync.scope AS s USING (scope_id)
  LEFT JOIN rowsync.synced_table AS t USING (table_id)
  LEFT JOIN rowsync.source AS d USING (scope_id, source_no);
COMMENT ON VIEW rowsync.refusal_count IS 'How many changes of devices were refused, by user, table and reason. Devices keep those that are refused for good as dead letters';
COMMENT ON COLUMN rowsync.refusal_count.scope IS 'The user';
COMMENT ON COLUMN rowsync.refusal_count.table_name IS 'The table; null for those that are not registered, which last_message names';
COMMENT ON COLUMN rowsync.refusal_count.reason IS 'As devices are told it: forbidden is most often a GRANT that was forgotten; fk_missing and internal_error are for the time being';
COMMENT ON COLUMN rowsync.refusal_count.refused IS 'So often; a change that is sent again counts again';
COMMENT ON COLUMN rowsync.refusal_count.first_refused IS 'When the first one was';
COMMENT ON COLUMN rowsync.refusal_count.last_refused IS 'When the last one was';
COMMENT ON COLUMN rowsync.refusal_count.last_source_id IS 'Who sent the last one';
COMMENT ON COLUMN rowsync.refusal_count.last_message IS 'What the last one was told; of tables that are not registered, each that was told of, the latest first';
