#include "job/queue.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "job/keys.h"
#include "queue/keys.h"
#include "queue/lua.h"

enum {
    RESUME_BATCH = 1000, /* some milliseconds of Redis' time */
    POSTS_BYTES =
        4 * 1024 * 1024, /* of one call: all rows that one turn can bring, ten times over */
};

/* What a finished JSON gets when it is to stay for ever: a hundred years. That it has a time to
 * live says that its `done` was counted; one that another program writes has none (QUEUE_PEEK). */
#define EVER_MS INT64_C(3155760000000)

/* At once of a scan: with a million keys some 0.7 ms of Redis, for which a post may have to wait.
 */
#define SCAN_KEYS "250"

void queue_init(struct queue *q, int64_t done_ttl_ms) {
    static const char *const bodies[QUEUE_SCRIPTS] = LUA_SCRIPTS;
    q->done_ttl_ms = done_ttl_ms;
    for (size_t i = 0; i < QUEUE_SCRIPTS; i++)
        redis_script_init(&q->scripts[i], bodies[i]);
}

/* How long a JSON stays once its done was counted. */
static int64_t kept_ms(const struct queue *q) {
    return q->done_ttl_ms > 0 ? q->done_ttl_ms : EVER_MS;
}

/* ---- the API's side ---- */

static int eval_async(struct queue *q, struct redis_async *r, enum queue_script script,
                      uint64_t cid, const struct str_view *args, size_t n, redis_done_fn *done,
                      void *ctx) {
    char text[JOB_CID_DIGITS];
    struct str_view key = str_from_u64(text, cid);
    return redis_async_eval(r, &q->scripts[script], &key, 1, args, n, done, ctx);
}

/* ---- posts: what one turn brings goes out as one script call ---- */

static enum queue_posted how_posted(struct str_view how) {
    return str_is(how, SAID_OK)       ? QUEUE_POSTED
           : str_is(how, SAID_AGAIN)  ? QUEUE_LOOK_AGAIN
           : str_is(how, SAID_COMMIT) ? QUEUE_COMMIT_FIRST
           : str_is(how, SAID_LARGE)  ? QUEUE_NO_JOB
                                      : QUEUE_BAD_KEY;
}

static struct str_view json_of(struct buf *b, const struct job *job) {
    buf_clear(b);
    job_write(b, job);
    return buf_view(b);
}

/* Tells each post of one call how it ended; its own owner may free it then. */
static void on_posts(void *ctx, int rc, const redis_reply *reply) {
    struct queue_post *next;
    size_t i = 0;
    bool all_as_sent = redis_int(reply) == 1;
    for (struct queue_post *post = ctx; post; post = next, i++) {
        const redis_reply *end = redis_at(reply, i);
        struct str_view how = redis_text(redis_at(end, POSTED_HOW));
        struct str_view text = redis_text(redis_at(end, POSTED_TEXT));
        int own_rc = rc < 0 ? rc : str_is(how, SAID_ERROR) ? redis_error_rc(text) : 0;
        char sentence[KEYS_TEXT_BYTES];
        if (str_is(how, SAID_TYPE) || str_is(how, SAID_LARGE)) {
            keys_sentence(sentence, sizeof sentence, end);
            text = str_view(sentence);
        }
        next = post->next;
        if (all_as_sent || redis_int(end) == 1)
            post->done(post, own_rc, QUEUE_POSTED, json_of(&post->posts->json, post->job));
        else
            post->done(post, own_rc, how_posted(how), text);
    }
}

static void on_flush_posts(void *ctx) {
    struct queue_posts *p = ctx;
    struct queue_post *first = p->first;
    int rc = redis_async_eval_composed(p->redis, &p->queue->scripts[QUEUE_POST], p->n, &p->keys,
                                       ARGS_POST + POST_PLACES * p->n, &p->args, on_posts, first);
    p->first = NULL;
    p->last = &p->first;
    p->n = 0;
    buf_clear(&p->keys);
    buf_clear(&p->args);
    if (rc < 0)
        on_posts(first, rc, NULL);
}

void queue_posts_init(struct queue_posts *p, struct queue *q, struct loop *loop,
                      struct redis_async *r) {
    *p = (struct queue_posts){.queue = q, .loop = loop, .redis = r};
    p->last = &p->first;
    buf_init(&p->keys, POSTS_BYTES);
    buf_init(&p->args, POSTS_BYTES);
    buf_init(&p->json, JOB_JSON_BYTES);
    buf_init(&p->level, JOB_JSON_BYTES);
    buf_init(&p->facts, JOB_JSON_BYTES);
    p->flush = (struct loop_deferred){.call = on_flush_posts, .ctx = p};
}

