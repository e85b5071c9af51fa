/*
 * sanitize.c: settings of the sanitizers; linked into SANITIZE builds only.
 *
 * libh2o 2.2.5 has no way to free an event loop's message queue and its per-thread recycled
 * buffers.
 */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_options(void);
const char *__asan_default_options(void);

const char *
__lsan_default_suppressions(void)
{
    return "leak:libh2o-evloop";
}

const char *
__lsan_default_options(void)
{
    return "print_suppressions=0";
}

/* Freed memory is kept back for a while to catch its use, but not so much that growth is hidden. */
const char *
__asan_default_options(void)
{
    return "quarantine_size_mb=4:thread_local_quarantine_size_kb=64";
}
