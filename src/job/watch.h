/*
 * watch: what people and programs see of the queue, and the operator's hand in it. The keys
 * are described there.
 *
 * The reading scripts cost the same whatever the number of jobs: they read counters, the moves
 * under way and a few events. The replies are for job/report.
 */
#ifndef TIERD_JOB_WATCH_H
#define TIERD_JOB_WATCH_H

#include "job/queue.h"

enum {
    WATCH_MOVES_MAX = 64,   /* moves under way that a status shows */
    WATCH_WORKERS_MAX = 64, /* workers that it shows */
    WATCH_EVENTS = 20,      /* last events that it shows */
    WATCH_ERRORS = 10,
};

/* ---- workers ---- */

/* Notes that a worker is alive for `alive_ms`. 0 or -errno. */
int watch_hello(struct queue *q, struct redis *r, const char *worker_id, int64_t alive_ms);

/* What a host has seen of the levels, lines each: how full ("level\nused free\n", bytes), what is
 * wrong ("level\nage sentence\n", for `age` ms at least), and with which nothing is wrong. */
struct watch_look {
    struct buf use, trouble, well;
};

/* Notes it; the trouble is believed for `holds_ms`. 0 or -errno. */
int watch_looked(struct queue *q, struct redis *r, const char *looker_id, int64_t holds_ms,
                 const struct watch_look *look);

/* The worker ends. */
void watch_bye(struct redis *r, const char *worker_id);

/* Counts that a worker lost its connection to `server` ("redis", "db") and has it again. What Redis
 * does not take is not counted. 0 or -errno. */
int watch_reconnected(struct redis *r, const char *server);

/* ---- reading; a reply is to be freed by the blocking caller ---- */

int watch_status(struct queue *q, struct redis *r, redis_reply **reply);
int watch_status_async(struct queue *q, struct redis_async *r, redis_done_fn *done, void *ctx);

int watch_explain(struct queue *q, struct redis *r, uint64_t cid, redis_reply **reply);
int watch_explain_async(struct queue *q, struct redis_async *r, uint64_t cid, redis_done_fn *done,
                        void *ctx);

/* The names of the closed gates, without those of routes; the reply is to be freed. */
int watch_gates(struct redis *r, redis_reply **reply);

/* ---- the operator's hand ---- */

enum watch_retried {
    WATCH_RETRIED, /* it is due now */
    WATCH_NO_JOB,  /* nothing is known of it */
    WATCH_NOT_NOW, /* it is being moved, or its move is done */
};

/* Starts a dead, conflicting or waiting job anew. 0 or -errno. */
int watch_retry(struct queue *q, struct redis *r, uint64_t cid, enum watch_retried *how);

enum watch_cancelled {
    WATCH_CANCELLED, /* nothing is wanted any more; an old copy may still be taken away */
    WATCH_STOPS,     /* it was being moved: the worker stops and drops its copy */
    WATCH_TOO_LATE,  /* the move is done */
    WATCH_NOTHING,   /* nothing was wanted */
    WATCH_CHANGED,   /* it changed meanwhile: ask again */
};

/*
 * Takes back what is wanted: the content stays where its row says. `stay` is the job as it then
 * stands (target = db_level = the row's), `seen` the row's update_time, `read_json` what was read
 * of the job ("" for none). 0 or -errno.
 */
int watch_cancel(struct queue *q, struct redis *r, const struct job *stay, const char *seen,
                 struct str_view read_json, enum watch_cancelled *how);

/* Reads the JSON of a job into `json`, "" when there is none. 0 or -errno. */
int watch_json(struct redis *r, uint64_t cid, char *json, size_t cap);

/* Up to `n` cids of dead jobs, oldest first, from the `skip`th on: how many, or -errno. */
int watch_dead(struct redis *r, uint64_t *cids, size_t n, size_t skip);

/* How many jobs are dead, or -errno. */
int64_t watch_dead_count(struct redis *r);

/* Notes what an operator did, among the events. `cid` 0: not of one content. 0 or -errno. */
int watch_note(struct redis *r, uint64_t cid, const char *what, const char *about);

#endif