void queue_posts_release(struct queue_posts *p) {
    buf_release(&p->keys);
    buf_release(&p->args);
    buf_release(&p->json);
    buf_release(&p->level);
    buf_release(&p->facts);
}

/* The arguments of one post; p->args.failed when they do not fit. */
static void add_post_args(struct queue_posts *p, const struct job *job, const char *seen,
                          struct str_view ack) {
    const char *const facts[] = {job->target, job->db_level, seen, job->filename};
    struct str_view json = json_of(&p->json, job);
    buf_clear(&p->level);
    buf_add_json(&p->level, str_view(job->db_level));
    buf_clear(&p->facts);
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        buf_add(&p->facts, facts[i], strlen(facts[i]) + 1); /* with its NUL */
    p->facts.len -= !p->facts.failed;
    const struct str_view args[POST_PLACES] = {
        [POST_JSON] = json,
        [POST_LEVEL] = buf_view(&p->level),
        [POST_FACTS] = buf_view(&p->facts),
        [POST_ACK] = ack,
    };
    for (size_t i = 0; i < POST_PLACES; i++)
        redis_add_arg(&p->args, args[i]);
    p->args.failed |= p->json.failed || p->level.failed || p->facts.failed;
}

int queue_post(struct queue_posts *p, struct queue_post *post, const struct job *job,
               const char *seen, struct str_view ack) {
    char text[JOB_CID_DIGITS];
    if (!redis_async_up(p->redis))
        return -ENOTCONN;
    size_t keys_len = p->keys.len;
    size_t args_len = p->args.len;
    if (p->n == 0)
        redis_add_arg(&p->args, str_from_u64(text, (uint64_t)p->queue->done_ttl_ms));
    redis_add_arg(&p->keys, str_from_u64(text, job->cid));
    add_post_args(p, job, seen, ack);
    if (p->keys.failed || p->args.failed) { /* the posts before it stay as they are */
        p->keys.len = keys_len;
        p->args.len = args_len;
        p->keys.failed = p->args.failed = false;
        return p->json.failed ? -EMSGSIZE : -ENOBUFS;
    }
    post->posts = p;
    post->job = job;
    post->next = NULL;
    *p->last = post;
    p->last = &post->next;
    p->n++;
    loop_defer(p->loop, &p->flush);
    return 0;
}

int queue_peek(struct queue *q, struct redis_async *r, uint64_t cid, redis_done_fn *done,
               void *ctx) {
    return eval_async(q, r, QUEUE_PEEK, cid, NULL, 0, done, ctx);
}

void queue_peek_reply(const redis_reply *reply, struct queue_peek *out) {
    *out = (struct queue_peek){
        .has_json = !redis_is_nil(redis_at(reply, PEEK_JSON)),
        .has_job = !redis_is_nil(redis_at(reply, PEEK_STATE)),
        .json = redis_text(redis_at(reply, PEEK_JSON)),
        .state = redis_text(redis_at(reply, PEEK_STATE)),
        .src = redis_text(redis_at(reply, PEEK_SRC)),
        .target = redis_text(redis_at(reply, PEEK_TARGET)),
        .seen = redis_text(redis_at(reply, PEEK_SEEN)),
        .filename = redis_text(redis_at(reply, PEEK_FILENAME)),
        .rev = redis_text(redis_at(reply, PEEK_REV)),
        .path = redis_text(redis_at(reply, PEEK_PATH)),
        .is_foreign = redis_int(redis_at(reply, PEEK_FOREIGN)) == 1,
    };
}

int queue_committed(struct queue *q, struct redis_async *r, uint64_t cid, const char *rev,
                    const char *seen, redis_done_fn *done, void *ctx) {
    const struct str_view args[ARGS_COMMITTED] = {
        [ARG_COMMITTED_REV] = str_view(rev),
        [ARG_COMMITTED_SEEN] = str_view(seen),
    };
    return eval_async(q, r, QUEUE_COMMITTED, cid, args, ARGS_COMMITTED, done, ctx);
}

int queue_taken(struct queue *q, struct redis_async *r, uint64_t cid, struct str_view json,
                const char *from, const char *to, const char *seen, redis_done_fn *done,
                void *ctx) {
    char ttl[JOB_CID_DIGITS];
    const struct str_view args[ARGS_TAKEN] = {
        [ARG_TAKEN_JSON] = json,
        [ARG_TAKEN_FROM] = str_view(from),
        [ARG_TAKEN_TO] = str_view(to),
        [ARG_TAKEN_SEEN] = str_view(seen),
        [ARG_TAKEN_TTL] = str_from_u64(ttl, (uint64_t)kept_ms(q)),
    };
    return eval_async(q, r, QUEUE_TAKEN, cid, args, ARGS_TAKEN, done, ctx);
}

