/*
 * cors.h: which web pages may read our answers.
 */
#ifndef ROWSYNC_GATEWAY_CORS_H
#define ROWSYNC_GATEWAY_CORS_H

#include "request.h"

/* Adds the headers that let the page which sent a request read its answer, where it may. */
void cors_answer(struct request *request);

/* Answers OPTIONS: what the route takes, and whether a page may send it. `methods` is for Allow. */
void cors_preflight(struct request *request, const char *methods);

#endif
