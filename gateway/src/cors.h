/*
 * cors.h: which web pages may read our answers.
 */
#ifndef ROWSYNC_GATEWAY_CORS_H
#define ROWSYNC_GATEWAY_CORS_H

#include "request.h"
#include "wire.h"

/* Adds the headers that let the page which sent a request read its answer, where it may. */
void cors_answer(struct request *request);

/* The same for an answer that is written by hand, to a request of which there are only bytes. */
void cors_write(const struct config *config, const struct wire_head *head, struct text *text);

/* Answers OPTIONS: what the route takes, and whether a page may send it. `methods` is for Allow. */
void cors_preflight(struct request *request, const char *methods);

#endif
