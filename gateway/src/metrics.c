/*
 * metrics.c: what the process counts, and how Prometheus gets to see it.
 */
#include "metrics.h"

static const int statuses[METRICS_STATUSES] = {0,   200, 204, 304, 400, 401, 403, 404, 405,
                                               410, 413, 415, 417, 429, 431, 499, 500, 503};

/* Upper bounds in µs, and as Prometheus wants them, in seconds. */
static const struct
{
    uint64_t us;
    const char *seconds;
} bounds[METRICS_BUCKETS] = {
    {500, "0.0005"},  {1000, "0.001"},  {2500, "0.0025"},     {5000, "0.005"},  {10000, "0.01"},
    {25000, "0.025"}, {50000, "0.05"},  {100000, "0.1"},      {250000, "0.25"}, {1000000, "1"},
    {5000000, "5"},   {30000000, "30"}, {UINT64_MAX, "+Inf"},
};

void
metrics_request(struct metrics *metrics, size_t route, int status, enum problem_code problem,
                uint64_t us, size_t received, size_t sent)
{
    size_t place = METRICS_STATUSES - 1;
    size_t bucket = 0;

    while (place > 0 && statuses[place] != status)
        place--;
    while (us > bounds[bucket].us)
        bucket++;
    metrics_add(&metrics->requests[route][place], 1);
    metrics_add(&metrics->latency[route][bucket], 1);
    metrics_add(&metrics->latency_us[route], us);
    metrics_add(&metrics->received, received);
    metrics_add(&metrics->sent, sent);
    if (problem != PROBLEM_COUNT)
        metrics_add(&metrics->problems[problem], 1);
}

void
metrics_pool(struct metrics *metrics, enum metrics_pool which,
             const struct pg_pool_figures *figures)
{
    struct metrics_figures *published = &metrics->pools[which];

    metrics_set(&published->size, figures->size);
    metrics_set(&published->connected, figures->connected);
    metrics_set(&published->busy, figures->busy);
    metrics_set(&published->queued, figures->queued);
    metrics_set(&published->connects, figures->connects);
    metrics_set(&published->failures, figures->failures);
    metrics_set(&published->cancels, figures->cancels);
}

/* One number at this place of every loop's metrics, summed. */
static uint64_t
sum(struct metrics *const *loops, size_t count, size_t offset)
{
    uint64_t total = 0;

    for (size_t i = 0; i < count; i++)
        total += atomic_load_explicit((atomic_uint_least64_t *)(void *)((char *)loops[i] + offset),
                                      memory_order_relaxed);
    return total;
}

#define SUM(member) sum(loops, count, offsetof(struct metrics, member))
#define AT(member, index) (offsetof(struct metrics, member) + (index) * sizeof(uint_least64_t))

