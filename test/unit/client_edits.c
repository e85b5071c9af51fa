/*
 * client_edits.c - random statements of an app, with every OR clause, savepoints and rollbacks:
 * whatever differs from what the server has must be pending, and as it is.
 *
 *     client_edits [ROUNDS [SEED]]
 *
 * `shadow` holds what the server has. Some rows are pending without need (a mark that came to
 * nothing); none may be missing.
 */
#include "client.h"

#define STATEMENTS 40

static sqlite3 *db;
static rowsync *client;
static unsigned long long state;

/* A number below `limit`. */
static int
pick(int limit)
{
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (int)(state >> 33) % limit;
}

/* The kinds of tables that keys and rows live in differently. */
static const char *const tables[] = {
    "(id TEXT PRIMARY KEY, name TEXT COLLATE NOCASE, email TEXT UNIQUE, n)",
    "(id TEXT NOT NULL PRIMARY KEY, name TEXT COLLATE NOCASE, email TEXT UNIQUE, n)",
    "(id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, email TEXT, n, UNIQUE (email, n))",
    ("(id TEXT PRIMARY KEY, name TEXT COLLATE NOCASE, email TEXT COLLATE NOCASE UNIQUE, n)"
     " WITHOUT ROWID"),
    "(id BLOB PRIMARY KEY, name TEXT COLLATE NOCASE, email TEXT UNIQUE ON CONFLICT REPLACE, n)",
};
#define TABLES ((int)(sizeof(tables) / sizeof(*tables)))

/* #1 and #2 are keys, #3 an email, #4 a number. */
static const char *const statements[] = {
    "INSERT INTO users VALUES (#1, 'Ann', #3, #4)",
    "INSERT OR IGNORE INTO users VALUES (#1, 'Bob', #3, #4)",
    "INSERT OR REPLACE INTO users VALUES (#1, 'Cy', #3, #4)",
    "INSERT OR FAIL INTO users VALUES (#1, 'Di', #3, #4), (#2, 'Di', #3, #4)",
    "INSERT OR ROLLBACK INTO users VALUES (#1, 'Eve', #3, #4)",
    "INSERT INTO users VALUES (#1, 'Flo', #3, #4) ON CONFLICT (id) DO UPDATE SET n = #4",
    "INSERT INTO users VALUES (#1, 'Gus', #3, #4) ON CONFLICT DO NOTHING",
    "REPLACE INTO users SELECT #1, name, #3, n FROM users WHERE id = #2",
    "UPDATE users SET n = #4 WHERE id = #1",
    "UPDATE users SET name = upper(name)",
    "UPDATE users SET n = CAST(n AS TEXT) WHERE id = #1",
    "UPDATE users SET n = n + 0.0 WHERE id = #1",
    "UPDATE users SET n = n, name = name",
    "UPDATE OR IGNORE users SET email = #3",
    "UPDATE OR REPLACE users SET email = #3 WHERE id IN (#1, #2)",
    "UPDATE OR FAIL users SET email = #3, n = #4 WHERE id >= #1",
    "UPDATE users SET id = #2 WHERE id = #1",
    "UPDATE OR REPLACE users SET id = #2, n = #4 WHERE id = #1",
    "UPDATE OR IGNORE users SET id = #2",
    "DELETE FROM users WHERE id = #1",
    "DELETE FROM users WHERE n = #4",
    "DELETE FROM users",
    "BEGIN",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "RELEASE s",
    "COMMIT",
    "ROLLBACK",
};
#define KINDS ((int)(sizeof(statements) / sizeof(*statements)))

/* Every row that the query finds is one too many. */
static const char *const wrongs[][2] = {
    {"a row that differs is not pending",
     "SELECT id FROM (SELECT id, name COLLATE BINARY, email COLLATE BINARY, n, typeof(n) FROM users"
     " EXCEPT SELECT *, typeof(n) FROM shadow) WHERE id NOT IN (SELECT pk FROM _sync_edited)"},
    {"a row that is gone is not pending",
     "SELECT id FROM shadow WHERE id NOT IN (SELECT id FROM users) AND id NOT IN (SELECT pk FROM"
     " _sync_edited)"},
    {"the operation is wrong",
     "SELECT e.pk, p.op FROM _sync_pending p JOIN _sync_edited e ON p.pk_uuid = CASE typeof(e.pk)"
     " WHEN 'blob' THEN '\\x' || lower(hex(e.pk)) ELSE CAST(e.pk AS TEXT) END"
     " WHERE op <> CASE WHEN pk NOT IN (SELECT id FROM users) THEN 'DELETE'"
     " WHEN pk IN (SELECT id FROM shadow) THEN 'UPDATE' ELSE 'INSERT' END"},
    {"a changed column is not in the mask",
     "SELECT u.id FROM users u JOIN shadow s USING (id) JOIN _sync_dirty d ON d.pk = u.id"
     " WHERE ((u.name IS NOT s.name COLLATE BINARY) * 1 | (u.email IS NOT s.email COLLATE BINARY)"
     " * 2 | (u.n IS NOT s.n OR typeof(u.n) <> typeof(s.n)) * 4) & ~d.changed <> 0"},
    {"a change id is there twice",
     "SELECT change_id FROM _sync_dirty GROUP BY change_id HAVING count(*) > 1"},
    {"a deleted row lacks its content",
     "SELECT pk FROM _sync_dirty WHERE pk IN (SELECT id FROM shadow) AND pk NOT IN (SELECT id FROM"
     " users) AND old_row IS NULL"},
};

