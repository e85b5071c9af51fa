/*
 * decide.c: what becomes of one change, before anything is written.
 *
 * The rules are those of docs/protocol.md ("Rules that follow"). Versions come from row_meta, the
 * question who moved a row since comes from the chain of prior_version in the change log.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "lib/stringinfo.h"
#include "port/pg_crc32c.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "errors.h"
#include "miscadmin.h"
#include "payload.h"
#include "upload.h"

/*
 * The versions that a row had before this upload, latest first, as far as somebody asked: with many
 * changes of one row in a request, each link of its chain is read once.
 */
typedef struct VersionChain
{
    int64 *versions;
    int count;
    int room;
    int own;    /* so many of the latest came from the uploading source, one after the other */
    bool ended; /* with the row's first version, or where history is pruned */
} VersionChain;

/* Finds a version among those of a row; returns its place in the chain, or -1. */
static int
find_version(Upload *upload, RowState *row, int64 version)
{
    VersionChain *chain = row->chain;
    int first = 0;
    int last;

    if (chain == NULL)
    {
        chain = row->chain = palloc0(sizeof(VersionChain));
        chain->room = 4;
        chain->versions = palloc(chain->room * sizeof(int64));
        chain->versions[chain->count++] = row->stored_version;
    }
    while (!chain->ended && chain->versions[chain->count - 1] > version)
    {
        StoredChange stored;

        CHECK_FOR_INTERRUPTS();
        if (!changelog_read(upload->log, chain->versions[chain->count - 1], &stored))
        {
            chain->ended = true;
            break;
        }
        if (chain->own == chain->count - 1 && stored.source_no == upload->source.source_no)
            chain->own++;
        if (stored.payload != NULL)
            pfree(stored.payload);
        if (chain->count == chain->room)
        {
            chain->room *= 2;
            chain->versions = repalloc_huge(chain->versions, chain->room * sizeof(int64));
        }
        chain->versions[chain->count++] = stored.prior_version;
    }
    last = chain->count - 1;
    while (first < last)
    {
        int middle = first + (last - first) / 2;

        if (chain->versions[middle] > version)
            first = middle + 1;
        else
            last = middle;
    }
    return chain->versions[first] == version ? first : -1;
}

/*
 * Whether every change of the row after version base came from the uploading source. Where history
 * is pruned before it comes to base, what is left of it decides, if the source has read all that is
 * pruned: had somebody else moved the row in between, the source could have moved it on only by
 * what it made on that version, and base would be that one or a later one. Whoever has not read so
 * far may have been put back to an older state.
 */
static bool
moved_only_by_self(Upload *upload, Change *change, int64 base)
{
    RowState *row = change->row;
    VersionChain *chain;
    int place;

    /* What this very upload has appended is not in the table yet. */
    if (row->version != row->stored_version && !row->own)
        return false;
    place = find_version(upload, row, base);
    chain = row->chain;
    if (place >= 0)
        return place <= chain->own;
    if (!chain->ended || chain->versions[chain->count - 1] <= base || chain->own == 0 ||
        chain->own < chain->count - 1 || upload->request.last_server_seq_seen < upload->scope.floor)
        return false;
    /* It may have said what somebody else had written already, and not know all of that. */
    change->rewritten = true;
    return true;
}

/* Whether two JSON values, both as rowsync writes them, are the same. */
static bool
same_value(const JsonValue *a, const JsonValue *b)
{
    if (a == NULL || b == NULL)
        return (a == NULL || a->kind == JSON_NULL) && (b == NULL || b->kind == JSON_NULL);
    return a->kind == b->kind && a->len == b->len && memcmp(a->text, b->text, a->len) == 0;
}