int queue_replan(struct queue *q, struct redis_async *r, uint64_t cid, const char *rev,
                 const char *seen, redis_done_fn *done, void *ctx) {
    const struct str_view args[ARGS_REPLAN] = {
        [ARG_REPLAN_REV] = str_view(rev),
        [ARG_REPLAN_SEEN] = str_view(seen),
    };
    return eval_async(q, r, QUEUE_REPLAN, cid, args, ARGS_REPLAN, done, ctx);
}

/* A job, whatever its JSON says. */
static const struct str_view add_anything[ARGS_ADD] = {
    [ARG_ADD_BAD] = {"", 0},
    [ARG_ADD_READ] = {"", 0},
};

int queue_add(struct queue *q, struct redis_async *r, uint64_t cid, redis_done_fn *done,
              void *ctx) {
    return eval_async(q, r, QUEUE_ADD, cid, add_anything, ARGS_ADD, done, ctx);
}

/* ---- the worker's side ---- */

static int eval(struct queue *q, struct redis *r, enum queue_script script, uint64_t cid,
                const struct str_view *args, size_t n, redis_reply **reply) {
    char text[JOB_CID_DIGITS];
    struct str_view key = str_from_u64(text, cid);
    return redis_eval(r, &q->scripts[script], &key, 1, args, n, reply);
}

/* ---- batches of what is told about claims ---- */

void queue_batch_init(struct queue_batch *b, struct queue *q, const char *worker_id) {
    *b = (struct queue_batch){.queue = q, .worker_id = worker_id};
    redis_batch_init(&b->calls);
}

void queue_batch_release(struct queue_batch *b) {
    redis_batch_release(&b->calls);
    free(b->verdicts);
    b->verdicts = NULL;
    b->cap = 0;
}

bool queue_batch_empty(const struct queue_batch *b) {
    return b->calls.n == 0;
}

static void on_verdict(void *ctx, size_t i, int rc, const redis_reply *reply) {
    const struct queue_batch *b = ctx;
    struct str_view how = redis_text(reply);
    *b->verdicts[i] = rc < 0                      ? rc
                      : str_is(how, SAID_OK)      ? 0
                      : str_is(how, SAID_CHANGED) ? -ECANCELED
                      : str_is(how, SAID_TAKEN)   ? -EALREADY
                                                  : -ESTALE;
}

void queue_batch_run(struct queue_batch *b, struct redis *r) {
    if (r) {
        redis_batch_run(r, &b->calls, on_verdict, b);
        return;
    }
    for (size_t i = 0; i < b->calls.n; i++)
        *b->verdicts[i] = -ENOTCONN;
    redis_batch_clear(&b->calls);
}

/* Adds a script that is told about a claim; of its arguments those that say which are set here. */
static void add_call(struct queue_batch *b, enum queue_script script, const struct lease *lease,
                     struct str_view *args, size_t n_args, int *verdict) {
    char token[JOB_CID_DIGITS], cid[JOB_CID_DIGITS];
    *verdict = -ENOMEM;
    if (b->calls.n == b->cap) {
        size_t cap = b->cap ? 2 * b->cap : 16;
        int **verdicts = realloc(b->verdicts, cap * sizeof *verdicts);
        if (!verdicts)
            return;
        b->verdicts = verdicts;
        b->cap = cap;
    }
    args[ARG_LEASE_WORKER] = str_view(b->worker_id);
    args[ARG_LEASE_TOKEN] = str_from_u64(token, lease->token);
    int i = redis_batch_eval(&b->calls, &b->queue->scripts[script], str_from_u64(cid, lease->cid),
                             args, n_args);
    if (i >= 0)
        b->verdicts[i] = verdict;
}

static void copy_text(char *dst, size_t cap, struct str_view v) {
    if (str_copy(dst, cap, v) < 0)
        dst[0] = '\0'; /* not of our making; the caller finds it empty */
}

static void read_spare(struct lease *l, struct str_view level, struct str_view since) {
    if (l->n_spares == QUEUE_MAX_SPARES)
        return;
    struct spare *s = &l->spares[l->n_spares++];
    copy_text(s->level, sizeof s->level, level);
    s->since_ms = 0;
    (void)str_u64(since, INT64_MAX, &s->since_ms);
}

