-- What was refused, in numbers: the answers go to devices, and nobody at the server would see them. Written
-- only by an upload of which something was refused.
CREATE TABLE rowsync.refusal (
    scope_id      bigint      NOT NULL,
    refused       bigint      NOT NULL,
    first_refused timestamptz NOT NULL,
    last_refused  timestamptz NOT NULL,
    table_id      integer     NOT NULL,
    source_no     integer     NOT NULL,
    reason        text        NOT NULL COLLATE "C",
    message       text        NOT NULL,
    CONSTRAINT refusal_pkey PRIMARY KEY (scope_id, table_id, reason)
) WITH (fillfactor = 50);

COMMENT ON TABLE rowsync.refusal IS 'How many changes were refused, by scope, table and reason';
COMMENT ON COLUMN rowsync.refusal.scope_id IS 'Whose';
COMMENT ON COLUMN rowsync.refusal.refused IS 'So often; a change that is sent again counts again';
COMMENT ON COLUMN rowsync.refusal.first_refused IS 'When the first one was';
COMMENT ON COLUMN rowsync.refusal.last_refused IS 'When the last one was';
COMMENT ON COLUMN rowsync.refusal.table_id IS 'Of which table; 0: of none that is registered';
COMMENT ON COLUMN rowsync.refusal.source_no IS 'Who sent the last one';
COMMENT ON COLUMN rowsync.refusal.reason IS 'As devices are told it';
COMMENT ON COLUMN rowsync.refusal.message IS 'What the last one was told, and which rows it missed; of tables that are not registered, each that was told of, the latest first; at most 500 bytes of it';
