/* guc.h: settings of the extension. */
#ifndef ROWSYNC_GUC_H
#define ROWSYNC_GUC_H

/* Value of added scope columns for rows that name none; NULL or "" = none set. */
extern char *rowsync_scope;
/* More changes than this in one upload are answered with batch_too_large. */
extern int rowsync_max_changes;
/* A download page ends before it grows beyond this many kilobytes. */
extern int rowsync_page_size;

void rowsync_define_settings(void);

#endif
