/*
 * client.h - what the parts of bench/client share: databases of users with random keys, a server
 * that answers from memory, a clock.
 *
 * Each program prints its times in seconds, one JSON object a line.
 */
#ifndef BENCH_CLIENT_H
#define BENCH_CLIENT_H

#include <sqlite3.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zlib.h>

#include "rowsync.h"

/* Ends the program: a benchmark that went wrong has no figures. */
__attribute__((noreturn, format(printf, 1, 2))) static inline void
die(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

/* Seconds of a clock: CLOCK_MONOTONIC, or CLOCK_PROCESS_CPUTIME_ID where no other takes part. */
static inline double
now(clockid_t clock)
{
    struct timespec time;

    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

#define CPU CLOCK_PROCESS_CPUTIME_ID

/* Runs SQL of which nothing comes back. */
static inline void
run(sqlite3 *db, const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        die("%s: %s", sql, sqlite3_errmsg(db));
}

static inline sqlite3_stmt *
prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement;

    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK)
        die("%s: %s", sql, sqlite3_errmsg(db));
    return statement;
}

/* Runs a prepared statement that returns no row, and resets it. */
static inline void
step(sqlite3_stmt *statement)
{
    if (sqlite3_step(statement) != SQLITE_DONE)
        die("%s: %s", sqlite3_sql(statement), sqlite3_errmsg(sqlite3_db_handle(statement)));
    sqlite3_reset(statement);
}

static inline void
need(rowsync *client, rowsync_code code)
{
    if (code != ROWSYNC_OK)
        die("%s %s", rowsync_message(client), rowsync_hint(client));
}

