-- The notes app's table on the server. The app makes its own in SQLite. The extension and the role are
-- those of examples/business/postgres.sql.
CREATE TABLE public.notes (
    id uuid PRIMARY KEY,
    body text NOT NULL,
    done boolean NOT NULL DEFAULT false
);
SELECT rowsync.register_table('public.notes');
-- The gateway writes with the rights of the role that it connects as. Without these, what devices upload
-- is refused as `forbidden`.
GRANT SELECT, INSERT, UPDATE, DELETE ON public.notes TO business_gateway;
