/*
 * ops: the operator's commands, one file each: `tierd COMMAND [ARGUMENT ...]`. They talk to the
 * same Redis and database as the roles and end when they have answered.
 *
 * Exit statuses (sysexits.h where it has one): 0 done; 1 the answer is "no" (something is wrong,
 * not found, not done); 64 wrong words; 69 Redis or the database is away; 78 wrong configuration.
 */
#ifndef TIERD_OPS_OPS_H
#define TIERD_OPS_OPS_H

#include <stdio.h>

#include "base/config.h"
#include "job/ladder.h"
#include "job/queue.h"
#include "store/db.h"
#include "store/redis.h"

/* What a command stands on. Connections are opened by ops_need, as far as a command asks. */
struct ops {
    const struct config *cfg;
    const struct redis_url *redis_url;
    const struct db_url *db_url;
    const char *const *args; /* behind the command's name */
    size_t n_args;
    struct redis *redis;
    struct db *db;
    struct queue queue;
    struct ladder ladder; /* the levels, with OPS_DB */
};

enum { OPS_REDIS = 1, OPS_DB = 2 };

/* Runs cfg->words. The exit status of the process. */
int ops_run(const struct config *cfg, const struct redis_url *redis, const struct db_url *db);

/* Prints the commands for --help. */
void ops_help(FILE *out);

/* ---- the commands; each gives the exit status ---- */

int ops_init_level(struct ops *o);

#endif
