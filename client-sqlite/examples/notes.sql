-- The notes app's table on the server. The app makes its own in SQLite.
CREATE TABLE public.notes (
    id uuid PRIMARY KEY,
    body text NOT NULL,
    done boolean NOT NULL DEFAULT false
);
SELECT rowsync.register_table('public.notes');
