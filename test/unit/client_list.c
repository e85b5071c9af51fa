/*
 * client_list.c - the lists of what waits, as a program reads them.
 */
#include "client.h"

static char listed[4096];

/* Writes a row as name=value pairs; ends the list after as many rows as the context says. */
static int
take(void *context, int count, const char *const *names, const char *const *values)
{
    int *left = context;

    for (int i = 0; i < count; i++)
        snprintf(listed + strlen(listed), sizeof(listed) - strlen(listed), "%s=%s ", names[i],
                 values[i] != NULL ? values[i] : "NULL");
    strcat(listed, "\n");
    return --*left == 0;
}

/* A list as text; of at most so many rows. */
static const char *
list(rowsync *client, rowsync_list_kind which, int most)
{
    *listed = '\0';
    ok(rowsync_list(client, which, take, &most) == ROWSYNC_OK, "list %d", which);
    return listed;
}

int
main(void)
{
    sqlite3 *db;
    rowsync *client =
        open_client("CREATE TABLE note (id TEXT PRIMARY KEY NOT NULL, text)", NULL, &db);

    rowsync_track(client, "note", NULL);
    is(list(client, ROWSYNC_LIST_PENDING, 9), "", "nothing is pending");
    app(db, "INSERT INTO note VALUES ('a', 'x'), ('b', 'y')");
    is(list(client, ROWSYNC_LIST_PENDING, 9),
       "op=INSERT table_name=note pk=a base_version=0 payload={\"id\":\"a\",\"text\":\"x\"} \n"
       "op=INSERT table_name=note pk=b base_version=0 payload={\"id\":\"b\",\"text\":\"y\"} \n",
       "edits that no call has looked at yet");
    is(list(client, ROWSYNC_LIST_PENDING, 1),
       "op=INSERT table_name=note pk=a base_version=0 payload={\"id\":\"a\",\"text\":\"x\"} \n",
       "the callback ends the list");
    app(db, "BEGIN; DELETE FROM note WHERE id = 'a'");
    ok(strstr(list(client, ROWSYNC_LIST_PENDING, 9), "op=DELETE table_name=note pk=a") != NULL,
       "inside the app's transaction");
    app(db, "ROLLBACK");
    is(rows(db, "SELECT count(*) FROM _sync_dirty"), "2", "the library looks at the edits");
    app(db, "INSERT INTO _sync_rejected (table_id, pk, pk_text, change_id, op, base_version,"
            " changed, reason, message, payload, rejected_at) SELECT table_id, 'b', 'b', 1,"
            " 'INSERT', 0, -1, 'constraint', 'no b', '{}', 'now' FROM _sync_table");
    app(db, "INSERT INTO _sync_held SELECT table_id, 'a', 'a', 1, 7, 0, '{\"id\":\"a\"}',"
            " NULL, 0, 0 FROM _sync_table UNION ALL SELECT table_id, 'c', 'c', 2, 8, 0, "
            "'{\"id\":\"c\"}',"
            " 'CHECK', 0, 0 FROM _sync_table UNION ALL SELECT table_id, 'd', 'd', 0, 9, 0, '{}', "
            "NULL, 0, 0 FROM"
            " _sync_table");
    app(db, "INSERT INTO _sync_overwritten VALUES (1, 'note', 'e', 'UPDATE', 3, 4, '{}', 'then')");
    is(list(client, ROWSYNC_LIST_REJECTED, 9),
       "table_name=note pk=b op=INSERT reason=constraint message=no b details=NULL payload={}"
       " rejected_at=now \n",
       "dead letters");
    is(list(client, ROWSYNC_LIST_CONFLICTS, 9),
       "table_name=note pk=a base_version=0 op=INSERT"
       " local_payload={\"id\":\"a\",\"text\":\"x\"} server_version=7 server_deleted=0"
       " server_payload={\"id\":\"a\"} \n",
       "conflicts");
    is(list(client, ROWSYNC_LIST_HELD, 9),
       "table_name=note pk=c reason=CHECK server_version=8 server_deleted=0"
       " server_payload={\"id\":\"c\"} \n",
       "rows that cannot be stored, and not those that wait for an edit");
    is(list(client, ROWSYNC_LIST_OVERWRITTEN, 9),
       "table_name=note pk=e op=UPDATE base_version=3 server_version=4 payload={}"
       " overwritten_at=then \n",
       "lost edits");
    ok(rowsync_list(client, (rowsync_list_kind)5, take, NULL) == ROWSYNC_MISUSE, "no such list");
    ok(rowsync_list(client, ROWSYNC_LIST_PENDING, NULL, NULL) == ROWSYNC_MISUSE, "no callback");
    close_client(client, db);
    return done();
}