/* Whether every column that was sent has the same value in the payload of a stored change. */
static bool
sent_equals(Change *change, const JsonMember *members, int nmembers)
{
    SyncedTable *table = change->table;
    int i = -1;

    while ((i = bms_next_member(change->apply.columns, i)) >= 0)
    {
        const JsonValue *there = payload_value(members, nmembers, &table->columns[i]);
        StringInfoData text;
        JsonMember *sent;
        int nsent;

        if (change->apply.nulls[i])
        {
            if (there != NULL && there->kind != JSON_NULL)
                return false;
            continue;
        }
        /* Both through the same writer and the same reader: equal values give equal bytes. */
        initStringInfo(&text);
        appendStringInfoString(&text, "{\"v\":");
        synced_table_append_value(&text, &table->columns[i], change->apply.values[i]);
        appendStringInfoChar(&text, '}');
        if (!request_parse_object(text.data, text.len, &sent, &nsent) ||
            !same_value(&sent[0].value, there))
            return false;
    }
    return true;
}

/*
 * Whether what was sent is what the stored row already says. If so, the log alone will learn of the
 * change: it must be known when it is sent again.
 */
static bool
says_what_is(Upload *upload, Change *change)
{
    StoredChange stored;
    JsonMember *members;
    int nmembers;

    if (!changelog_read_latest(upload->log, change->row, &stored) || stored.payload == NULL ||
        !request_parse_object(stored.payload, stored.payload_len, &members, &nmembers) ||
        !sent_equals(change, members, nmembers))
        return false;
    change->action = ACTION_LOG_ONLY;
    change->log_payload =
        (struct varlena *)cstring_to_text_with_len(stored.payload, stored.payload_len);
    return true;
}

/* Marks the columns in which two payloads of a row differ; false if one cannot be read. */
static bool
mark_differences(SyncedTable *table, const StoredChange *a, const StoredChange *b, bool *differs)
{
    JsonMember *left;
    JsonMember *right;
    int nleft;
    int nright;

    if (a->payload == NULL || b->payload == NULL ||
        !request_parse_object(a->payload, a->payload_len, &left, &nleft) ||
        !request_parse_object(b->payload, b->payload_len, &right, &nright))
        return false;
    for (int i = 0; i < table->ncolumns; i++)
    {
        SyncedColumn *column = &table->columns[i];

        differs[i] |=
            !same_value(payload_value(left, nleft, column), payload_value(right, nright, column));
    }
    return true;
}

/*
 * The columns in which the row differs from its version base because others than the uploading
 * source changed them, as a JSON array; NULL if history no longer tells. What the source did
 * itself, in a change whose answer was lost, is not held against it.
 */
static char *
changed_since(Upload *upload, Change *change, const StoredChange *current, int64 base)
{
    SyncedTable *table = change->table;
    bool *by_others = palloc0(table->ncolumns * sizeof(bool));
    bool *differs = palloc0(table->ncolumns * sizeof(bool));
    StoredChange newer = *current;
    StoredChange older;
    StringInfoData out;
    VersionChain *chain;
    int place;

    /* What this very upload has appended has no chain yet. */
    if (change->row->version != change->row->stored_version)
        return NULL;
    place = find_version(upload, change->row, base);
    chain = change->row->chain;
    for (int i = 1; i <= place; i++)
    {
        CHECK_FOR_INTERRUPTS();
        if (!changelog_read(upload->log, chain->versions[i], &older) ||
            (newer.source_no != upload->source.source_no &&
             !mark_differences(table, &newer, &older, by_others)))
            return NULL;
        newer = older;
    }
    if (place < 0 || !mark_differences(table, current, &newer, differs))
        return NULL;
    initStringInfo(&out);
    appendStringInfoChar(&out, '[');
    for (int i = 0; i < table->ncolumns; i++)
    {
        if (!by_others[i] || !differs[i])
            continue;
        if (out.len > 1)
            appendStringInfoChar(&out, ',');
        json_append_string(&out, table->columns[i].name, table->columns[i].name_len);
    }
    appendStringInfoChar(&out, ']');
    return out.data;
}

/* Answers a change with "conflict" and the row as the server has it. */
static void
conflict(Upload *upload, Change *change)
{
    RowState *row = change->row;
    StoredChange stored;

    change->status = STATUS_CONFLICT;
    change->server_version = row->version;
    change->server_deleted = row->deleted;
    if (row->version == 0 || row->deleted || !changelog_read_latest(upload->log, row, &stored))
        return;
    change->server_row = stored.payload;
    change->server_row_len = stored.payload_len;
    change->server_changed =
        changed_since(upload, change, &stored, change->request->server_version);
}