static void read_field(struct lease *l, struct str_view key, struct str_view value) {
    if (str_is(key, FIELD_STATE))
        l->state = job_state_parse(value);
    else if (str_is(key, FIELD_REV))
        copy_text(l->rev, sizeof l->rev, value);
    else if (str_is(key, FIELD_SRC))
        copy_text(l->src, sizeof l->src, value);
    else if (str_is(key, FIELD_TARGET))
        copy_text(l->target, sizeof l->target, value);
    else if (str_is(key, FIELD_SEEN))
        copy_text(l->seen, sizeof l->seen, value);
    else if (str_is(key, FIELD_WAS))
        copy_text(l->was, sizeof l->was, value);
    else if (str_is(key, FIELD_MADE))
        copy_text(l->made, sizeof l->made, value);
    else if (str_is(key, FIELD_FROM))
        copy_text(l->from, sizeof l->from, value);
    else if (str_is(key, FIELD_TO))
        copy_text(l->to, sizeof l->to, value);
    else if (str_is(key, FIELD_NAME))
        copy_text(l->name, sizeof l->name, value);
    else if (str_is(key, FIELD_PATH))
        copy_text(l->path, sizeof l->path, value);
    else if (str_is(key, FIELD_TAKEN))
        copy_text(l->taken, sizeof l->taken, value);
    else if (str_is(key, FIELD_ATTEMPTS))
        (void)str_u64(value, UINT64_MAX, &l->attempts);
    else if (str_is(key, FIELD_WAITS))
        (void)str_u64(value, UINT64_MAX, &l->waits);
    else if (str_is(key, FIELD_CRASHES))
        (void)str_u64(value, UINT64_MAX, &l->crashes);
    else if (key.len > strlen(FIELD_SPARE) &&
             memcmp(key.ptr, FIELD_SPARE, strlen(FIELD_SPARE)) == 0)
        read_spare(l,
                   (struct str_view){key.ptr + strlen(FIELD_SPARE), key.len - strlen(FIELD_SPARE)},
                   value);
}

static int read_lease(const redis_reply *reply, struct lease *l) {
    const redis_reply *fields = redis_at(reply, CLAIMED_FIELDS);
    memset(l, 0, offsetof(struct lease, json));
    l->json[0] = '\0';
    if (job_cid_parse(redis_text(redis_at(reply, CLAIMED_CID)), &l->cid) < 0 ||
        str_u64(redis_text(redis_at(reply, CLAIMED_TOKEN)), UINT64_MAX, &l->token) < 0 ||
        str_u64(redis_text(redis_at(reply, CLAIMED_AT)), INT64_MAX, &l->claimed_ms) < 0)
        return -EPROTO;
    copy_text(l->json, sizeof l->json, redis_text(redis_at(reply, CLAIMED_JSON)));
    for (size_t i = 0; i + 1 < redis_len(fields); i += 2)
        read_field(l, redis_text(redis_at(fields, i)), redis_text(redis_at(fields, i + 1)));
    return 0;
}

int queue_claim(struct queue *q, struct redis *r, const char *worker_id, int64_t lease_ms,
                const struct queue_terms *terms, struct lease *leases, size_t most,
                int64_t *wait_ms) {
    char ms[JOB_CID_DIGITS], opens[JOB_CID_DIGITS], jobs[JOB_CID_DIGITS], want[JOB_CID_DIGITS];
    struct str_view key = str_view(KEY_DUE);
    const struct str_view args[ARGS_CLAIM] = {
        [ARG_CLAIM_WORKER] = str_view(worker_id),
        [ARG_CLAIM_LEASE_MS] = str_from_u64(ms, (uint64_t)lease_ms),
        [ARG_CLAIM_OPENS_MS] =
            terms->opens_ms > 0 ? str_from_u64(opens, (uint64_t)terms->opens_ms) : str_view(""),
        [ARG_CLAIM_LEVEL_JOBS] = str_from_u64(jobs, (uint64_t)terms->level_jobs),
        [ARG_CLAIM_REACH] = str_view(terms->reach),
        [ARG_CLAIM_MOST] = str_from_u64(want, most),
    };
    redis_reply *reply;
    int rc = redis_eval(r, &q->scripts[QUEUE_CLAIM], &key, 1, args, ARGS_CLAIM, &reply);
    if (rc < 0)
        return rc;
    size_t n = 0;
    *wait_ms = redis_int(reply);
    for (size_t i = 0; i < redis_len(reply) && n < most; i++)
        n += read_lease(redis_at(reply, i), &leases[n]) == 0; /* what is no cid is passed over */
    redis_reply_free(reply);
    return (int)n;
}

/* An integer reply or -errno. */
static int call_int(struct redis *r, const struct str_view *args, size_t n) {
    redis_reply *reply;
    int rc = redis_call(r, args, n, &reply);
    if (rc < 0)
        return rc;
    rc = redis_is_nil(reply)                         ? 0
         : redis_len(reply) || redis_text(reply).len ? 1
                                                     : (int)redis_int(reply);
    redis_reply_free(reply);
    return rc;
}

