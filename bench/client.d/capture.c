/*
 * capture.c - what the triggers add to the app's statements.
 *
 *     capture FOLDER ROUNDS ROWS UNIQUE
 *
 * Two databases that hold the same ROWS users, all of them known to the server; one has triggers.
 * Every phase runs on both, one after the other. UNIQUE 1 gives the users a second unique index.
 */
#include "client.h"

#include <unistd.h>

#define SINGLY 500 /* transactions of one statement */

static int rows;
static User *users;

typedef enum Kind
{
    KIND_INSERT,
    KIND_FIRST,
    KIND_LATER,
    KIND_DELETE,
    KINDS
} Kind;

static const char *const names[KINDS] = {"insert", "first update", "later update", "delete"};
static const char *const texts[KINDS] = {
    INSERT_USER,
    "UPDATE users SET name = ?2, updated_at = 2 WHERE id = ?1",
    "UPDATE users SET name = ?2, updated_at = 3 WHERE id = ?1",
    "DELETE FROM users WHERE id = ?1",
};

/* A database of this round. */
typedef struct Side
{
    char path[4096];
    sqlite3 *db;
    rowsync *client;
} Side;

/* Statements in one transaction. */
static int
in_one(void)
{
    return rows / 4;
}

/* Which row the i-th statement is about: each kind has its own, spread over the table. */
static int
victim(Kind kind, int singly, int i)
{
    int share = in_one() + SINGLY, at = (singly ? in_one() + i : i) * 7919 % share;

    return kind == KIND_INSERT ? rows + at : at * 2 + (kind == KIND_DELETE);
}

/* Binds a row to a statement of that kind; an update takes the name of a later one. */
static void
bind(sqlite3_stmt *statement, Kind kind, const User *user)
{
    sqlite3_bind_text(statement, 1, user->id, -1, SQLITE_STATIC);
    if (kind != KIND_DELETE)
        sqlite3_bind_text(statement, 2, user[kind].name, -1, SQLITE_STATIC);
    if (kind == KIND_INSERT)
        sqlite3_bind_text(statement, 3, user->email, -1, SQLITE_STATIC);
}

/* Seconds that the statements of one kind take. */
static double
phase(sqlite3 *db, Kind kind, int singly)
{
    sqlite3_stmt *statement = prepare(db, texts[kind]);
    int i, count = singly ? SINGLY : in_one();
    double took = 0;

    run(db, "PRAGMA wal_checkpoint(TRUNCATE)");
    took -= now(CPU);
    if (!singly)
        run(db, "BEGIN");
    for (i = 0; i < count; i++)
    {
        bind(statement, kind, &users[victim(kind, singly, i)]);
        step(statement);
    }
    if (!singly)
        run(db, "COMMIT");
    took += now(CPU);
    sqlite3_finalize(statement);
    return took;
}

/* Makes a database new; with a server it is tracked. */
static void
begin_side(Side *side, Server *server, int unique)
{
    unlink(side->path);
    side->db = create(side->path, unique);
    fill(side->db, users, rows);
    if (server != NULL)
        side->client = sync_first(side->db, server);
}

static void
end_side(Side *side)
{
    rowsync_close(side->client);
    if (sqlite3_close(side->db) != SQLITE_OK)
        die("a statement was left open");
    unlink(side->path);
}

int
main(int argc, char **argv)
{
    Side sides[2] = {{"", NULL, NULL}, {"", NULL, NULL}};
    Server server = {0};
    int rounds, round, unique, singly;
    Kind kind;

    if (argc != 5)
        die("usage: capture FOLDER ROUNDS ROWS UNIQUE");
    rounds = atoi(argv[2]);
    rows = atoi(argv[3]);
    unique = atoi(argv[4]);
    if (rows < SINGLY * 4)
        die("there must be %d rows at least", SINGLY * 4);
    users = make_users(rows * 2);
    snprintf(sides[0].path, sizeof(sides[0].path), "%s/bare.db", argv[1]);
    snprintf(sides[1].path, sizeof(sides[1].path), "%s/tracked.db", argv[1]);
    for (round = 0; round < rounds; round++)
    {
        begin_side(&sides[0], NULL, unique);
        begin_side(&sides[1], &server, unique);
        for (singly = 0; singly < 2; singly++)
            for (kind = 0; kind < KINDS; kind++)
            {
                double took[2];
                int first = round % 2;

                took[first] = phase(sides[first].db, kind, singly);
                took[!first] = phase(sides[!first].db, kind, singly);
                printf("{\"what\": \"%s\", \"singly\": %d, \"count\": %d, \"floor\": %.9f,"
                       " \"took\": %.9f}\n",
                       names[kind], singly, singly ? SINGLY : in_one(), took[0], took[1]);
                fflush(stdout);
            }
        end_side(&sides[0]);
        end_side(&sides[1]);
    }
    free(users);
    free(server.request);
    free(server.answer);
    return 0;
}