/*
 * A reference of several columns, some of which an UPDATE leaves as they are: those come from the
 * stored row. Without this a part of a reference could be aimed at a row of another scope.
 */
static void
complete_parents(Upload *upload, Change *change)
{
    SyncedTable *table = change->table;
    StoredChange stored;
    JsonMember *members = NULL;
    int nmembers = 0;

    for (int r = 0; r < table->nreferences; r++)
    {
        SyncedReference *reference = &table->references[r];
        const JsonValue *parts[INDEX_MAX_KEYS];
        SyncedTable *parent;
        int given = 0;

        for (int i = 0; i < reference->nkeys; i++)
            given += change->given[reference->columns[i]] != NULL;
        parent = registry_find_relid(reference->parent_relid);
        if (given == 0 || given == reference->nkeys || parent == NULL)
            continue;
        if (members == NULL &&
            (!changelog_read_latest(upload->log, change->row, &stored) || stored.payload == NULL ||
             !request_parse_object(stored.payload, stored.payload_len, &members, &nmembers)))
        {
            change_refuse(change, REASON_INTERNAL_ERROR, "the stored row cannot be read", NULL);
            return;
        }
        for (int i = 0; i < reference->nkeys; i++)
        {
            static const JsonValue json_null = {JSON_NULL, 4, "null"};
            SyncedColumn *column = &table->columns[reference->columns[i]];

            parts[i] = change->given[reference->columns[i]];
            if (parts[i] == NULL)
                parts[i] = payload_value(members, nmembers, column);
            if (parts[i] == NULL)
                parts[i] = &json_null;
        }
        (void)change_add_parent(change, reference, parent, parts);
    }
}

/*
 * A checksum of what a change says, the same on every machine: of its kind, its key and the values
 * that it gives, in whatever order and layout they were written. The version that it was made on is
 * not part of it: a client may move that when it sends the change again.
 */
uint32
change_content_crc(const Change *change)
{
    const RequestChange *request = change->request;
    bool deletes = request->op == 'D';
    uint32 sum = 0;
    pg_crc32c crc;

    for (int i = 0; i < request->nmembers && !deletes; i++)
    {
        const JsonMember *member = &request->members[i];

        INIT_CRC32C(crc);
        COMP_CRC32C(crc, member->name, member->name_len + 1);
        COMP_CRC32C(crc, member->value.text, member->value.len);
        FIN_CRC32C(crc);
        /* A sum knows no order; mixed, for a CRC is linear: values that were swapped would cancel.
         */
        sum += murmurhash32(crc);
    }
    INIT_CRC32C(crc);
    COMP_CRC32C(crc, deletes ? "D" : "W", 1);
    COMP_CRC32C(crc, request->pk.text, request->pk.len);
    FIN_CRC32C(crc);
    return sum + crc;
}

/*
 * Answers a change whose number is known. Sent again, it is answered as it was then: with the row
 * where that differs from what was sent, for the first answer may never have arrived. But a device
 * that was put back to an older state gives numbers once more: what is of another row, or neither
 * written as it was nor says what came of it, is another change, and must not be lost in silence.
 * A table that was unregistered and registered again has another number, perhaps keys of another
 * type, and no history from before: what was sent before is told what the row is now.
 */
