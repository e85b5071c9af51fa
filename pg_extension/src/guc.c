/*
 * guc.c: the settings rowsync.*. Each says its unit and range here, and in docs/sql.md.
 */
#include "postgres.h"

#include "utils/guc.h"

#include "guc.h"

char *rowsync_scope = NULL;
int rowsync_max_changes = 10000;
int rowsync_page_size = 8192;
/* Only read through SQL. */
static char *user_id = NULL;
static char *source_id = NULL;

/* Called once, when the library is loaded. */
void
rowsync_define_settings(void)
{
    DefineCustomStringVariable("rowsync.scope", "Scope (user) of rows that this session inserts.",
                               "Default of the scope columns that rowsync.register_table added.",
                               &rowsync_scope, NULL, PGC_USERSET, 0, NULL, NULL, NULL);
    DefineCustomStringVariable("rowsync.user_id", "User whose snapshot the gateway asks for.",
                               "COPY takes no parameters; the gateway sets this first.", &user_id,
                               NULL, PGC_USERSET, 0, NULL, NULL, NULL);
    DefineCustomStringVariable("rowsync.source_id", "Source for which the gateway asks.",
                               "COPY takes no parameters; the gateway sets this first.", &source_id,
                               NULL, PGC_USERSET, 0, NULL, NULL, NULL);
    DefineCustomIntVariable("rowsync.max_changes", "Most changes that one upload may have.",
                            "A larger upload is answered with batch_too_large and changes nothing.",
                            &rowsync_max_changes, 10000, 1, 1000000, PGC_SUSET, 0, NULL, NULL,
                            NULL);
    DefineCustomIntVariable("rowsync.page_size", "Size at which a download page ends.",
                            "A page always has at least one change, however large.",
                            &rowsync_page_size, 8192, 1, 524288, PGC_SUSET, GUC_UNIT_KB, NULL, NULL,
                            NULL);
    MarkGUCPrefixReserved("rowsync");
}
