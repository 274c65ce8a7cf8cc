/*
 * supervisor: forks children, restarts those that die, replaces those that do not turn any more,
 * ends with them. Knows neither jobs nor connections. It never waits for one of them: who cannot
 * even be killed, being stuck in the kernel, is given up and named. (It stands beside the worker
 * because that is where most children are; the API's are run by it through the same function
 * pointer.)
 */
#ifndef TIERD_WORKER_SUPERVISOR_H
#define TIERD_WORKER_SUPERVISOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/turns.h"

enum { SUPERVISOR_CHILDREN_MAX = 512, SUPERVISOR_GROUPS_MAX = 3 };

/* Children of one kind. */
struct supervisor_group {
    const char *role;
    size_t count;
    /* Runs in the child, which exits with what it returns. It calls supervisor_tell_ready with
     * `ready_fd` once it can work, and says by `turn` that it turns, every ten seconds at least. */
    int (*run)(void *ctx, size_t index, int ready_fd, struct turn *turn);
    void (*ready)(void *ctx); /* in the supervisor, once, when all of the group are ready; NULL */
    void *ctx;
    bool looks; /* it is there to wait for levels: who waits long is let alone, and replaced */
};

struct supervisor {
    struct supervisor_group groups[SUPERVISOR_GROUPS_MAX];
    size_t n_groups;
    struct turns *turns;
    const int64_t *drain_timeout_ms; /* looked at when it is needed: a reload may change it */
    /* SIGHUP: 0 when the new settings hold; then every child is replaced, else none. */
    int (*reload)(void *ctx);
    void *ctx;
};

/* In a child: it can work. */
void supervisor_tell_ready(int ready_fd);

/* Runs until SIGTERM or SIGINT and until every child is gone, or cannot be killed. The exit status.
 */
int supervisor_run(struct supervisor *s);

#endif