static void
write_head(struct text *text, const char *name, const char *type, const char *help)
{
    text_format(text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void
write_requests(struct metrics *const *loops, size_t count, const char *const *routes,
               struct text *text)
{
    write_head(text, "rowsync_requests_total", "counter", "Requests by route and status.");
    for (size_t route = 0; route < METRICS_ROUTES; route++)
    {
        for (size_t place = 0; place < METRICS_STATUSES && routes[route] != NULL; place++)
        {
            uint64_t number = sum(loops, count, AT(requests, route * METRICS_STATUSES + place));

            if (number != 0)
                text_format(text, "rowsync_requests_total{route=\"%s\",status=\"%d\"} %llu\n",
                            routes[route], statuses[place], (unsigned long long)number);
        }
    }
}

static void
write_latencies(struct metrics *const *loops, size_t count, const char *const *routes,
                struct text *text)
{
    write_head(text, "rowsync_request_seconds", "histogram",
               "Time from a request's arrival to its last byte sent.");
    for (size_t route = 0; route < METRICS_ROUTES; route++)
    {
        uint64_t total = 0;

        for (size_t bucket = 0; bucket < METRICS_BUCKETS && routes[route] != NULL; bucket++)
        {
            total += sum(loops, count, AT(latency, route * METRICS_BUCKETS + bucket));
            text_format(text, "rowsync_request_seconds_bucket{route=\"%s\",le=\"%s\"} %llu\n",
                        routes[route], bounds[bucket].seconds, (unsigned long long)total);
        }
        if (routes[route] != NULL)
            text_format(text,
                        "rowsync_request_seconds_sum{route=\"%s\"} %.6f\n"
                        "rowsync_request_seconds_count{route=\"%s\"} %llu\n",
                        routes[route], (double)sum(loops, count, AT(latency_us, route)) / 1e6,
                        routes[route], (unsigned long long)total);
    }
}

static void
write_problems(struct metrics *const *loops, size_t count, struct text *text)
{
    write_head(text, "rowsync_problems_total", "counter",
               "Answers that were problems, by code; those of status 401 are rejected tokens.");
    for (size_t code = 0; code < PROBLEM_COUNT; code++)
        text_format(text, "rowsync_problems_total{code=\"%s\",status=\"%d\"} %llu\n",
                    problem_name((enum problem_code)code), problem_status((enum problem_code)code),
                    (unsigned long long)sum(loops, count, AT(problems, code)));
}

/* One figure of all pools. */
static void
write_pools(struct metrics *const *loops, size_t count, struct text *text)
{
    static const char *const pools[METRICS_POOLS] = {"requests", "streams", "watch", "replica",
                                                     "replica_streams"};
    static const struct
    {
        const char *name;
        const char *type;
        const char *help;
        size_t offset;
    } figures[] = {
        {"rowsync_pool_size", "gauge", "Database connections configured.",
         offsetof(struct metrics_figures, size)},
        {"rowsync_pool_connected", "gauge", "Database connections established.",
         offsetof(struct metrics_figures, connected)},
        {"rowsync_pool_busy", "gauge", "Database connections at work.",
         offsetof(struct metrics_figures, busy)},
        {"rowsync_pool_queue", "gauge", "Requests waiting for a database connection.",
         offsetof(struct metrics_figures, queued)},
        {"rowsync_pool_connects_total", "counter", "Database connections ever established.",
         offsetof(struct metrics_figures, connects)},
        {"rowsync_pool_failures_total", "counter",
         "Failed attempts to connect and lost connections.",
         offsetof(struct metrics_figures, failures)},
        {"rowsync_pool_cancels_total", "counter", "Statements cancelled for clients that left.",
         offsetof(struct metrics_figures, cancels)},
    };

    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++)
    {
        write_head(text, figures[i].name, figures[i].type, figures[i].help);
        for (size_t pool = 0; pool < METRICS_POOLS; pool++)
            text_format(text, "%s{pool=\"%s\"} %llu\n", figures[i].name, pools[pool],
                        (unsigned long long)sum(loops, count,
                                                offsetof(struct metrics, pools) +
                                                    pool * sizeof(struct metrics_figures) +
                                                    figures[i].offset));
    }
}

void
metrics_write(struct metrics *const *loops, size_t count, const char *const *routes,
              struct text *text)
{
    static const char number[] = "%s %llu\n";

    write_requests(loops, count, routes, text);
    write_latencies(loops, count, routes, text);
    write_problems(loops, count, text);
    write_head(text, "rowsync_received_bytes_total", "counter", "Bytes of request bodies.");
    text_format(text, number, "rowsync_received_bytes_total", (unsigned long long)SUM(received));
    write_head(text, "rowsync_sent_bytes_total", "counter", "Bytes of answers' bodies.");
    text_format(text, number, "rowsync_sent_bytes_total", (unsigned long long)SUM(sent));
    write_head(text, "rowsync_connections_accepted_total", "counter",
               "Client connections accepted.");
    text_format(text, number, "rowsync_connections_accepted_total",
                (unsigned long long)SUM(accepted));
    write_head(text, "rowsync_connections", "gauge", "Client connections open.");
    text_format(text, number, "rowsync_connections", (unsigned long long)SUM(connections));
    write_head(text, "rowsync_event_streams", "gauge", "Event streams open.");
    text_format(text, number, "rowsync_event_streams", (unsigned long long)SUM(streams));
    write_pools(loops, count, text);
}
