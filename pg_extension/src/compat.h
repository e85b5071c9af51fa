/*
 * compat.h: the only place that looks at PG_VERSION_NUM. Everything else is written against the
 * names defined here. PostgreSQL 15 and newer.
 */
#ifndef ROWSYNC_COMPAT_H
#define ROWSYNC_COMPAT_H

#include "postgres.h"

#include "access/tableam.h"
#include "common/jsonapi.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"

#if PG_VERSION_NUM >= 160000
typedef JsonParseErrorType RowsyncJsonAction;
#define ROWSYNC_JSON_ACTION_DONE return JSON_SUCCESS
#define rowsync_insert_index_entries(rri, slot, estate, update)                                    \
    ExecInsertIndexTuples(rri, slot, estate, update, false, NULL, NIL, false)
#define rowsync_owns_relation(relid) object_ownercheck(RelationRelationId, relid, GetUserId())
typedef TU_UpdateIndexes RowsyncIndexUpdate;
#define ROWSYNC_NEEDS_INDEX_UPDATE(u) ((u) != TU_None)
#else
typedef void RowsyncJsonAction;
#define ROWSYNC_JSON_ACTION_DONE return
#define rowsync_insert_index_entries(rri, slot, estate, update)                                    \
    ExecInsertIndexTuples(rri, slot, estate, update, false, NULL, NIL)
#define rowsync_owns_relation(relid) pg_class_ownercheck(relid, GetUserId())
typedef bool RowsyncIndexUpdate;
#define ROWSYNC_NEEDS_INDEX_UPDATE(u) (u)
#endif

#if PG_VERSION_NUM >= 170000
#define rowsync_make_json_lexer(text, len)                                                         \
    makeJsonLexContextCstringLen(NULL, text, len, PG_UTF8, true)
#else
#define rowsync_make_json_lexer(text, len) makeJsonLexContextCstringLen(text, len, PG_UTF8, true)
#endif

#endif
