#include "job/watch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "queue/keys.h"

/* ---- workers ---- */

/* Runs a script that answers nothing of interest. 0 or -errno. */
static int tell(struct queue *q, struct redis *r, enum queue_script script, const char *key,
                const struct str_view *args, size_t n) {
    struct str_view k = str_view(key);
    redis_reply *reply;
    int rc = redis_eval(r, &q->scripts[script], &k, 1, args, n, &reply);
    if (rc == 0)
        redis_reply_free(reply);
    return rc;
}

int watch_hello(struct queue *q, struct redis *r, const char *worker_id, int64_t alive_ms) {
    char ms[JOB_CID_DIGITS];
    const struct str_view args[ARGS_HELLO] = {
        [ARG_HELLO_WORKER] = str_view(worker_id),
        [ARG_HELLO_ALIVE_MS] = str_from_u64(ms, (uint64_t)alive_ms),
    };
    return tell(q, r, QUEUE_HELLO, KEY_WORKERS, args, ARGS_HELLO);
}

int watch_looked(struct queue *q, struct redis *r, const char *looker_id, int64_t holds_ms,
                 const struct watch_look *look) {
    char ms[JOB_CID_DIGITS];
    const struct str_view args[ARGS_LOOKED] = {
        [ARG_LOOKED_HOST] = {looker_id, strcspn(looker_id, ".")},
        [ARG_LOOKED_HOLDS_MS] = str_from_u64(ms, (uint64_t)holds_ms),
        [ARG_LOOKED_USE] = buf_view(&look->use),
        [ARG_LOOKED_TROUBLE] = buf_view(&look->trouble),
        [ARG_LOOKED_WELL] = buf_view(&look->well),
    };
    return tell(q, r, QUEUE_LOOKED, KEY_USE, args, ARGS_LOOKED);
}

void watch_bye(struct redis *r, const char *worker_id) {
    struct str_view args[] = {str_view("HDEL"), str_view(KEY_WORKERS), str_view(worker_id)};
    redis_reply *reply;
    if (redis_call(r, args, 3, &reply) == 0) /* else it is found out within ALIVE_MS */
        redis_reply_free(reply);
}

int watch_reconnected(struct redis *r, const char *server) {
    char name[32];
    struct str_view args[] = {str_view("HINCRBY"), str_view(KEY_STATS), str_view(name),
                              str_view("1")};
    redis_reply *reply;
    snprintf(name, sizeof name, STAT_RECONNECTS "%s", server);
    args[2] = str_view(name);
    int rc = redis_call(r, args, 4, &reply);
    if (rc == 0)
        redis_reply_free(reply);
    return rc;
}

/* ---- reading ---- */

struct limits {
    char n[ARGS_STATUS][JOB_CID_DIGITS];
    struct str_view args[ARGS_STATUS];
};

static void set_limits(struct limits *l) {
    static const uint64_t most[ARGS_STATUS] = {
        [ARG_STATUS_MOVES_MOST] = WATCH_MOVES_MAX,
        [ARG_STATUS_WORKERS_MOST] = WATCH_WORKERS_MAX,
        [ARG_STATUS_EVENTS_MOST] = WATCH_EVENTS,
        [ARG_STATUS_ERRORS_MOST] = WATCH_ERRORS,
    };
    for (size_t i = 0; i < ARGS_STATUS; i++)
        l->args[i] = str_from_u64(l->n[i], most[i]);
}

int watch_status(struct queue *q, struct redis *r, redis_reply **reply) {
    struct limits l = {0};
    struct str_view key = str_view(KEY_DUE);
    set_limits(&l);
    return redis_eval(r, &q->scripts[QUEUE_STATUS], &key, 1, l.args, ARGS_STATUS, reply);
}

int watch_status_async(struct queue *q, struct redis_async *r, redis_done_fn *done, void *ctx) {
    struct limits l = {0};
    struct str_view key = str_view(KEY_DUE);
    set_limits(&l);
    return redis_async_eval(r, &q->scripts[QUEUE_STATUS], &key, 1, l.args, ARGS_STATUS, done, ctx);
}

int watch_explain(struct queue *q, struct redis *r, uint64_t cid, redis_reply **reply) {
    char text[JOB_CID_DIGITS];
    struct str_view key = str_from_u64(text, cid);
    return redis_eval(r, &q->scripts[QUEUE_EXPLAIN], &key, 1, NULL, 0, reply);
}

int watch_explain_async(struct queue *q, struct redis_async *r, uint64_t cid, redis_done_fn *done,
                        void *ctx) {
    char text[JOB_CID_DIGITS];
    struct str_view key = str_from_u64(text, cid);
    return redis_async_eval(r, &q->scripts[QUEUE_EXPLAIN], &key, 1, NULL, 0, done, ctx);
}

int watch_gates(struct redis *r, redis_reply **reply) {
    struct str_view args[] = {str_view("HKEYS"), str_view(KEY_PAUSED)};
    return redis_call(r, args, 2, reply);
}

