/*
 * rowsync.c: what happens when the library is loaded, and nothing else.
 */
#include "postgres.h"

#include "fmgr.h"

#include "apply.h"
#include "capture.h"
#include "guc.h"
#include "registry.h"

PG_MODULE_MAGIC;

void _PG_init(void);

/* Defines the settings and registers the callbacks, once for each backend. */
void
_PG_init(void)
{
    rowsync_define_settings();
    registry_init();
    apply_init();
    capture_init();
}