/* The n-th key: a random uuid of version 4, the same in every run. */
static inline void
uuid(int n, char out[37])
{
    uint64_t high = (uint64_t)n * 2, low = high + 1;
    uint64_t *half;

    /* splitmix64, public domain by Sebastiano Vigna */
    for (half = &high;; half = &low)
    {
        *half = (*half + 1) * UINT64_C(0x9E3779B97F4A7C15);
        *half = (*half ^ (*half >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
        *half = (*half ^ (*half >> 27)) * UINT64_C(0x94D049BB133111EB);
        *half ^= *half >> 31;
        if (half == &low)
            break;
    }
    snprintf(out, 37, "%08x-%04x-4%03x-%04x-%012llx", (unsigned)(high >> 32),
             (unsigned)(high >> 16) & 0xFFFF, (unsigned)high & 0xFFF,
             (unsigned)(low >> 48 & 0x3FFF) | 0x8000,
             (unsigned long long)(low & UINT64_C(0xFFFFFFFFFFFF)));
}

/* A new database with an empty table of users, as an app on a device would open it. */
static inline sqlite3 *
create(const char *path, int unique)
{
    char sql[512];
    sqlite3 *db;

    if (sqlite3_open(path, &db) != SQLITE_OK)
        die("%s: %s", path, sqlite3_errmsg(db));
    run(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON");
    snprintf(sql, sizeof(sql),
             "CREATE TABLE users (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL,"
             " email TEXT NOT NULL%s, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL)",
             unique ? " UNIQUE" : "");
    run(db, sql);
    return db;
}

/* A user's row as the programs write it; `n` tells one from another. */
typedef struct User
{
    char id[37];
    char name[40];
    char email[40];
} User;

static inline User *
make_users(int count)
{
    User *users = calloc((size_t)count, sizeof(*users));
    int n;

    if (users == NULL)
        die("out of memory");
    for (n = 0; n < count; n++)
    {
        uuid(n, users[n].id);
        snprintf(users[n].name, sizeof(users[n].name), "User %d of the benchmark", n);
        snprintf(users[n].email, sizeof(users[n].email), "user%d@bench.example", n);
    }
    return users;
}

#define INSERT_USER "INSERT INTO users VALUES (?1, ?2, ?3, 1, 1)"

/* Gives the table its first users. */
static inline void
fill(sqlite3 *db, const User *users, int count)
{
    sqlite3_stmt *statement = prepare(db, INSERT_USER);
    int n;

    run(db, "BEGIN");
    for (n = 0; n < count; n++)
    {
        sqlite3_bind_text(statement, 1, users[n].id, -1, SQLITE_STATIC);
        sqlite3_bind_text(statement, 2, users[n].name, -1, SQLITE_STATIC);
        sqlite3_bind_text(statement, 3, users[n].email, -1, SQLITE_STATIC);
        step(statement);
    }
    run(db, "COMMIT");
    sqlite3_finalize(statement);
}

/* A server that has nothing and takes every change. `spent` is its own time, in seconds. */
typedef struct Server
{
    int64_t seq;
    double entered; /* when it was last asked */
    double spent;
    char *request;
    size_t request_size;
    char *answer;
    size_t answer_size;
} Server;

/* Answers an upload: every change that it names is applied. */
static inline int
serve_upload(Server *server, const rowsync_request *request, rowsync_sink sink, void *sink_context)
{
    static const char member[] = "\"source_change_id\":";
    z_stream stream = {.next_in = (Bytef *)(uintptr_t)request->body,
                       .avail_in = (uInt)request->body_length};
    size_t length;
    const char *at;

    if (server->request == NULL)
    {
        server->request_size = 16u << 20;
        server->answer_size = 16u << 20;
        server->request = malloc(server->request_size);
        server->answer = malloc(server->answer_size);
    }
    stream.next_out = (Bytef *)server->request;
    stream.avail_out = (uInt)server->request_size - 1;
    if (*(const char *)request->body == '{')
    {
        memcpy(server->request, request->body, request->body_length);
        stream.total_out = request->body_length;
    }
    else if (inflateInit2(&stream, 31) != Z_OK || inflate(&stream, Z_FINISH) != Z_STREAM_END)
        die("the upload cannot be unpacked");
    else
        inflateEnd(&stream);
    server->request[stream.total_out] = '\0';
    length = (size_t)snprintf(server->answer, server->answer_size,
                              "{\"accepted\":true,\"highest_server_seq\":1,\"statuses\":[");
    for (at = server->request; (at = strstr(at, member)) != NULL;)
    {
        at += sizeof(member) - 1;
        length += (size_t)snprintf(server->answer + length, server->answer_size - length,
                                   "%s{\"source_change_id\":%lld,\"status\":\"applied\","
                                   "\"new_server_version\":%lld}",
                                   server->answer[length - 1] == '[' ? "" : ",", atoll(at),
                                   (long long)++server->seq);
    }
    length += (size_t)snprintf(server->answer + length, server->answer_size - length, "]}");
    return sink(sink_context, server->answer, length);
}

static inline rowsync_code
serve(void *context, const rowsync_request *request, rowsync_sink sink, void *sink_context,
      rowsync_response *response, const volatile int *cancelled)
{
    static const char nothing[] =
        "{\"changes\":[],\"has_more\":false,\"next_after\":0,\"window_until\":0}";
    Server *server = context;
    double began = now(CPU);
    int failed;

    (void)cancelled;
    server->entered = began;
    response->status = strstr(request->url, "/sync/snapshot") == NULL ? 200 : 404;
    response->retry_after = -1;
    failed = request->body != NULL ? serve_upload(server, request, sink, sink_context)
                                   : sink(sink_context, nothing, sizeof(nothing) - 1);
    server->spent += now(CPU) - began;
    return failed ? ROWSYNC_NOMEM : ROWSYNC_OK;
}

/* Tracks the users of a database and tells the server of them. */
static inline rowsync *
sync_first(sqlite3 *db, Server *server)
{
    rowsync_transport transport = {server, serve, NULL};
    rowsync_options options = {.transport = &transport};
    rowsync *client;

    if (rowsync_open(db, &options, &client) == ROWSYNC_NOMEM)
        die("out of memory");
    need(client, rowsync_init(client));
    need(client, rowsync_track(client, "users", NULL));
    need(client, rowsync_attach(client, "http://127.0.0.1:1", "ann", "bench"));
    need(client, rowsync_set_token(client, "token"));
    need(client, rowsync_sync(client, NULL, NULL));
    return client;
}

#endif