/* ---- the operator's hand ---- */

int watch_retry(struct queue *q, struct redis *r, uint64_t cid, enum watch_retried *how) {
    char text[JOB_CID_DIGITS];
    struct str_view key = str_from_u64(text, cid);
    redis_reply *reply;
    int rc = redis_eval(r, &q->scripts[QUEUE_RETRY], &key, 1, NULL, 0, &reply);
    if (rc < 0)
        return rc;
    struct str_view said = redis_text(reply);
    *how = str_is(said, SAID_OK)        ? WATCH_RETRIED
           : str_is(said, SAID_NOT_NOW) ? WATCH_NOT_NOW
                                        : WATCH_NO_JOB;
    redis_reply_free(reply);
    return 0;
}

int watch_cancel(struct queue *q, struct redis *r, const struct job *stay, const char *seen,
                 struct str_view read_json, enum watch_cancelled *how) {
    static const struct {
        const char *said;
        enum watch_cancelled how;
    } answers[] = {{SAID_OK, WATCH_CANCELLED},
                   {SAID_STOPS, WATCH_STOPS},
                   {SAID_LATE, WATCH_TOO_LATE},
                   {SAID_NOTHING, WATCH_NOTHING}};
    char text[JOB_CID_DIGITS], ttl[JOB_CID_DIGITS];
    struct str_view key = str_from_u64(text, stay->cid);
    redis_reply *reply;
    struct buf head;
    buf_init(&head, JOB_JSON_BYTES);
    job_write_head(&head, stay);
    const struct str_view args[ARGS_CANCEL] = {
        [ARG_CANCEL_READ] = read_json,
        [ARG_CANCEL_HEAD] = buf_view(&head),
        [ARG_CANCEL_LEVEL] = str_view(stay->db_level),
        [ARG_CANCEL_SEEN] = str_view(seen),
        [ARG_CANCEL_FILENAME] = str_view(stay->filename),
        [ARG_CANCEL_TTL] = str_from_u64(ttl, (uint64_t)q->done_ttl_ms),
    };
    int rc = head.failed
                 ? -EINVAL
                 : redis_eval(r, &q->scripts[QUEUE_CANCEL], &key, 1, args, ARGS_CANCEL, &reply);
    buf_release(&head);
    if (rc < 0)
        return rc;
    *how = WATCH_CHANGED;
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        if (str_is(redis_text(reply), answers[i].said))
            *how = answers[i].how;
    redis_reply_free(reply);
    return 0;
}

int watch_json(struct redis *r, uint64_t cid, char *json, size_t cap) {
    char text[JOB_CID_DIGITS], most[JOB_CID_DIGITS];
    struct str_view args[] = {str_view("GETRANGE"), str_from_u64(text, cid), str_view("0"),
                              str_from_u64(most, JOB_JSON_BYTES)};
    redis_reply *reply;
    int rc = redis_call(r, args, 4, &reply);
    if (rc < 0)
        return rc;
    if (str_copy(json, cap, redis_text(reply)) < 0)
        rc = -EPROTO;
    redis_reply_free(reply);
    return rc;
}

int watch_dead(struct redis *r, uint64_t *cids, size_t n, size_t skip) {
    char from[JOB_CID_DIGITS], to[JOB_CID_DIGITS];
    struct str_view args[] = {str_view("ZRANGE"), str_view(KEY_DEAD), str_from_u64(from, skip),
                              str_from_u64(to, skip + n - 1)};
    redis_reply *reply;
    int rc = redis_call(r, args, 4, &reply);
    if (rc < 0)
        return rc;
    int found = 0;
    for (size_t i = 0; i < redis_len(reply) && (size_t)found < n; i++)
        if (job_cid_parse(redis_text(redis_at(reply, i)), &cids[found]) == 0)
            found++;
    redis_reply_free(reply);
    return found;
}

int64_t watch_dead_count(struct redis *r) {
    struct str_view args[] = {str_view("ZCARD"), str_view(KEY_DEAD)};
    redis_reply *reply;
    int rc = redis_call(r, args, 2, &reply);
    if (rc < 0)
        return rc;
    int64_t n = redis_int(reply);
    redis_reply_free(reply);
    return n;
}

int watch_note(struct redis *r, uint64_t cid, const char *what, const char *about) {
    char text[JOB_CID_DIGITS], most[JOB_CID_DIGITS];
    struct str_view args[] = {str_view("XADD"),
                              str_view(KEY_EVENTS),
                              str_view("MAXLEN"),
                              str_view("~"),
                              str_from_u64(most, EVENTS_KEPT),
                              str_view("*"),
                              str_view("cid"),
                              str_from_u64(text, cid),
                              str_view("what"),
                              str_view(what),
                              str_view("about"),
                              str_view(about)};
    redis_reply *reply;
    int rc = redis_call(r, args, sizeof args / sizeof *args, &reply);
    if (rc == 0)
        redis_reply_free(reply);
    return rc;
}
