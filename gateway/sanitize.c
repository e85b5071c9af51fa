/*
 * sanitize.c: what the leak checker should not report; linked into SANITIZE builds only.
 *
 * libh2o 2.2.5 has no way to free an event loop's message queue and its per-thread recycled
 * buffers.
 */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_options(void);

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
