-- A source is one installation of an app. source_no is its short name in the change log; 0 is
-- kept for the server itself and has no row here.
CREATE TABLE rowsync.source (
    scope_id       bigint      NOT NULL,
    last_download  bigint      NOT NULL DEFAULT 0,
    last_change_id bigint      NOT NULL DEFAULT 0,
    last_upload    bigint      NOT NULL DEFAULT 0,
    first_seen     timestamptz NOT NULL,
    last_seen      timestamptz NOT NULL,
    source_no      integer     NOT NULL,
    source_id      text        NOT NULL COLLATE "C",
    pruned_change_ids int8multirange NOT NULL DEFAULT '{}',
    CONSTRAINT source_pkey PRIMARY KEY (scope_id, source_no),
    CONSTRAINT source_id_key UNIQUE (scope_id, source_id)
) WITH (fillfactor = 50);

COMMENT ON TABLE rowsync.source IS 'Installations that have synced, by scope';
COMMENT ON COLUMN rowsync.source.scope_id IS 'Whose';
COMMENT ON COLUMN rowsync.source.first_seen IS 'Its first request';
COMMENT ON COLUMN rowsync.source.last_seen IS 'Its latest request, to the minute';
COMMENT ON COLUMN rowsync.source.source_no IS 'Short name of the source in the change log, from 1';
COMMENT ON COLUMN rowsync.source.last_download IS 'This source has read the change log up to here';
COMMENT ON COLUMN rowsync.source.last_change_id IS 'Highest source_change_id that this source ever had applied';
COMMENT ON COLUMN rowsync.source.pruned_change_ids IS 'Numbers of applied changes that prune has removed from the change log';
COMMENT ON COLUMN rowsync.source.last_upload IS 'The head after its last upload: it made no change beyond';
COMMENT ON COLUMN rowsync.source.source_id IS 'The token''s did';
