/*
 * loadable_table.c - the lists as table-valued functions of the loadable extension:
 *
 *     SELECT table_name, pk, message FROM rowsync_rejected;
 *
 * Each is an eponymous virtual table over the listing's query, read anew by every scan.
 */
#include "loadable.h"

#include "listing.h"

/* What a list's module is registered with. */
typedef struct Source
{
    const Listing *listing;
    rowsync **slot; /* where the connection's client is */
} Source;

typedef struct ListingTable
{
    sqlite3_vtab base; /* SQLite's part: first */
    sqlite3 *db;
    const Source *source;
} ListingTable;

typedef struct ListingCursor
{
    sqlite3_vtab_cursor base; /* SQLite's part: first */
    sqlite3_stmt *rows;
    sqlite3_int64 place;
    bool ended;
} ListingCursor;

/* Declares the columns of the list that `source` is of. */
static int
connect_listing(sqlite3 *db, void *source, int count, const char *const *arguments,
                sqlite3_vtab **out, char **error)
{
    char *declaration =
        sqlite3_mprintf("CREATE TABLE x(%s)", ((const Source *)source)->listing->columns);
    ListingTable *table;
    int result;

    (void)count;
    (void)arguments;
    (void)error;
    if (declaration == NULL)
        return SQLITE_NOMEM;
    result = sqlite3_declare_vtab(db, declaration);
    sqlite3_free(declaration);
    if (result != SQLITE_OK)
        return result;
    if ((table = sqlite3_malloc(sizeof(*table))) == NULL)
        return SQLITE_NOMEM;
    *table = (ListingTable){.db = db, .source = source};
    *out = &table->base;
    return SQLITE_OK;
}

static int
disconnect_listing(sqlite3_vtab *table)
{
    sqlite3_free(table);
    return SQLITE_OK;
}

/* There is one way to read a list: from its beginning to its end. */
static int
plan_listing(sqlite3_vtab *table, sqlite3_index_info *plan)
{
    (void)table;
    plan->estimatedCost = 10000;
    plan->estimatedRows = 1000;
    return SQLITE_OK;
}

static int
open_listing(sqlite3_vtab *table, sqlite3_vtab_cursor **out)
{
    ListingCursor *cursor = sqlite3_malloc(sizeof(*cursor));

    (void)table;
    if (cursor == NULL)
        return SQLITE_NOMEM;
    *cursor = (ListingCursor){.ended = true};
    *out = &cursor->base;
    return SQLITE_OK;
}

/* No statement stays prepared: see finish() in loadable.c. */
static int
close_listing(sqlite3_vtab_cursor *base)
{
    rowsync *client = *((ListingTable *)base->pVtab)->source->slot;

    sqlite3_finalize(((ListingCursor *)base)->rows);
    sqlite3_free(base);
    if (client != NULL)
        rs_idle(client);
    return SQLITE_OK;
}

/* Moves to the next row, if there is one; an error leaves its message with the table. */
static int
next_row(sqlite3_vtab_cursor *base)
{
    ListingCursor *cursor = (ListingCursor *)base;
    int result = sqlite3_step(cursor->rows);

    cursor->place++;
    cursor->ended = result != SQLITE_ROW;
    if (result == SQLITE_ROW || result == SQLITE_DONE)
        return SQLITE_OK;
    sqlite3_free(base->pVtab->zErrMsg);
    base->pVtab->zErrMsg =
        sqlite3_mprintf("rowsync: %s", sqlite3_errmsg(((ListingTable *)base->pVtab)->db));
    return result;
}

/* Begins a scan. */
static int
start_scan(sqlite3_vtab_cursor *base, int index, const char *name, int count,
           sqlite3_value **values)
{
    ListingTable *table = (ListingTable *)base->pVtab;
    ListingCursor *cursor = (ListingCursor *)base;
    char *error = NULL;
    rowsync *client = loadable_client(table->db, table->source->slot, &error);
    int result;

    (void)index;
    (void)name;
    (void)count;
    (void)values;
    sqlite3_finalize(cursor->rows);
    cursor->rows = NULL;
    cursor->place = 0;
    if (client == NULL)
    {
        sqlite3_free(base->pVtab->zErrMsg);
        base->pVtab->zErrMsg = error;
        return error != NULL ? SQLITE_ERROR : SQLITE_NOMEM;
    }
    result = listing_prepare(client, table->source->listing->sql, &cursor->rows);
    if (result == SQLITE_OK)
        return next_row(base);
    sqlite3_free(base->pVtab->zErrMsg);
    base->pVtab->zErrMsg = sqlite3_mprintf("rowsync: %s: was rowsync_init() run on this database?",
                                           sqlite3_errmsg(table->db));
    return result;
}

static int
at_end(sqlite3_vtab_cursor *base)
{
    return ((ListingCursor *)base)->ended;
}

static int
get_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    sqlite3_result_value(context, sqlite3_column_value(((ListingCursor *)base)->rows, column));
    return SQLITE_OK;
}

static int
get_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out)
{
    *out = ((ListingCursor *)base)->place;
    return SQLITE_OK;
}

/* Without xCreate the tables are there for every connection, and cannot be made by hand. */
static const sqlite3_module module = {
    .xConnect = connect_listing,
    .xBestIndex = plan_listing,
    .xDisconnect = disconnect_listing,
    .xOpen = open_listing,
    .xClose = close_listing,
    .xFilter = start_scan,
    .xNext = next_row,
    .xEof = at_end,
    .xColumn = get_column,
    .xRowid = get_rowid,
};

/* Makes the lists known to a connection; returns SQLite's code. */
int
loadable_register_tables(sqlite3 *db, rowsync **slot)
{
    int result = SQLITE_OK;

    for (int i = 0; i < LISTINGS && result == SQLITE_OK; i++)
    {
        Source *source = sqlite3_malloc(sizeof(*source));

        if (source == NULL)
            return SQLITE_NOMEM;
        *source = (Source){&rs_listings[i], slot};
        result = sqlite3_create_module_v2(db, rs_listings[i].name, &module, source, sqlite3_free);
    }
    return result;
}
