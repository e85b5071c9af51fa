/*
 * client_memory.h - memory that is counted, and that runs out where a test wants it to: that of the
 * library, of SQLite and of libcurl.
 */
#ifndef TEST_CLIENT_MEMORY_H
#define TEST_CLIENT_MEMORY_H

#include <curl/curl.h>

#include "client.h"

/* What fails: the allocation after so many more, and with `lasting` all that follow. */
typedef struct Source
{
    long left; /* negative: nothing fails */
    bool lasting;
    bool failed; /* something did */
    long held;   /* allocations that were not given back */
} Source;

static Source of_library, of_sqlite, of_curl;

/* Shall this allocation fail? */
static inline bool
fails(Source *source)
{
    if (source->left < 0)
        return false;
    if (source->left > 0)
    {
        source->left--;
        return false;
    }
    if (!source->lasting)
        source->left = -1;
    source->failed = true;
    return true;
}

/* realloc() that may fail. */
static inline void *
failing_realloc(Source *source, void *pointer, size_t size)
{
    if (fails(source))
        return NULL;
    source->held += pointer == NULL;
    return realloc(pointer, size);
}

/* free() that counts. */
static inline void
counting_free(Source *source, void *pointer)
{
    source->held -= pointer != NULL;
    free(pointer);
}

static inline void *
library_realloc(void *pointer, size_t size)
{
    return failing_realloc(&of_library, pointer, size);
}

static inline void
library_free(void *pointer)
{
    counting_free(&of_library, pointer);
}

static inline void *
curl_malloc(size_t size)
{
    return failing_realloc(&of_curl, NULL, size > 0 ? size : 1);
}

static inline void *
curl_realloc(void *pointer, size_t size)
{
    return failing_realloc(&of_curl, pointer, size > 0 ? size : 1);
}

static inline void *
curl_calloc(size_t count, size_t size)
{
    void *pointer = curl_malloc(count * size);

    return pointer != NULL ? memset(pointer, 0, count * size) : NULL;
}

static inline char *
curl_strdup(const char *text)
{
    char *copy = curl_malloc(strlen(text) + 1);

    return copy != NULL ? strcpy(copy, text) : NULL;
}

static inline void
curl_release(void *pointer)
{
    counting_free(&of_curl, pointer);
}

static sqlite3_mem_methods sqlite_memory;

static inline void *
sqlite_malloc(int size)
{
    return fails(&of_sqlite) ? NULL : sqlite_memory.xMalloc(size);
}

static inline void *
sqlite_realloc(void *pointer, int size)
{
    return fails(&of_sqlite) ? NULL : sqlite_memory.xRealloc(pointer, size);
}

/* Puts the three in place, once, before anything is allocated. */
static inline void
take_over(void)
{
    static const rowsync_allocator allocator = {library_realloc, library_free};
    sqlite3_mem_methods mine;

    of_library.left = of_sqlite.left = of_curl.left = -1;
    rowsync_set_allocator(&allocator);
    sqlite3_config(SQLITE_CONFIG_GETMALLOC, &sqlite_memory);
    mine = sqlite_memory;
    mine.xMalloc = sqlite_malloc;
    mine.xRealloc = sqlite_realloc;
    /* No memory of its own for small things: they too shall fail. */
    if (sqlite3_config(SQLITE_CONFIG_MALLOC, &mine) != SQLITE_OK ||
        sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0) != SQLITE_OK ||
        curl_global_init_mem(CURL_GLOBAL_DEFAULT, curl_malloc, curl_release, curl_realloc,
                             curl_strdup, curl_calloc) != CURLE_OK)
        exit(1);
}

#endif
