/*
 * capture_buffer.c: the captured writes of a transaction, until they are flushed to the change log.
 *
 * A sequence of bytes that only grows at its end and is only cut at its end. So a subtransaction
 * that rolls back is a cut at the place where it began, and one that commits is nothing at all. The
 * first part lies in a temporary file once there is more than work_mem, the rest in memory.
 *
 * Each event is an EventHeader, the key, and the payload as a text datum, each padded to the
 * platform's alignment. What has been written to the log stays in the buffer below a mark, and the
 * mark moves back when the subtransaction that wrote it rolls back: nothing of an outer transaction
 * is lost with an inner one.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/buffile.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "capture_buffer.h"
#include "scope.h"

typedef struct EventHeader
{
    Size size; /* of the whole event */
    int32 table_id;
    int32 scope_no;
    CommandId command;
    int32 key_len;
    char op;
} EventHeader;

/* A scope's number in this transaction. */
typedef struct ScopeNumber
{
    char name[ROWSYNC_MAX_ID + 1]; /* hash key */
    int32 scope_no;
} ScopeNumber;

/* All of it lives in TopTransactionContext and is gone with the transaction. */
typedef struct CaptureBuffer
{
    int64 in_file; /* bytes before this position lie in file */
    int64 flushed; /* everything before is in the log */
    BufFile *file; /* NULL until needed */
    char *bytes;   /* what follows in_file */
    Size used;
    Size room;
    char *read; /* an event read back from the file */
    Size read_room;
    HTAB *numbers;
    const char **names; /* by scope_no */
    int nscopes;
    int last_scope; /* the one asked for last */
} CaptureBuffer;

static CaptureBuffer *buffer = NULL;

/* The transaction's buffer, made on first use. */
static CaptureBuffer *
get_buffer(void)
{
    if (buffer == NULL)
        buffer = MemoryContextAllocZero(TopTransactionContext, sizeof(CaptureBuffer));
    return buffer;
}

/*
 * Everything is in the log and nothing can be rolled back but all of it: the file is no longer
 * needed, and must be closed before the transaction's resources are.
 */
void
capture_close_file(void)
{
    if (buffer == NULL || buffer->file == NULL)
        return;
    BufFileClose(buffer->file);
    buffer->file = NULL;
    buffer->flushed = buffer->in_file = capture_end();
    buffer->used = 0;
}

/* The end of the transaction: the memory goes by itself, after an abort the file too. */
void
capture_forget(void)
{
    buffer = NULL;
}

/* The end of the buffer: events appended from now on lie behind it. */
int64
capture_end(void)
{
    return buffer ? buffer->in_file + (int64)buffer->used : 0;
}

/* Events before this position are in the log. */
int64
capture_flushed(void)
{
    return buffer ? buffer->flushed : 0;
}

/* Whether what is to be flushed does not fit into memory. */
bool
capture_spilled(void)
{
    return buffer && buffer->in_file > buffer->flushed;
}

/* Says that all events so far are in the change log, or need not be. */
void
capture_mark_flushed(void)
{
    if (buffer != NULL)
        buffer->flushed = capture_end();
}

/* Goes back to an earlier state: forgets the events behind end. */
void
capture_cut(int64 end, int64 flushed)
{
    if (buffer == NULL)
        return;
    if (end < buffer->in_file)
    {
        buffer->in_file = end;
        buffer->used = 0;
    }
    else
        buffer->used = (Size)(end - buffer->in_file);
    buffer->flushed = flushed;
}

/* Moves to a position of the file. */
static void
seek(int64 position)
{
    if (BufFileSeek(buffer->file, 0, position, SEEK_SET) != 0)
        ereport(ERROR, (errcode_for_file_access(),
                        errmsg("could not seek in the temporary file of captured changes: %m")));
}

/* Writes what is in memory to the file. */
static void
spill(void)
{
    if (buffer->file == NULL)
    {
        /* The file outlives the statement, and any subtransaction. */
        ResourceOwner owner = CurrentResourceOwner;
        MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

        CurrentResourceOwner = TopTransactionResourceOwner;
        buffer->file = BufFileCreateTemp(false);
        CurrentResourceOwner = owner;
        MemoryContextSwitchTo(old);
    }
    seek(buffer->in_file);
    BufFileWrite(buffer->file, buffer->bytes, buffer->used);
    buffer->in_file += (int64)buffer->used;
    buffer->used = 0;
}

