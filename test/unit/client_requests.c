/*
 * client_requests.c - every request of every call fails in every way: it does not reach the server,
 * its answer is lost, cut, empty, or a refusal.
 */
#include "client_calls.h"

static void
arm(void *context, sqlite3 *db, long at)
{
    (void)db;
    peer.fault = *(Fault *)context;
    peer.faulty = (int)at;
}

static bool
disarm(void *context, sqlite3 *db)
{
    bool met = peer.requests >= peer.faulty;

    (void)context;
    (void)db;
    peer.faulty = 0;
    return met;
}

/* Any failure: the peer's faults are of all kinds. */
static bool
fitting(void *context, rowsync_code code)
{
    (void)context;
    return code != ROWSYNC_DATABASE;
}

static void
test_requests(const Call *call)
{
    Fault fault;
    Failure failure = {"", NULL, arm, disarm, fitting, &fault};
    Image image = make_image(call);
    char *wanted = undisturbed(call, &image, &peer_options);
    Tally tally = {0};
    long at;

    for (fault = FAULT_BEFORE; fault < FAULTS; fault++)
    {
        failure.what = fault_names[fault];
        for (at = 1; run_once(call, &image, &peer_options, &failure, at, wanted, &tally); at++)
            ;
    }
    told(&tally, call->name, "requests that fail");
    sqlite3_free(wanted);
    sqlite3_free(image.bytes);
}

int
main(void)
{
    size_t i;

    take_over();
    for (i = 0; i < sizeof(calls) / sizeof(*calls); i++)
        if (calls[i].requests)
            test_requests(&calls[i]);
    return done();
}
