/*
 * metrics: counters of all API processes in one shared mapping, so that whichever process is asked
 * for /metrics answers for all of them. A process that is restarted goes on with its slot.
 *
 * metrics_new before the fork -> metrics_slot in each process -> metrics_add ... -> metrics_write
 */
#ifndef TIERD_API_METRICS_H
#define TIERD_API_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "job/policy.h"

enum metric {
    METRIC_POST_ACCEPTED,
    METRIC_POST_REFUSED, /* wrong parameters, no such content */
    METRIC_POST_FAILED,  /* a server is away */
    METRIC_COMMITTED,
    METRIC_COMMIT_REFUSED,
    METRIC_PROMOTE,
    METRIC_DEMOTE,
    METRIC_STAYS,
    METRIC_MARGIN,
    METRIC_RESIDENCY,
    METRIC_MAX_USE,
    METRIC_REDIS_RECONNECTS,
    METRIC_DB_RECONNECTS,
    METRIC_BATCH_SUM,
    METRIC_BATCH_FIRST, /* look-ups sent together: 1, 2, 4 ... 128, more */
    METRIC_BATCH_LAST = METRIC_BATCH_FIRST + 8,
    METRICS
};

/* The counters of one process. */
struct metrics_slot {
    uint64_t n[METRICS];
};

struct metrics;

/* Zeroed counters for `n` processes, shared with children. NULL when out of memory. */
struct metrics *metrics_new(size_t n);
void metrics_free(struct metrics *m);
struct metrics_slot *metrics_slot(struct metrics *m, size_t i);

void metrics_add(struct metrics_slot *s, enum metric which, uint64_t n);

/* A decision of the policy on a content at `level`. */
void metrics_decided(struct metrics_slot *s, const struct policy_question *q,
                     const struct policy_answer *a);

/* `n` look-ups went out as one SELECT. */
void metrics_batch(struct metrics_slot *s, size_t n);

/* The sum of all processes. */
uint64_t metrics_sum(const struct metrics *m, enum metric which);

/* Appends the sums that need no others beside them, in the text format of Prometheus. */
void metrics_write(struct buf *b, const struct metrics *m);

#endif
