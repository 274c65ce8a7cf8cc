/*
 * child: what one worker process has: its connections, its name, its signals. Blocking; a
 * connection that fails is dropped and opened again.
 *
 * child_init -> child_connect ... child_nap -> child_release
 */
#ifndef TIERD_WORKER_CHILD_H
#define TIERD_WORKER_CHILD_H

#include <signal.h>

#include "base/causes.h"
#include "base/log.h"
#include "job/catalog.h"
#include "job/keys.h"
#include "job/queue.h"
#include "net/http_client.h"
#include "worker/worker.h"

enum {
    CHILD_RECONNECT_FIRST_MS = 50,
    CHILD_RECONNECT_MAX_MS = 500, /* so that a server that came back is used within a second */
};

struct child {
    const struct worker_options *o;
    const struct config *cfg;
    char id[JOB_WORKER_BYTES];
    struct queue queue;
    struct redis *redis; /* NULL: away */
    struct db *db;       /* NULL: away */
    struct name_lookup redis_names, db_names;
    int64_t looked_ms; /* clock_mono_ms when they were last asked whether they take writes */
    struct server_fault redis_fault, db_fault; /* as they stand, and were logged */
    char db_error[DB_ERROR_BYTES]; /* what it said to the last call, if that failed; else "" */
    bool had_redis, had_db;        /* once: the next connection is counted as one that was lost */
    struct http_client *api;
    int64_t backoff_ms; /* until the next attempt to connect */
    sigset_t signals, unblocked;
    bool refused; /* Redis refused something for good, and it was not looked yet what is amiss */
    struct keys_amiss amiss;      /* as it was said last: what stops us */
    char said[REDIS_WORDS_BYTES]; /* by Redis, of a refusal that none of that explains */
    struct causes causes;         /* what was logged not long ago */
    int64_t stop_ms;              /* clock_mono_ms of the signal, 0: none came */
};

/* 0 or -errno. Catches the signals that stop a worker, ignores those that must not. */
int child_init(struct child *w, const struct worker_options *options);
void child_release(struct child *w);

/* Opens what is closed: Redis and the database. A server that takes no writes any more is left, now
 * and then, for whoever stands behind its name; a database is read all the same where there is no
 * other. 0 or -errno. */
int child_connect(struct child *w);

/* Waits, longer with each time that child_connect failed, as long as nobody stops us. */
void child_wait_to_reconnect(struct child *w);

/* Opens Redis if it is closed. 0 or -errno. */
int child_open_redis(struct child *w);

/* Every answer of Redis, or of the database, passes here: a connection that is no good any more is
 * dropped, and a refusal (-EPROTO) is noted. `rc` itself. */
int child_redis_rc(struct child *w, int rc);
int child_db_rc(struct child *w, int rc);

/* Whether Redis cannot be used though it answers: somebody else's key stands in the place of ours,
 * or a right is missing. Looked at after a refusal; what is found is said once, and its end too. */
bool child_is_stopped(struct child *w);

/* Which of the two servers it was that last failed us, in its own words. */
void child_away_text(const struct child *w, char *out, size_t cap);

/* Says of each cause that came again how often it did, when it is time; at the end (`all`) of all.
 */
void child_tell_causes(struct child *w, bool all);

/* Whether SIGTERM or SIGINT came. */
bool child_stopping(struct child *w);

/* Sleeps; a signal that stops us ends it. */
void child_nap(struct child *w, int64_t ms);

#endif
