-- Where in the log the changes of each upload lie, by the numbers that its source gave them: to find a
-- change that is sent again without an index of all numbers. The new changes of an upload share a row,
-- found by the highest of them: a source's numbers grow, so each such row speaks for all numbers above
-- the row before it, up to its own. A change that comes late, when the source has had a higher one
-- applied, has a row of its own.
CREATE TABLE rowsync.batch (
    scope_id          bigint  NOT NULL,
    highest_change_id bigint  NOT NULL,
    first_seq         bigint  NOT NULL,
    last_seq          bigint  NOT NULL,
    source_no         integer NOT NULL,
    late              boolean NOT NULL,
    CONSTRAINT batch_pkey PRIMARY KEY (scope_id, source_no, late, highest_change_id)
);

COMMENT ON TABLE rowsync.batch IS 'Where the changes of each upload lie in the change log';
COMMENT ON COLUMN rowsync.batch.scope_id IS 'Whose';
COMMENT ON COLUMN rowsync.batch.source_no IS 'Who uploaded (rowsync.source)';
COMMENT ON COLUMN rowsync.batch.late IS 'True for a single change that came after one with a higher number';
COMMENT ON COLUMN rowsync.batch.highest_change_id IS 'The highest source_change_id of these changes';
COMMENT ON COLUMN rowsync.batch.first_seq IS 'They lie in the log from here';
COMMENT ON COLUMN rowsync.batch.last_seq IS 'to here, among changes of the server';
