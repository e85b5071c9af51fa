-- pg_dump leaves out the data of an extension's tables unless told otherwise.
SELECT pg_catalog.pg_extension_config_dump('rowsync.scope', '');
SELECT pg_catalog.pg_extension_config_dump('rowsync.scope_scope_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('rowsync.source', '');
SELECT pg_catalog.pg_extension_config_dump('rowsync.synced_table', '');
SELECT pg_catalog.pg_extension_config_dump('rowsync.synced_table_table_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('rowsync.schema_change', '');
SELECT pg_catalog.pg_extension_config_dump('rowsync.row_meta', '');
SELECT pg_catalog.pg_extension_config_dump('rowsync.change_log', '');
SELECT pg_catalog.pg_extension_config_dump('rowsync.batch', '');
SELECT pg_catalog.pg_extension_config_dump('rowsync.refusal', '');
