-- upload and download set no search_path: they resolve no name, every request would pay for it, and the
-- triggers of the business tables must find what they find in any other session of the role.

CREATE OR REPLACE FUNCTION rowsync.upload(user_id text, source_id text, request text)
    RETURNS text
    LANGUAGE C VOLATILE STRICT
    AS 'MODULE_PATHNAME', 'rowsync_upload';
COMMENT ON FUNCTION rowsync.upload(text, text, text) IS
'Applies the changes of one upload request (the JSON body of POST /sync/upload) in the scope of user_id and returns the answer''s JSON. '
'Business tables are written with the rights of the caller. RS001: the request is malformed; RS002: user_id or source_id is empty or longer than 255 bytes.';

CREATE OR REPLACE FUNCTION rowsync.download(user_id text, source_id text, after bigint DEFAULT 0,
                                 page_limit integer DEFAULT 1000, until bigint DEFAULT NULL,
                                 include_self boolean DEFAULT false, schema_name text DEFAULT NULL)
    RETURNS text
    LANGUAGE C VOLATILE
    AS 'MODULE_PATHNAME', 'rowsync_download';
COMMENT ON FUNCTION rowsync.download(text, text, bigint, integer, bigint, boolean, text) IS
'One page of the changes of user_id''s scope in (after, until], as the JSON body of GET /sync/download. until NULL: up to the head. '
'page_limit: 1 to 10000 changes. include_self: also what source_id uploaded itself. schema_name: only tables of that schema. '
'RS002: a parameter is out of range; RS003: after lies below the floor of the scope.';

CREATE OR REPLACE FUNCTION rowsync.snapshot(user_id text, source_id text)
    RETURNS SETOF text
    LANGUAGE C STABLE STRICT ROWS 1000 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'rowsync_snapshot';
COMMENT ON FUNCTION rowsync.snapshot(text, text) IS
'The live rows of user_id''s scope as the body of GET /sync/snapshot, in chunks of whole lines. Use it in the target list of a query, where it streams in constant memory. RS002: an id is empty or too long.';

CREATE OR REPLACE FUNCTION rowsync.digest(user_id text, at bigint DEFAULT NULL)
    RETURNS text
    LANGUAGE C STABLE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'rowsync_digest';
COMMENT ON FUNCTION rowsync.digest(text, bigint) IS
'Digest of the rows of user_id''s scope that were live at position at of its log (NULL: at the head), as the JSON body of GET /sync/digest. RS002: at is negative; RS003: the history since is pruned.';

CREATE OR REPLACE FUNCTION rowsync.heads(user_ids text[])
    RETURNS TABLE (user_id text, head bigint)
    LANGUAGE SQL STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT s.name, s.head FROM rowsync.scope AS s WHERE s.name = ANY (user_ids) $$;
COMMENT ON FUNCTION rowsync.heads(text[]) IS
'Number of the latest change of each of these users that has a scope';
