/*
 * group: the jobs that a child has claimed together, taken through the steps of a move
 * (PROTOCOL.md, One move) side by side: each step is made for all of them before the next begins.
 * So they share what is slow: the commit of a file system's journal, the sync of a directory, the
 * round trips to Redis, the API and the database. Each job is by itself what it would be alone: its
 * own lease, fence, verdicts and outcome. A lone job is a group of one.
 *
 * A file that is large would keep the others waiting: it gets a group of its own.
 *
 * group_new -> group_claim -> group_run ... -> group_pay -> group_free
 */
#ifndef TIERD_WORKER_GROUP_H
#define TIERD_WORKER_GROUP_H

#include "worker/child.h"
#include "worker/levels.h"

struct group;

/* `be_seen` is called now and then while the group runs, to say that we are alive. NULL when out of
 * memory. */
struct group *group_new(struct child *w, struct levels *levels, void (*be_seen)(void *ctx),
                        void *ctx);
void group_free(struct group *g);

/* Claims what is due. How many jobs; 0: nothing is before *wait_ms (-1: nothing at all); -EAGAIN: a
 * claim that ended could not be told to Redis yet, which comes first; or another -errno. */
int group_claim(struct group *g, const struct queue_terms *terms, int64_t *wait_ms);

/* Does what was claimed. */
void group_run(struct group *g);

/* Tells Redis of the claims that ended while it was away, when nothing more is to be claimed: tries
 * for half of the drain time-out, but a Redis that hangs only once. A claim of which it never hears
 * ends with its lease. */
void group_pay(struct group *g);

#endif
