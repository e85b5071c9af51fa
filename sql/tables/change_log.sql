-- Every change of every scope. seq is dense in a scope and in commit order. prior_version links
-- the changes of one row to a chain: history and the question "who moved this row since" follow
-- it instead of searching. Columns lie in the order that wastes no padding.
CREATE TABLE rowsync.change_log (
    scope_id         bigint      NOT NULL,
    seq              bigint      NOT NULL,
    source_change_id bigint      NOT NULL,
    prior_version    bigint      NOT NULL,
    ts               timestamptz NOT NULL,
    table_id         integer     NOT NULL,
    source_no        integer     NOT NULL,
    content_crc      integer     NOT NULL,
    op               "char"      NOT NULL,
    row_key          bytea       NOT NULL,
    payload          text,
    CONSTRAINT change_log_pkey PRIMARY KEY (scope_id, seq)
);

COMMENT ON TABLE rowsync.change_log IS 'All changes, by scope, in commit order';
COMMENT ON COLUMN rowsync.change_log.scope_id IS 'Whose';
COMMENT ON COLUMN rowsync.change_log.seq IS 'Number of the change: server_id and server_version on the wire';
COMMENT ON COLUMN rowsync.change_log.ts IS 'When it was written';
COMMENT ON COLUMN rowsync.change_log.table_id IS 'Of which table';
COMMENT ON COLUMN rowsync.change_log.row_key IS 'As in rowsync.row_meta';
COMMENT ON COLUMN rowsync.change_log.source_change_id IS 'The source''s own number for the change; 0 for the server''s changes';
COMMENT ON COLUMN rowsync.change_log.prior_version IS 'seq of the row''s change before this one; 0 = none';
COMMENT ON COLUMN rowsync.change_log.source_no IS 'Who made the change (rowsync.source); 0 = the server';
COMMENT ON COLUMN rowsync.change_log.content_crc IS 'A checksum of what the change says, to tell it sent again from another one under its number; 0 for the server''s changes';
COMMENT ON COLUMN rowsync.change_log.op IS 'I, U or D';
COMMENT ON COLUMN rowsync.change_log.payload IS 'The row as it was stored, as JSON text; for D the row that went, where there was one';
