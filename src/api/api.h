/*
 * api: one API process: listens, keeps its connections to Redis and the database, drains on
 * SIGTERM.
 */
#ifndef TIERD_API_API_H
#define TIERD_API_API_H

#include "api/metrics.h"
#include "base/turns.h"
#include "base/config.h"
#include "store/db.h"
#include "store/redis.h"

struct api_options {
    const struct config *config;
    struct redis_url redis;
    struct db_url db;
    struct metrics_slot *slot; /* of this process, */
    struct turn *turn;         /* where it says that it turns */
    struct metrics *metrics;   /* and of all */
    int listen_fd;             /* listening and non-blocking; the supervisor's */
    void (*ready)(void *ctx);  /* called once it can serve */
    void *ready_ctx;
};

/* Serves until SIGTERM or SIGINT, then drains. The exit status of the process. */
int api_run(const struct api_options *options);

#endif