void
change_answer_again(Upload *upload, Change *change, const KnownChange *known)
{
    int64 seq = known->seq;
    bool same_table = known->table_id == change->table->table_id;
    StoredChange stored;
    StoredChange prior;
    JsonMember *now = NULL;
    JsonMember *then = NULL;
    int nnow = 0;
    int nthen = 0;
    bool same;

    if (same_table ? !known->same_key : registry_find_id(known->table_id) != NULL)
    {
        change_refuse(change, REASON_BAD_PAYLOAD,
                      "source_change_id was used before, for a change of another row", NULL);
        return;
    }
    if (!changelog_read(upload->log, seq, &stored) ||
        (stored.op != 'D' &&
         !request_parse_object(stored.payload, stored.payload_len, &now, &nnow)))
        ereport(ERROR, (errcode(ROWSYNC_DAMAGED),
                        errmsg("change " INT64_FORMAT " of the log cannot be read", seq)));
    same = known->same_key && (stored.op == 'D') == (change->request->op == 'D') &&
           (stored.op == 'D' || sent_equals(change, now, nnow));
    if (!same && stored.content_crc != change_content_crc(change))
    {
        change_refuse(change, REASON_BAD_PAYLOAD,
                      "source_change_id was used before, for other content", NULL);
        return;
    }
    if (!same_table)
    {
        change_answer_pruned(upload, change);
        return;
    }
    change->status = STATUS_APPLIED;
    change->version = seq;
    if (stored.op == 'D')
        return;
    /* It may have said what was there already, made on a version before: see change_decide. */
    same = same && !change->rewritten &&
           (stored.prior_version == change->request->server_version ||
            bms_num_members(change->apply.columns) == change->table->ncolumns);
    if (stored.op == 'U' && changelog_read(upload->log, stored.prior_version, &prior) &&
        prior.payload != NULL)
        (void)request_parse_object(prior.payload, prior.payload_len, &then, &nthen);
    for (int i = 0; same && i < change->table->ncolumns; i++)
    {
        SyncedColumn *column = &change->table->columns[i];

        if (!bms_is_member(i, change->apply.columns))
            same = same_value(payload_value(now, nnow, column), payload_value(then, nthen, column));
    }
    if (same)
        return;
    change->tells_row = true;
    change->server_row = stored.payload;
    change->server_row_len = stored.payload_len;
    change->server_version = seq;
}

/*
 * Answers a change that was applied before and is no longer in the row's history. What the row has
 * become is all there is to tell, and must be told with its version: the device may hold the old
 * content. Of a row whose tombstone is pruned too, it is told that it is gone as of now.
 */
void
change_answer_pruned(Upload *upload, Change *change)
{
    RowState *row = changelog_row(upload->log, change->table->table_id, change->key);
    StoredChange stored;

    changelog_confirm(upload->log, row);
    change->status = STATUS_APPLIED;
    change->version = change->server_version = row->version > 0 ? row->version : upload->scope.head;
    change->server_deleted = row->deleted;
    change->tells_row = true;
    if (!row->deleted && changelog_read_latest(upload->log, row, &stored))
    {
        change->server_row = stored.payload;
        change->server_row_len = stored.payload_len;
    }
}

/*
 * An identity column that is always generated can be given a value by INSERT, not by UPDATE: it is
 * left as it is, and the device told.
 */
static void
leave_identity(Change *change)
{
    for (int i = 0; i < change->table->ncolumns; i++)
    {
        SyncedColumn *column = &change->table->columns[i];

        if (column->identity_always && !column->is_key && change->given[i] != NULL)
        {
            change->apply.columns = bms_del_member(change->apply.columns, i);
            change->rewritten = true;
        }
    }
}

/*
 * Decides what a resolved change does, from the state of its row as of now: sets status, or leaves
 * it open with the action and the apply kind set.
 */
void
change_decide(Upload *upload, Change *change)
{
    RowState *row = change->row;
    int64 base = change->request->server_version;
    bool live = !row->deleted;

    if (change->request->op == 'D')
    {
        change->log_op = 'D';
        if (!live)
            change->action = ACTION_LOG_ONLY;
        else if (base == row->version || moved_only_by_self(upload, change, base))
        {
            change->action = ACTION_WRITE;
            change->apply.kind = APPLY_DELETE;
        }
        else
            conflict(upload, change);
        return;
    }

    change->action = ACTION_WRITE;
    change->apply.kind = live ? APPLY_UPDATE : APPLY_INSERT;
    change->log_op = live ? 'U' : 'I';
    if (live)
        leave_identity(change);
    if (base != row->version && !(row->version > 0 && moved_only_by_self(upload, change, base)))
    {
        if (!live || !says_what_is(upload, change))
            conflict(upload, change);
        else
            /* What others changed in the columns that were not sent, the device does not know. */
            change->differs = bms_num_members(change->apply.columns) < change->table->ncolumns;
    }
    else if (live && bms_num_members(change->apply.columns) == change->table->nkeys)
        (void)says_what_is(upload, change);
    else if (live)
        complete_parents(upload, change);
}