struct cid_keys {
    char lock[JOB_CID_DIGITS + sizeof KEY_LOCK], job[JOB_CID_DIGITS + sizeof KEY_JOB];
};

static struct cid_keys keys_of(uint64_t cid) {
    struct cid_keys k;
    snprintf(k.lock, sizeof k.lock, KEY_LOCK "%" PRIu64, cid);
    snprintf(k.job, sizeof k.job, KEY_JOB "%" PRIu64, cid);
    return k;
}

int queue_busy(struct redis *r, uint64_t cid) {
    char text[JOB_CID_DIGITS];
    struct cid_keys k = keys_of(cid);
    struct str_view exists[] = {str_view("EXISTS"), str_view(k.lock)};
    struct str_view state[] = {str_view("HGET"), str_view(k.job), str_view(FIELD_STATE)};
    struct str_view due[] = {str_view("ZSCORE"), str_view(KEY_DUE), str_from_u64(text, cid)};
    redis_reply *reply;
    int rc = call_int(r, exists, 2);
    if (rc != 0)
        return rc < 0 ? rc : QUEUE_HELD;
    rc = redis_call(r, state, 3, &reply);
    if (rc < 0)
        return rc;
    enum job_state at = job_state_parse(redis_text(reply));
    redis_reply_free(reply);
    if (at == JOB_STATE_NONE) { /* posted, and not claimed yet */
        rc = call_int(r, due, 3);
        return rc <= 0 ? rc : QUEUE_WAITS;
    }
    return job_state_phase(at) != JOB_PHASE_ENDED ? QUEUE_WAITS : QUEUE_IDLE;
}

int queue_dones(struct queue *q, struct redis *r, uint64_t *cursor,
                void (*each)(void *ctx, uint64_t cid, struct str_view json), void *ctx) {
    char text[JOB_CID_DIGITS];
    struct str_view key = str_view(KEY_DUE);
    const struct str_view args[ARGS_DONES] = {
        [ARG_DONES_CURSOR] = str_from_u64(text, *cursor),
        [ARG_DONES_BATCH] = str_view(SCAN_KEYS),
    };
    redis_reply *reply;
    int rc = redis_eval(r, &q->scripts[QUEUE_DONES], &key, 1, args, ARGS_DONES, &reply);
    if (rc < 0)
        return rc;
    uint64_t next = 0, cid;
    (void)str_u64(redis_text(redis_at(reply, FOUND_NEXT)), UINT64_MAX, &next);
    for (size_t i = FOUND_FIRST; i + 1 < redis_len(reply); i += 2)
        if (job_cid_parse(redis_text(redis_at(reply, i)), &cid) == 0)
            each(ctx, cid, redis_text(redis_at(reply, i + 1)));
    redis_reply_free(reply);
    *cursor = next;
    return 0;
}

int queue_look(struct queue *q, struct redis *r, uint64_t cid) {
    redis_reply *reply;
    int rc = eval(q, r, QUEUE_ADD, cid, add_anything, ARGS_ADD, &reply);
    if (rc == 0)
        redis_reply_free(reply);
    return rc;
}

int queue_lock(struct redis *r, uint64_t cid, const char *holder, int64_t lease_ms) {
    char ms[JOB_CID_DIGITS];
    struct cid_keys k = keys_of(cid);
    struct str_view args[] = {str_view("SET"),  str_view(k.lock),
                              str_view(holder), str_view("NX"),
                              str_view("PX"),   str_from_u64(ms, (uint64_t)lease_ms)};
    return call_int(r, args, 6);
}

int queue_unlock(struct queue *q, struct redis *r, uint64_t cid, const char *holder) {
    const struct str_view args[ARGS_UNLOCK] = {[ARG_UNLOCK_HOLDER] = str_view(holder)};
    redis_reply *reply;
    int rc = eval(q, r, QUEUE_UNLOCK, cid, args, ARGS_UNLOCK, &reply);
    if (rc == 0)
        redis_reply_free(reply);
    return rc;
}

int queue_spare(struct queue *q, struct redis *r, uint64_t cid, const char *level,
                const char *spare) {
    const struct str_view args[ARGS_SPARE] = {
        [ARG_SPARE_LEVEL] = str_view(level),
        [ARG_SPARE_SPARE] = str_view(spare),
    };
    redis_reply *reply;
    int rc = eval(q, r, QUEUE_SPARE, cid, args, ARGS_SPARE, &reply);
    if (rc < 0)
        return rc;
    rc = (int)redis_int(reply);
    redis_reply_free(reply);
    return rc;
}

