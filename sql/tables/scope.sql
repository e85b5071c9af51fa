-- A scope orders and isolates: one row for each user. Its row is the lock under which changes get
-- their numbers. Updated by every upload, hence the free space for HOT updates.
CREATE TABLE rowsync.scope (
    scope_id bigint GENERATED ALWAYS AS IDENTITY,
    head     bigint NOT NULL DEFAULT 0,
    floor    bigint NOT NULL DEFAULT 0,
    epoch    bigint NOT NULL DEFAULT 1,
    name     text   NOT NULL COLLATE "C",
    epochs   bigint[] NOT NULL DEFAULT '{}',
    CONSTRAINT scope_pkey PRIMARY KEY (scope_id),
    CONSTRAINT scope_name_key UNIQUE (name)
) WITH (fillfactor = 50);

COMMENT ON TABLE rowsync.scope IS 'Units of isolation and of ordering, one for each user';
COMMENT ON COLUMN rowsync.scope.scope_id IS 'Short name of the scope in the other tables';
COMMENT ON COLUMN rowsync.scope.head IS 'Number of the latest change; 0 = none yet';
COMMENT ON COLUMN rowsync.scope.floor IS 'Changes up to here may have been pruned';
COMMENT ON COLUMN rowsync.scope.epoch IS 'Which log it is: another number when history may have been rewound by a restored backup. Microseconds since 1970, so that no two restores have the same';
COMMENT ON COLUMN rowsync.scope.name IS 'The user: the token''s sub, and the value of the scope column of business rows';
COMMENT ON COLUMN rowsync.scope.epochs IS 'Each epoch, followed by the head that it began with; the present one is the last';