static const char pending[] =
    "SELECT group_concat(t, ';') FROM (SELECT op || pk_uuid || '@' || base_version || payload AS t"
    " FROM _sync_pending ORDER BY pk_uuid)";

/* The server takes everything. */
static void
settle(void)
{
    sqlite3_exec(db,
                 "DELETE FROM _sync_log; DELETE FROM _sync_dirty; DELETE FROM _sync_version;"
                 "DELETE FROM shadow; INSERT INTO shadow SELECT * FROM users;"
                 "INSERT INTO _sync_version SELECT 1, id, 7, 0 FROM users",
                 NULL, NULL, NULL);
}

/* Looks for something wrong; false and a word about it where there is. */
static bool
sound(void)
{
    char before[65536];
    size_t i;

    /* What the view shows does not depend on whether the log was folded. */
    snprintf(before, sizeof(before), "%s", rows(db, pending));
    for (i = 0; i < sizeof(wrongs) / sizeof(*wrongs); i++)
    {
        const char *found = rows(db, wrongs[i][1]);

        if (*found != '\0')
        {
            printf("# %s: %s\n", wrongs[i][0], found);
            return false;
        }
    }
    if (strcmp(before, rows(db, pending)) == 0)
        return true;
    printf("# folding changed what is pending:\n# %s\n# %s\n", before, rows(db, pending));
    return false;
}

/* Writes a statement with values of its own. */
static void
fill(char *out, size_t size, const char *statement, bool blob)
{
    char values[4][16];
    size_t length = 0;
    int i;

    for (i = 0; i < 2; i++)
        snprintf(values[i], sizeof(values[i]), blob ? "x'0%d'" : "%d", 1 + pick(6));
    snprintf(values[2], sizeof(values[2]), pick(4) == 0 ? "NULL" : "'%c@x'", "abcA"[pick(4)]);
    snprintf(values[3], sizeof(values[3]), "%d", pick(3));
    for (; *statement != '\0' && length < size - 1; statement++)
        if (*statement == '#')
            length +=
                (size_t)snprintf(out + length, size - length, "%s", values[*++statement - '1']);
        else
            out[length++] = *statement;
    out[length < size ? length : size - 1] = '\0';
}

/* One database and its statements; prints them where something is wrong. */
static bool
play(const char *columns, bool merge)
{
    rowsync_track_options options = {NULL, merge ? ROWSYNC_MERGE : ROWSYNC_SERVER_WINS, NULL};
    bool blob = strstr(columns, "id BLOB") != NULL, right = true;
    char history[STATEMENTS][256], sql[1024];
    int i, j;

    snprintf(sql, sizeof(sql), "CREATE TABLE users %s; CREATE TABLE shadow (id, name, email, n)",
             columns);
    client = open_client(sql, NULL, &db);
    if (rowsync_track(client, "users", &options) != ROWSYNC_OK)
        return false;
    for (i = 0; i < STATEMENTS && right; i++)
    {
        fill(history[i], sizeof(history[i]), statements[pick(KINDS)], blob);
        sqlite3_exec(db, history[i], NULL, NULL, NULL);
        if (sqlite3_get_autocommit(db) && pick(8) == 0)
        {
            settle();
            snprintf(history[i] + strlen(history[i]), 32, "; -- settled");
        }
        if (pick(3) == 0)
            right = sound();
    }
    for (j = 0; j < i && !right; j++)
        printf("# %s;\n", history[j]);
    sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    close_client(client, db);
    return right;
}

int
main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 200, round, i, wrong[TABLES] = {0};
    unsigned long long seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;

    for (round = 0; round < rounds; round++)
    {
        state = seed + (unsigned long long)round;
        pick(2);
        i = round % TABLES;
        if (!play(tables[i], pick(2) == 0))
        {
            printf("# seed %llu, CREATE TABLE users %s\n", seed + (unsigned long long)round,
                   tables[i]);
            wrong[i]++;
        }
    }
    for (i = 0; i < TABLES; i++)
        ok(wrong[i] == 0, "whatever differs is pending: users %s", tables[i]);
    return done();
}
