-- No search_path is set on these two: their C code names every object and operator in full, and the
-- triggers of the business tables must find what they find in any other session of the role.

CREATE FUNCTION rowsync.upload(user_id text, source_id text, request text)
    RETURNS text
    LANGUAGE C VOLATILE STRICT
    AS 'MODULE_PATHNAME', 'rowsync_upload';
COMMENT ON FUNCTION rowsync.upload(text, text, text) IS
'Applies the changes of one upload request (the JSON body of POST /sync/upload) in the scope of user_id and returns the answer''s JSON. '
'Business tables are written with the rights of the caller. RS001: the request is malformed; RS002: user_id or source_id is empty or longer than 255 bytes.';

CREATE FUNCTION rowsync.download(user_id text, source_id text, after bigint DEFAULT 0,
                                 page_limit integer DEFAULT 1000, until bigint DEFAULT NULL,
                                 include_self boolean DEFAULT false, schema_name text DEFAULT NULL)
    RETURNS text
    LANGUAGE C VOLATILE
    AS 'MODULE_PATHNAME', 'rowsync_download';
COMMENT ON FUNCTION rowsync.download(text, text, bigint, integer, bigint, boolean, text) IS
'One page of the changes of user_id''s scope in (after, until], as the JSON body of GET /sync/download. until NULL: up to the head. '
'page_limit: 1 to 10000 changes. include_self: also what source_id uploaded itself. schema_name: only tables of that schema. '
'RS002: a parameter is out of range; RS003: after lies below the floor of the scope.';
