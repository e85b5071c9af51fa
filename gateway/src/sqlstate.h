/*
 * sqlstate.h: what the database's errors are over HTTP.
 */
#ifndef ROWSYNC_GATEWAY_SQLSTATE_H
#define ROWSYNC_GATEWAY_SQLSTATE_H

#include "pg_pool.h"
#include "problem.h"

/*
 * Turns the end of a job that has no result into a problem. Of the database's own words only those
 * of rowsync's own SQLSTATEs, which are written for clients, reach the client.
 */
void problem_from_database(struct problem *problem, enum pg_end end, const PGresult *result);

#endif