/* A script about a gate; its integer reply or -errno. */
static int64_t eval_gate(struct queue *q, struct redis *r, enum queue_script script,
                         const struct str_view *args, size_t n_args) {
    struct str_view key = str_view(KEY_PAUSED);
    redis_reply *reply;
    int rc = redis_eval(r, &q->scripts[script], &key, 1, args, n_args, &reply);
    if (rc < 0)
        return rc;
    int64_t n = redis_int(reply);
    redis_reply_free(reply);
    return n;
}

int queue_full(struct queue *q, struct redis *r, const char *level, int64_t for_ms,
               const char *why) {
    char ms[JOB_CID_DIGITS];
    const struct str_view args[ARGS_PAUSE] = {
        [ARG_PAUSE_GATE] = str_view(level),
        [ARG_PAUSE_FOR_MS] = str_from_u64(ms, (uint64_t)for_ms),
        [ARG_PAUSE_WHY] = str_view(why),
    };
    int64_t rc = eval_gate(q, r, QUEUE_PAUSE, args, ARGS_PAUSE);
    return rc < 0 ? (int)rc : 0;
}

int queue_pause(struct queue *q, struct redis *r, const char *gate, int64_t for_ms) {
    return queue_full(q, r, gate, for_ms, "");
}

int64_t queue_resume(struct queue *q, struct redis *r, const char *gate) {
    char most[JOB_CID_DIGITS];
    int64_t freed = 0, n;
    const struct str_view args[ARGS_RESUME] = {
        [ARG_RESUME_GATE] = str_view(gate),
        [ARG_RESUME_MOST] = str_from_u64(most, RESUME_BATCH),
    };
    do { /* in batches, so that Redis answers others in between */
        n = eval_gate(q, r, QUEUE_RESUME, args, ARGS_RESUME);
        freed += n > 0 ? n : 0;
    } while (n == RESUME_BATCH);
    return n < 0 ? n : freed;
}

int queue_begin(struct queue *q, struct redis *r, struct lease *lease, const char *worker_id,
                const struct job *job, const char *seen, struct str_view read_json,
                const char *stale) {
    char token[JOB_CID_DIGITS];
    redis_reply *reply;
    struct buf head;
    buf_init(&head, JOB_JSON_BYTES);
    job_write_head(&head, job);
    const struct str_view args[ARGS_BEGIN] = {
        [ARG_BEGIN_WORKER] = str_view(worker_id),
        [ARG_BEGIN_TOKEN] = str_from_u64(token, lease->token),
        [ARG_BEGIN_HEAD] = buf_view(&head),
        [ARG_BEGIN_SRC] = str_view(job->db_level),
        [ARG_BEGIN_TARGET] = str_view(job->target),
        [ARG_BEGIN_SEEN] = str_view(seen),
        [ARG_BEGIN_FILENAME] = str_view(job->filename),
        [ARG_BEGIN_READ] = read_json,
        [ARG_BEGIN_REV] = str_view(lease->rev),
        [ARG_BEGIN_STALE] = str_view(stale ? stale : ""),
    };
    int rc =
        head.failed ? -EMSGSIZE : eval(q, r, QUEUE_BEGIN, lease->cid, args, ARGS_BEGIN, &reply);
    buf_release(&head);
    if (rc < 0)
        return rc;
    if (redis_len(reply) == BEGUN_PLACES) {
        copy_text(lease->rev, sizeof lease->rev, redis_text(redis_at(reply, BEGUN_REV)));
        rc = 0;
    } else {
        rc = -ESTALE;
    }
    redis_reply_free(reply);
    return rc;
}

void queue_renew(struct queue_batch *b, const struct lease *lease, int64_t lease_ms,
                 const char *spare, int *verdict) {
    const struct progress *p = &lease->progress;
    char ms[JOB_CID_DIGITS], n[5][JOB_CID_DIGITS];
    struct str_view args[ARGS_RENEW] = {
        [ARG_RENEW_REV] = str_view(lease->rev),
        [ARG_RENEW_LEASE_MS] = str_from_u64(ms, (uint64_t)lease_ms),
        [ARG_RENEW_SPARE] = str_view(spare ? spare : ""),
        [ARG_RENEW_DONE] = str_from_u64(n[0], p->done_bytes),
        [ARG_RENEW_TOTAL] = str_from_u64(n[1], p->total_bytes),
        [ARG_RENEW_RATE] = str_from_u64(n[2], p->bytes_per_s),
        [ARG_RENEW_UNTOLD] = str_from_u64(n[3], p->untold_bytes),
        [ARG_RENEW_BEGAN] = str_from_u64(n[4], lease->claimed_ms),
    };
    add_call(b, QUEUE_RENEW, lease, args, ARGS_RENEW, verdict);
}

