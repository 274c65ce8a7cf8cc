/*
 * supervisor: forks children, restarts those that die, ends with them. Knows neither jobs nor
 * connections. (It stands beside the worker because that is where most children are; the API's are
 * run by it through the same function pointer.)
 */
#ifndef TIERD_WORKER_SUPERVISOR_H
#define TIERD_WORKER_SUPERVISOR_H

#include <stddef.h>
#include <stdint.h>

enum { SUPERVISOR_CHILDREN_MAX = 512, SUPERVISOR_GROUPS_MAX = 2 };

/* Children of one kind. */
struct supervisor_group {
    const char *role;
    size_t count;
    /* Runs in the child, which exits with what it returns. It calls supervisor_tell_ready with
     * `ready_fd` once it can work. */
    int (*run)(void *ctx, size_t index, int ready_fd);
    void (*ready)(void *ctx); /* in the supervisor, once, when all of the group are ready */
    void *ctx;
};

struct supervisor {
    struct supervisor_group groups[SUPERVISOR_GROUPS_MAX];
    size_t n_groups;
    const int64_t *drain_timeout_ms; /* looked at when it is needed: a reload may change it */
    /* SIGHUP: 0 when the new settings hold; then every child is replaced, else none. */
    int (*reload)(void *ctx);
    void *ctx;
};

/* In a child: it can work. */
void supervisor_tell_ready(int ready_fd);

/* Runs until SIGTERM or SIGINT and until every child is gone. The exit status. */
int supervisor_run(struct supervisor *s);

#endif