/* Makes room for size more bytes in memory. */
static void
reserve(Size size)
{
    Size room = Max(buffer->room * 2, 8192);

    if (buffer->used > 0 && buffer->used + size > (Size)work_mem * 1024)
        spill();
    if (buffer->used + size <= buffer->room)
        return;
    while (room < buffer->used + size)
        room *= 2;
    buffer->bytes = buffer->bytes ? repalloc_huge(buffer->bytes, room)
                                  : MemoryContextAllocHuge(TopTransactionContext, room);
    buffer->room = room;
}

/* Appends a copy of an event. Its key and payload must not lie in the buffer. */
void
capture_append(const CaptureEvent *event)
{
    Size payload_size = VARSIZE(event->payload);
    Size size = MAXALIGN(sizeof(EventHeader)) + MAXALIGN(event->key.len) + MAXALIGN(payload_size);
    EventHeader *header;
    char *p;

    (void)get_buffer();
    reserve(size);
    header = (EventHeader *)(buffer->bytes + buffer->used);
    header->size = size;
    header->table_id = event->table_id;
    header->scope_no = event->scope_no;
    header->command = event->command;
    header->key_len = event->key.len;
    header->op = event->op;
    p = (char *)header + MAXALIGN(sizeof(EventHeader));
    memcpy(p, event->key.data, event->key.len);
    memcpy(p + MAXALIGN(event->key.len), event->payload, payload_size);
    buffer->used += size;
}

/* Brings the event at a position of the file into memory. */
static char *
read_back(int64 position)
{
    EventHeader header;

    seek(position);
    if (BufFileRead(buffer->file, &header, sizeof(header)) != sizeof(header))
        elog(ERROR, "could not read the temporary file of captured changes");
    if (header.size > buffer->read_room)
    {
        buffer->read = buffer->read ? repalloc_huge(buffer->read, header.size)
                                    : MemoryContextAllocHuge(TopTransactionContext, header.size);
        buffer->read_room = header.size;
    }
    memcpy(buffer->read, &header, sizeof(header));
    if (BufFileRead(buffer->file, buffer->read + sizeof(header), header.size - sizeof(header)) !=
        header.size - sizeof(header))
        elog(ERROR, "could not read the temporary file of captured changes");
    return buffer->read;
}

/*
 * Reads the event at *position and moves behind it; false at the end. The event points into the
 * buffer: valid until the next call, and until the buffer changes.
 */
bool
capture_next(int64 *position, CaptureEvent *event)
{
    EventHeader *header;
    char *p;

    if (*position >= capture_end())
        return false;
    if (*position < buffer->in_file)
        header = (EventHeader *)read_back(*position);
    else
        header = (EventHeader *)(buffer->bytes + (*position - buffer->in_file));
    p = (char *)header + MAXALIGN(sizeof(EventHeader));
    event->table_id = header->table_id;
    event->scope_no = header->scope_no;
    event->command = header->command;
    event->op = header->op;
    event->key.data = p;
    event->key.len = header->key_len;
    event->payload = (struct varlena *)(p + MAXALIGN(header->key_len));
    *position += (int64)header->size;
    return true;
}

/* The number of a scope in this transaction, from 0. RS002 if the name is too long. */
int32
capture_scope_no(const char *name)
{
    CaptureBuffer *buf = get_buffer();
    ScopeNumber *number;
    bool found;

    if (buf->nscopes > 0 && strcmp(buf->names[buf->last_scope], name) == 0)
        return buf->last_scope;
    check_id("a scope", name);
    if (buf->numbers == NULL)
    {
        HASHCTL control = {0};

        control.keysize = ROWSYNC_MAX_ID + 1;
        control.entrysize = sizeof(ScopeNumber);
        control.hcxt = TopTransactionContext;
        buf->numbers = hash_create("rowsync captured scopes", 16, &control,
                                   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
    }
    number = hash_search(buf->numbers, name, HASH_ENTER, &found);
    if (!found)
    {
        if ((buf->nscopes & (buf->nscopes - 1)) == 0)
        {
            Size room = Max(buf->nscopes * 2, 1) * sizeof(char *);

            buf->names = buf->names ? repalloc_huge(buf->names, room)
                                    : MemoryContextAlloc(TopTransactionContext, room);
        }
        buf->names[buf->nscopes] = number->name;
        number->scope_no = buf->nscopes++;
    }
    buf->last_scope = number->scope_no;
    return number->scope_no;
}

/* The name of a scope by its number. */
const char *
capture_scope_name(int32 scope_no)
{
    return buffer->names[scope_no];
}

/* How many scopes have a number. */
int32
capture_scope_count(void)
{
    return buffer ? buffer->nscopes : 0;
}
