-- Joined by make into rowsync--X.Y.sql and rowsync--A--B.sql. Run by CREATE and ALTER EXTENSION, never by
-- hand.
\echo Use "CREATE EXTENSION rowsync" to load this file. \quit

-- Nothing below may depend on what somebody put into another schema.
SET LOCAL search_path = pg_catalog, pg_temp;