void queue_done(struct queue_batch *b, const struct lease *lease, int64_t took_ms, int *verdict) {
    char n[3][JOB_CID_DIGITS];
    struct str_view args[ARGS_DONE] = {
        [ARG_DONE_REV] = str_view(lease->rev),
        [ARG_DONE_BYTES] = str_from_u64(n[0], lease->progress.done_bytes),
        [ARG_DONE_UNTOLD] = str_from_u64(n[1], lease->progress.untold_bytes),
        [ARG_DONE_TOOK_MS] = str_from_u64(n[2], (uint64_t)took_ms),
        [ARG_DONE_SEEN] = str_view(lease->seen),
        [ARG_DONE_WAS] = str_view(lease->was),
        [ARG_DONE_MADE] = str_view(lease->made),
        [ARG_DONE_TO] = str_view(lease->target),
        [ARG_DONE_NAME] = str_view(lease->name),
        [ARG_DONE_PATH] = str_view(lease->path),
    };
    add_call(b, QUEUE_DONE, lease, args, ARGS_DONE, verdict);
}

void queue_finish(struct queue_batch *b, const struct lease *lease, const char *const *retired,
                  size_t n_retired, int *verdict) {
    char ttl[JOB_CID_DIGITS];
    struct str_view args[ARGS_FINISH + QUEUE_MAX_SPARES] = {
        [ARG_FINISH_TTL] = str_from_u64(ttl, (uint64_t)kept_ms(b->queue)),
    };
    for (size_t i = 0; i < n_retired && i < QUEUE_MAX_SPARES; i++)
        args[ARG_FINISH_RETIRED + i] = str_view(retired[i]);
    add_call(b, QUEUE_FINISH, lease, args, ARGS_FINISH + n_retired, verdict);
}

static void add_release(struct queue_batch *b, const struct lease *lease, int64_t delay_ms,
                        enum queue_counts counts, const char *error, bool no_room, int *verdict) {
    static const char *const as[] = {
        [QUEUE_COUNTS_WAIT] = COUNTS_WAIT,
        [QUEUE_COUNTS_ATTEMPT] = COUNTS_ATTEMPT,
        [QUEUE_COUNTS_NOTHING] = COUNTS_NOTHING,
        [QUEUE_COUNTS_HANG] = COUNTS_HANG,
    };
    char ms[JOB_CID_DIGITS];
    struct str_view args[ARGS_RELEASE] = {
        [ARG_RELEASE_DELAY_MS] = str_from_u64(ms, (uint64_t)delay_ms),
        [ARG_RELEASE_COUNTS] = str_view(as[counts]),
        [ARG_RELEASE_SENTENCE] = str_view(error),
        [ARG_RELEASE_NO_ROOM] = str_view(no_room ? "1" : "0"),
    };
    add_call(b, QUEUE_RELEASE, lease, args, ARGS_RELEASE, verdict);
}

void queue_release(struct queue_batch *b, const struct lease *lease, int64_t delay_ms,
                   enum queue_counts counts, const char *error, int *verdict) {
    add_release(b, lease, delay_ms, counts, error, false, verdict);
}

void queue_no_room(struct queue_batch *b, const struct lease *lease, int64_t delay_ms,
                   const char *error, int *verdict) {
    add_release(b, lease, delay_ms, QUEUE_COUNTS_WAIT, error, true, verdict);
}

void queue_fail(struct queue_batch *b, const struct lease *lease, enum job_status status,
                const char *error, const char *drop_spare, int *verdict) {
    struct buf json;
    buf_init(&json, 6 * JOB_ERROR_BYTES);
    buf_add_json(&json, str_view(error));
    struct str_view args[ARGS_FAIL] = {
        [ARG_FAIL_STATUS] = str_view(job_status_name(status)),
        [ARG_FAIL_SENTENCE_JSON] = buf_view(&json),
        [ARG_FAIL_SENTENCE] = str_view(error),
        [ARG_FAIL_DROP] = str_view(drop_spare ? drop_spare : ""),
        [ARG_FAIL_REV] = str_view(lease->rev),
    };
    *verdict = -ENOMEM;
    if (!json.failed)
        add_call(b, QUEUE_FAIL, lease, args, ARGS_FAIL, verdict);
    buf_release(&json);
}

