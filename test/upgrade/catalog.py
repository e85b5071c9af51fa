"""What PostgreSQL's catalogs say of an installed extension, to compare two databases."""

# Everything is told by name: oids differ.
QUERIES = {
    "version": "SELECT extversion FROM pg_extension WHERE extname = 'rowsync'",
    "members": """
        SELECT pg_describe_object(classid, objid, 0) FROM pg_depend
         WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
           AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'rowsync')""",
    "others in the schema": """
        SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = 'rowsync'::regnamespace""",
    "functions": """
        SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid), p.proacl::text,
               obj_description(p.oid, 'pg_proc')
          FROM pg_proc p WHERE p.pronamespace = 'rowsync'::regnamespace""",
    "relations": """
        SELECT c.relname, c.relkind, c.relpersistence, c.relacl::text, c.reloptions::text,
               obj_description(c.oid, 'pg_class')
          FROM pg_class c WHERE c.relnamespace = 'rowsync'::regnamespace""",
    "columns": """
        SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               a.attidentity, a.attgenerated, a.attstorage, a.attcompression, a.attstattarget,
               a.attisdropped, a.attacl::text, a.attcollation::regcollation::text,
               pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
          LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
         WHERE c.relnamespace = 'rowsync'::regnamespace""",
    "views": """
        SELECT c.relname, pg_get_viewdef(c.oid) FROM pg_class c
         WHERE c.relnamespace = 'rowsync'::regnamespace AND c.relkind = 'v'""",
    "indexes": """
        SELECT pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisprimary FROM pg_index i
          JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = 'rowsync'::regnamespace""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
         WHERE connamespace = 'rowsync'::regnamespace""",
    "sequences": """
        SELECT seqrelid::regclass::text, seqtypid::regtype::text, seqstart, seqincrement, seqmax
          FROM pg_sequence JOIN pg_class c ON c.oid = seqrelid
         WHERE c.relnamespace = 'rowsync'::regnamespace""",
    "triggers": """
        SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger
         WHERE tgrelid::regclass::text LIKE 'rowsync.%'""",
    "event triggers": """
        SELECT evtname, evtevent, evtfoid::regprocedure::text, evtenabled, evttags::text
          FROM pg_event_trigger""",
    "types": """
        SELECT t.typname, t.typtype, t.typacl::text FROM pg_type t
         WHERE t.typnamespace = 'rowsync'::regnamespace""",
    "first privileges": """
        SELECT pg_describe_object(classoid, objoid, objsubid), privtype, initprivs::text
          FROM pg_init_privs WHERE privtype = 'e'""",
    "schema": """
        SELECT nspacl::text, obj_description(oid, 'pg_namespace') FROM pg_namespace
         WHERE nspname = 'rowsync'""",
    "dumped tables": """
        SELECT c.oid::regclass::text, u.condition
          FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS u (relation, condition)
          JOIN pg_class c ON c.oid = u.relation WHERE e.extname = 'rowsync'""",
}


def describe(database):
    """All of it, as a set of (what, line)."""
    return {(what, str(row)) for what, query in QUERIES.items() for row in database.rows(query)}
