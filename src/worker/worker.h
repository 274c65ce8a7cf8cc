/*
 * worker: one child of the worker role: claims jobs and moves files, in straight lines; blocking.
 */
#ifndef TIERD_WORKER_WORKER_H
#define TIERD_WORKER_WORKER_H

#include "base/config.h"
#include "base/rate.h"
#include "base/turns.h"
#include "store/db.h"
#include "store/redis.h"

struct worker_options {
    const struct config *config;
    struct redis_url redis;
    struct db_url db;
    struct rate *rate;        /* shared by all children */
    struct turns *turns;      /* too */
    struct turn *turn;        /* our place in it */
    void (*ready)(void *ctx); /* called once the first attempts to connect ended */
    void *ready_ctx;
};

/* Works until SIGTERM or SIGINT. The exit status of the process. */
int worker_run(const struct worker_options *options);

#endif