/* Decides on one candidate of the scan; true when it is worth reporting. */
static bool judge_found(struct queue *q, struct redis *r, struct str_view json,
                        struct queue_found *found) {
    struct job job;
    redis_reply *reply;
    found->why = job_read(json, found->cid, &job);
    found->is_job = found->why == JOB_OK;
    if (found->is_job && job.status != JOB_UPDATE)
        return false;
    const struct str_view args[ARGS_ADD] = {
        [ARG_ADD_BAD] = str_view(found->is_job ? "" : "bad"),
        [ARG_ADD_READ] = json,
    };
    if (eval(q, r, QUEUE_ADD, found->cid, args, ARGS_ADD, &reply) < 0)
        return false;
    bool new = redis_int(reply) == 1;
    redis_reply_free(reply);
    return new;
}

int queue_scan(struct queue *q, struct redis *r, const char *worker_id, int64_t turn_ms,
               int64_t rest_ms, uint64_t *cursor, struct queue_found found[QUEUE_SCAN_MAX],
               size_t *n_found) {
    char n[3][JOB_CID_DIGITS];
    struct str_view key = str_view(KEY_DUE);
    const struct str_view args[ARGS_SCAN] = {
        [ARG_SCAN_CURSOR] = str_from_u64(n[0], *cursor),
        [ARG_SCAN_BATCH] = str_view(SCAN_KEYS),
        [ARG_SCAN_WORKER] = str_view(worker_id),
        [ARG_SCAN_TURN_MS] = str_from_u64(n[1], (uint64_t)turn_ms),
        [ARG_SCAN_REST_MS] = str_from_u64(n[2], (uint64_t)rest_ms),
    };
    redis_reply *reply;
    int rc = redis_eval(r, &q->scripts[QUEUE_SCAN], &key, 1, args, ARGS_SCAN, &reply);
    if (rc < 0)
        return rc;
    *n_found = 0;
    uint64_t next = 0;
    (void)str_u64(redis_text(redis_at(reply, FOUND_NEXT)), UINT64_MAX, &next);
    for (size_t i = FOUND_FIRST; i + 1 < redis_len(reply) && *n_found < QUEUE_SCAN_MAX; i += 2) {
        struct queue_found *f = &found[*n_found];
        if (job_cid_parse(redis_text(redis_at(reply, i)), &f->cid) == 0 &&
            judge_found(q, r, redis_text(redis_at(reply, i + 1)), f))
            (*n_found)++;
    }
    redis_reply_free(reply);
    *cursor = next;
    return 0;
}

int queue_sleep(struct redis *r, int64_t wait_ms, const void *sigmask) {
    char seconds[32];
    snprintf(seconds, sizeof seconds, "%.3f", (double)(wait_ms > 0 ? wait_ms : 1) / 1000.0);
    struct str_view args[] = {str_view("BLPOP"), str_view(KEY_WAKE), str_view(seconds)};
    struct pollfd p = {.events = POLLIN};
    int rc = redis_start(r, args, 3, &p.fd);
    if (rc < 0)
        return rc;
    /* Redis ends the wait; if it does not, it is away. */
    int64_t limit_ms = wait_ms + 2000;
    struct timespec ts = {limit_ms / 1000, (long)(limit_ms % 1000) * 1000000};
    int n = ppoll(&p, 1, &ts, sigmask);
    if (n < 0)
        return -errno;
    if (n == 0)
        return -ETIMEDOUT;
    redis_reply *reply;
    rc = redis_finish(r, &reply);
    if (rc == 0)
        redis_reply_free(reply);
    return rc;
}

int queue_wake(struct redis *r) {
    struct str_view args[] = {str_view("LPUSH"), str_view(KEY_WAKE), str_view("1")};
    redis_reply *reply;
    int rc = redis_call(r, args, 3, &reply);
    if (rc < 0)
        return rc;
    redis_reply_free(reply);
    struct str_view trim[] = {str_view("LTRIM"), str_view(KEY_WAKE), str_view("0"), str_view("0")};
    rc = redis_call(r, trim, 4, &reply);
    if (rc == 0)
        redis_reply_free(reply);
    return rc;
}

int queue_level_ids(struct redis *r,
                    void (*each)(void *ctx, struct str_view level, struct str_view id), void *ctx) {
    struct str_view args[] = {str_view("HGETALL"), str_view(KEY_LEVELS)};
    redis_reply *reply;
    int rc = redis_call(r, args, 2, &reply);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i + 1 < redis_len(reply); i += 2)
        each(ctx, redis_text(redis_at(reply, i)), redis_text(redis_at(reply, i + 1)));
    redis_reply_free(reply);
    return 0;
}

int queue_level_know(struct redis *r, const char *level, const char *id, bool replace) {
    struct str_view args[] = {str_view(replace ? "HSET" : "HSETNX"), str_view(KEY_LEVELS),
                              str_view(level), str_view(id)};
    redis_reply *reply;
    int rc = redis_call(r, args, 4, &reply);
    if (rc == 0)
        redis_reply_free(reply);
    return rc;
}
