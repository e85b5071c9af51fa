"""A made-up version 0.0 of the extension, from the present one: older in one thing of each kind.

The library is the present one under that number, so the tables have the present columns.
"""

import re

VERSION = "0.0"

# Pattern in the present SQL, and what stands there in version 0.0.
DIFFERENCES = [
    # Made once: the step has to change them.
    (r"\) WITH \(fillfactor = 50\);\n\nCOMMENT ON TABLE rowsync.scope ",
     ") WITH (fillfactor = 70);\n\nCOMMENT ON TABLE rowsync.scope "),
    (r"epoch    bigint NOT NULL DEFAULT 1", "epoch    bigint NOT NULL DEFAULT 0"),
    (r"CONSTRAINT source_pkey", "CONSTRAINT source_no_positive CHECK (source_no > 0),\n    CONSTRAINT source_pkey"),
    (r"(table_name text        NOT NULL,\n    columns    text\[\])      NOT NULL", r"\1"),
    (r"(COMMENT ON TABLE rowsync.change_log )", r"CREATE INDEX change_log_ts_idx ON rowsync.change_log (ts);\n\1"),
    (r"'I, U or D'", "'I or D'"),
    (r"SELECT pg_catalog.pg_extension_config_dump\('rowsync.schema_change', ''\);", ""),
    (r"CREATE EVENT TRIGGER _rowsync_drop .*?;", ""),
    # Replaced by itself, once the step has made room for other arguments and columns.
    (r"(CREATE OR REPLACE FUNCTION rowsync.verify\(user_id text DEFAULT NULL\))(.*?)\$\$;",
     r"\1\n    RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'sound' $$;"),
    (r"AS changes_behind", "AS behind"),
    (r"COMMENT ON COLUMN rowsync.source_lag.changes_behind .*?;", ""),
    (r"CREATE OR REPLACE VIEW rowsync.table_status.*?;(\nCOMMENT[^\n]*rowsync.table_status[^\n]*;)+", ""),
    (r", rowsync.table_status TO %s", " TO %s"),
    (r"CREATE OR REPLACE FUNCTION rowsync.declare_restored\(.*?\$\$;\nCOMMENT .*?;", ""),
    (r"\n *'rowsync.declare_restored\(text, timestamptz\)',", ""),
    (r"WHERE s.name = ANY \(user_ids\)", "WHERE s.name = ANY (user_ids) AND s.head > 0"),
    (r"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rowsync FROM PUBLIC;",
     "CREATE FUNCTION rowsync.obsolete() RETURNS integer LANGUAGE sql AS 'SELECT 1';\n"),
]


def make(present):
    """The SQL of version 0.0, from that of the present version."""
    for pattern, older in DIFFERENCES:
        present, count = re.subn(pattern, older, present, count=1, flags=re.DOTALL)
        assert count == 1, f"the present SQL no longer has {pattern}"
    return present
