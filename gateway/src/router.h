/*
 * router.h: which request goes to which handler, and what is checked before.
 */
#ifndef ROWSYNC_GATEWAY_ROUTER_H
#define ROWSYNC_GATEWAY_ROUTER_H

#include "request.h"

/* One route. Handlers answer, or start a query that will. */
struct route
{
    const char *path;
    const char *method; /* "GET" (then HEAD too) or "POST" */
    bool open;          /* needs no token */
    void (*handle)(struct request *request);
};

/* Puts the routes, the answers to h2o's own errors, and compression into h2o's configuration. */
void router_configure(h2o_globalconf_t *global, const struct config *config);

/* A route's number for the metrics; NULL: no route. */
size_t router_number(const struct route *route);

/* Fills in the names of METRICS_ROUTES routes, NULL where there is none. */
void router_names(const char **names);

/* The handlers, each in its own file. */
void handle_upload(struct request *request);
void handle_download(struct request *request);
void handle_snapshot(struct request *request);
void handle_watch(struct request *request);
void handle_schema_version(struct request *request);
void handle_schema(struct request *request);
void handle_digest(struct request *request);
void handle_health(struct request *request);
void handle_ready(struct request *request);
void handle_metrics(struct request *request);

#endif
