-- Event triggers, made once: what they run is replaced with the other functions.
CREATE EVENT TRIGGER _rowsync_alter ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE') EXECUTE FUNCTION rowsync._on_alter();
CREATE EVENT TRIGGER _rowsync_drop ON sql_drop EXECUTE FUNCTION rowsync._on_drop();
