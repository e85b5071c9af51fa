/*
 * gateway_tap.h: the little that a test program needs to print TAP.
 */
#ifndef ROWSYNC_TEST_GATEWAY_TAP_H
#define ROWSYNC_TEST_GATEWAY_TAP_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int tap_count;
static int tap_failed;

/* One test: passed or not, and what it was about. */
static void
ok(bool passed, const char *name)
{
    printf("%sok %d - %s\n", passed ? "" : "not ", ++tap_count, name);
    tap_failed += !passed;
}

/* Two strings must be equal; shows both where they are not. */
static void __attribute__((unused)) is(const char *got, const char *wanted, const char *name)
{
    bool equal = strcmp(got, wanted) == 0;

    ok(equal, name);
    if (!equal)
        printf("# got:    %s\n# wanted: %s\n", got, wanted);
}

/* The plan, and the program's exit status. */
static int
done(void)
{
    printf("1..%d\n", tap_count);
    return tap_failed != 0;
}

#endif
