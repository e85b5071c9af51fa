/*
 * cascade.c - rows with edits that a deletion takes along by ON DELETE CASCADE.
 *
 * Nobody deleted them: where the deletion is the server's, their edits are neither lost without a
 * trace nor sent as deletions.
 */
#include "client.h"

/* The edits that a deletion takes along. */
typedef struct Taken
{
    struct TakenRow
    {
        Table *table;
        Key key;
    } * rows;
    int count;
    int capacity;
} Taken;

/*
 * Writes the query for the marks of the rows that go along when a row of the table is deleted: from
 * parent to child along every ON DELETE CASCADE between tracked tables. Without any such reference
 * it finds nothing, at no cost.
 */
void
cascade_write(rowsync *client, Buffer *sql, const Table *table)
{
    sqlite3_stmt *statement = NULL;
    bool used = false, any = false;

    buffer_printf(sql, "WITH RECURSIVE gone(table_id, pk) AS (SELECT %lld, ?1",
                  (long long)table->id);
    if (rs_prepare(client,
                   "SELECT m.name, f.\"table\", f.seq, f.\"from\", coalesce(f.\"to\", (SELECT name"
                   " FROM pragma_table_xinfo(f.\"table\", 'main') WHERE pk = f.seq + 1))"
                   " FROM main.sqlite_schema m JOIN pragma_foreign_key_list(m.name, 'main') f"
                   " WHERE m.type = 'table' AND f.on_delete = 'CASCADE'"
                   " ORDER BY m.name, f.id, f.seq",
                   &statement) != ROWSYNC_OK)
        return;
    while (rs_row(client, statement))
    {
        if (sqlite3_column_int(statement, 2) == 0)
        {
            const Table *child = table_referred(client, rs_text(statement, 0));
            const Table *parent = table_referred(client, rs_text(statement, 1));

            used = child != NULL && parent != NULL && child->exists && parent->exists;
            any |= used;
            if (used)
            {
                buffer_printf(sql, " UNION SELECT %lld, ", (long long)child->id);
                sql_key(sql, child, "c");
                buffer_text(sql, " FROM gone g CROSS JOIN main.");
                buffer_name(sql, parent->name);
                buffer_printf(sql, " t ON g.table_id = %lld AND ", (long long)parent->id);
                sql_match(sql, parent, "g.pk");
                buffer_text(sql, " CROSS JOIN main.");
                buffer_name(sql, child->name);
                buffer_text(sql, " c ON ");
            }
        }
        else if (used)
            buffer_text(sql, " AND ");
        if (!used)
            continue;
        /* The parent's column first: its collation counts. */
        sql_field(sql, "t", rs_text(statement, 4));
        buffer_text(sql, " = ");
        sql_field(sql, "c", rs_text(statement, 3));
    }
    sqlite3_finalize(statement);
    buffer_printf(sql,
                  ") SELECT table_id, pk FROM gone CROSS JOIN _sync_dirty USING (table_id, pk)"
                  " WHERE %d AND NOT (table_id = %lld AND pk = ?1)",
                  any, (long long)table->id);
}

/* Are there any edits at all? */
static bool
any_edits(rowsync *client)
{
    sqlite3_stmt *statement = rs_statement(client, SQL_DIRTY_ANY);
    bool found = statement != NULL && rs_row(client, statement);

    return statement != NULL && rs_reset(client, statement) == ROWSYNC_OK && found;
}

/* Adds the row at hand. */
static rowsync_code
add(rowsync *client, sqlite3_stmt *statement, Taken *taken)
{
    struct TakenRow *row;

    if (taken->count == taken->capacity)
    {
        int capacity = taken->capacity > 0 ? taken->capacity * 2 : 16;
        struct TakenRow *grown = rs_realloc(taken->rows, (size_t)capacity * sizeof(*grown));

        if (grown == NULL)
            return rs_nomem(client);
        taken->rows = grown;
        taken->capacity = capacity;
    }
    row = &taken->rows[taken->count++];
    *row = (struct TakenRow){.table = table_by_id(client, sqlite3_column_int64(statement, 0))};
    return key_column(client, statement, 1, &row->key);
}

/* Finds the edits that the deletion of a row takes along. */
static rowsync_code
find(rowsync *client, Table *table, const Key *key, Taken *taken)
{
    sqlite3_stmt *statement = table_statement(client, table, TABLE_TAKES);

    if (statement == NULL)
        return client->code;
    key_bind(statement, 1, key);
    while (client->code == ROWSYNC_OK && rs_row(client, statement))
        add(client, statement, taken);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return client->code;
}

/*
 * Sees to the edits of the rows that the deletion of this one will take along. Where the app is to
 * decide on one of them and the deletion `may_wait`, *waits is set and nothing has changed; else
 * they end, and are kept in _sync_overwritten. Inside a transaction with capture off.
 */
rowsync_code
cascade_foresee(rowsync *client, Table *table, const Key *key, bool may_wait, bool *waits)
{
    Taken taken = {0};
    int i;

    *waits = false;
    if (rs_enforced(client) && any_edits(client))
        find(client, table, key, &taken);
    for (i = 0; i < taken.count && may_wait && !*waits && client->code == ROWSYNC_OK; i++)
        conflict_waits(client, taken.rows[i].table, &taken.rows[i].key, waits);
    for (i = 0; i < taken.count && !*waits && client->code == ROWSYNC_OK; i++)
        conflict_taken(client, taken.rows[i].table, &taken.rows[i].key);
    for (i = 0; i < taken.count; i++)
        key_free(&taken.rows[i].key);
    rs_free(taken.rows);
    return client->code;
}
