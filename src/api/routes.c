#include "api/routes.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "net/form.h"
#include "net/http_syntax.h"

enum {
    HEALTH_BYTES = 8 * (FAULT_TEXT_BYTES + KEYS_TEXT_BYTES), /* sentences, their bytes escaped */
    HEALTH_MS = 950,  /* both parts together; one that has not answered by then is down */
    TRIES_MAX = 5,    /* a post that meets a commit, or a restarted Redis, looks again this often */
    ODD_MS = 2000,    /* what is large and no job is not asked for again for so long */
    SPARES_MAX = 256, /* ops kept for the next requests: what is under way in a busy turn */
};

#define JSON_TYPE "application/json"
#define FORM_TYPE "application/x-www-form-urlencoded"
#define TEXT_TYPE "text/plain"

/* What people are told is away. */
#define REDIS "redis"

/* One request under way. */
struct op {
    struct routes *r;
    struct op *next;
    struct http_exchange *x;
    uint64_t cid;
    struct lookup lookup;
    struct queue_post post;
    int tries;
    /* a post */
    bool is_post;
    uint64_t count;
    char ack[JOB_JSON_BYTES];
    /* a commit, and what the queue said of the job */
    struct commit commit;
    struct job old; /* target, db_level (where it came from), filename */
    char old_seen[QUEUE_SEEN_BYTES], rev[JOB_CID_DIGITS], path[JOB_PATH_BYTES];
    bool is_foreign; /* another program moved the file; `ack` is what it wrote */
    /* health; x is NULL once it was answered */
    struct loop_timer deadline;
    struct db_check check;
    int waiting;
    bool redis_ok, db_ok;
};

static struct op *op_new(struct routes *r, struct http_exchange *x) {
    struct op *op = r->spare;
    if (op) {
        r->spare = op->next;
        r->n_spare--;
    } else {
        op = malloc(sizeof *op);
    }
    if (!op) {
        http_reply_error(x, 503, "out of memory", HTTP_RETRY_LATER);
        return NULL;
    }
    op->r = r;
    op->x = x;
    op->tries = 0;
    op->is_post = false;
    op->ack[0] = '\0';
    return op;
}

static void op_free(struct op *op) {
    if (op->r->n_spare == SPARES_MAX) {
        free(op);
        return;
    }
    op->next = op->r->spare;
    op->r->spare = op;
    op->r->n_spare++;
}

static void op_reply(struct op *op, int status, const char *type, struct str_view body) {
    struct http_exchange *x = op->x;
    http_reply(x, status, type, body, NULL);
    op_free(op);
}

static void op_error(struct op *op, int status, const char *sentence) {
    struct http_exchange *x = op->x;
    if (op->is_post)
        metrics_add(op->r->metrics, status < 500 ? METRIC_POST_REFUSED : METRIC_POST_FAILED, 1);
    http_reply_error(x, status, sentence, status == 503 ? HTTP_RETRY_LATER : NULL);
    op_free(op);
}

/* What is known of a server says more than the result of one call. */
static void op_away(struct op *op, const char *part, int rc) {
    bool is_redis = strcmp(part, REDIS) == 0;
    const struct server_fault *fault =
        is_redis ? redis_async_fault(op->r->redis) : db_pool_fault(op->r->db);
    char text[FAULT_TEXT_BYTES + KEYS_TEXT_BYTES], what[FAULT_TEXT_BYTES];
    const char *amiss = guard_stopping(op->r->guard);
    bool passes = rc == -EAGAIN || rc == -ENOBUFS || rc == -ENOMEM;
    if (rc == -EPROTO)
        guard_look(op->r->guard);
    fault_text(fault, false, what);
    if (fault->trouble == SERVER_NO_WRITES || (rc == -ENOTCONN && fault->trouble != SERVER_FINE))
        snprintf(text, sizeof text, "%s %s", part, what);
    else if (passes)
        snprintf(text, sizeof text, "%s cannot take this now, try again", part);
    else if (rc == -EPROTO && strcmp(part, REDIS) == 0)
        snprintf(text, sizeof text, "redis refuses the request: %s",
                 amiss ? amiss : redis_async_words(op->r->redis));
    else if (rc == -EPROTO)
        snprintf(text, sizeof text, "%s refuses the request, see its log", part);
    else
        snprintf(text, sizeof text, "%s is away", part);
    op_error(op, 503, text);
}

/* The database did not do what was asked, `doing` in its sentence. It says why itself. What it
 * refuses to commit until somebody changes something is 500, so that a worker need not hope; a
 * client that posts can only try again. */
static void op_db_failed(struct op *op, int rc, const char *doing) {
    char text[DB_ERROR_BYTES + 96];
    const struct db_pool *db = op->r->db;
    bool refuses = rc == -EPROTO || rc == -EILSEQ || rc == -ENOKEY;
    if (refuses)
        snprintf(text, sizeof text, "the database refuses the %s: %s", doing, db_pool_error(db));
    else if (rc == -EAGAIN)
        snprintf(text, sizeof text, "the database cannot take the %s now: %s", doing,
                 db_pool_error(db));
    else if (rc == -EBADMSG)
        snprintf(text, sizeof text, "a name in the catalogue is longer than its column");
    else {
        op_away(op, "the database", rc);
        return;
    }
    op_error(op, refuses && !op->is_post ? 500 : 503, text);
}

/* ---- parameters ---- */

static bool field_good(struct http_exchange *x, const struct form_field *f, int rc,
                       const char *range) {
    char text[256];
    if (f->times == 0)
        snprintf(text, sizeof text, "the parameter '%s' is missing", f->name);
    else if (f->times > 1)
        snprintf(text, sizeof text, "the parameter '%s' is given %zu times", f->name, f->times);
    else if (f->malformed)
        snprintf(text, sizeof text, "the parameter '%s' is malformed; it is a whole number %s",
                 f->name, range);
    else if (rc < 0)
        snprintf(text, sizeof text,
                 "the parameter '%s' is '%s'; it is a whole number %s, digits alone", f->name,
                 f->value, range);
    else
        return true;
    http_reply_error(x, 400, text, NULL);
    return false;
}

/* The media type without its parameters (RFC 9110, 8.3.1). */
static bool type_is(struct str_view type, const char *name) {
    return str_is_nocase(http_trim(http_take(&type, ';')), name);
}

enum body_type { BODY_FORM, BODY_JSON, BODY_OTHER };

static enum body_type body_type(const struct http_request *req) {
    if (req->content_type.len == 0 || type_is(req->content_type, FORM_TYPE))
        return BODY_FORM;
    return type_is(req->content_type, JSON_TYPE) ? BODY_JSON : BODY_OTHER;
}

/* Fills the fields, or answers and returns false. */
static bool read_body(struct http_exchange *x, const struct http_request *req, struct str_view body,
                      struct form_field *fields, size_t n) {
    if (body_type(req) == BODY_FORM) {
        form_read(body, fields, n);
        return true;
    }
    if (!form_read_json(body, fields, n)) {
        http_reply_error(x, 400, "the body is not a JSON object", NULL);
        return false;
    }
    return true;
}

static bool read_cid(struct http_exchange *x, const struct form_field *f, uint64_t *cid) {
    return field_good(x, f, job_cid_parse(str_view(f->value), cid),
                      "from 1 to 18446744073709551615");
}

/* ---- commit: shared by /update_sentence and a post that meets a done job ---- */

static void post_look_up(struct op *op);

/* The commit is over; `committed`: the row says what the job wanted. */
static void commit_over(struct op *op, bool committed) {
    if (op->is_post) {
        post_look_up(op);
        return;
    }
    metrics_add(op->r->metrics, committed ? METRIC_COMMITTED : METRIC_COMMIT_REFUSED, 1);
    char text[JOB_CID_DIGITS];
    if (!committed) {
        op_reply(op, 409, TEXT_TYPE, str_view("check your status again"));
        return;
    }
    snprintf(text, sizeof text, "%" PRIu64, op->cid);
    op_reply(op, 200, TEXT_TYPE, str_view(text));
}

static void on_marked(void *ctx, int rc, const redis_reply *reply) {
    struct op *op = ctx;
    (void)reply;
    if (rc < 0)
        op_away(op, REDIS, rc); /* the row stands; the worker posts again and finds it so */
    else
        commit_over(op, true);
}

static void on_replanned(void *ctx, int rc, const redis_reply *reply) {
    struct op *op = ctx;
    (void)reply;
    if (rc < 0)
        op_away(op, REDIS, rc);
    else
        commit_over(op, false);
}

static void mark_committed(struct op *op) {
    struct routes *r = op->r;
    int rc =
        op->is_foreign
            ? queue_taken(r->queue, r->redis, op->cid, str_view(op->ack), op->old.db_level,
                          op->old.target, op->old_seen, on_marked, op)
            : queue_committed(r->queue, r->redis, op->cid, op->rev, op->old_seen, on_marked, op);
    if (rc < 0)
        op_away(op, REDIS, rc);
}

/* The UPDATE may have changed nothing: it says so, it did before, or the row is not what was moved.
 */
static void on_row_after(struct lookup *l, int rc, const struct content *row) {
    struct op *op = (struct op *)((char *)l - offsetof(struct op, lookup));
    if (rc < 0) {
        op_db_failed(op, rc, "look-up");
        return;
    }
    if (row && strcmp(row->level, op->old.target) == 0 &&
        strcmp(row->filename, op->old.filename) == 0) {
        mark_committed(op);
        return;
    }
    if (op->is_foreign) {
        commit_over(op, false);
        return;
    }
    bool same = row && strcmp(row->level, op->old.db_level) == 0 &&
                strcmp(row->filename, op->old.filename) == 0 &&
                strcmp(row->seen, op->old_seen) == 0;
    log_event(LOG_WARN,
              same ? "the path of the level changed while a file was moved into it, planning anew"
                   : "the row changed while its file was moved, planning anew",
              LOG_U64("cid", op->cid));
    rc = queue_replan(op->r->queue, op->r->redis, op->cid, op->rev, op->old_seen, on_replanned, op);
    if (rc < 0)
        op_away(op, REDIS, rc);
}

static void on_updated(struct commit *commit, int rc, bool changed) {
    struct op *op = (struct op *)((char *)commit - offsetof(struct op, commit));
    if (rc < 0) {
        op_db_failed(op, rc, "commit");
        return;
    }
    if (changed) {
        mark_committed(op);
        return;
    }
    op->lookup = (struct lookup){.cid = op->cid, .done = on_row_after};
    rc = catalog_lookup(op->r->catalog, &op->lookup);
    if (rc < 0)
        op_db_failed(op, rc, "look-up");
}

static void on_added(void *ctx, int rc, const redis_reply *reply) {
    struct op *op = ctx;
    (void)rc;
    (void)reply;
    commit_over(op, false);
}

static void send_update(struct op *op) {
    op->commit = (struct commit){.cid = op->cid,
                                 .filename = str_view(op->old.filename),
                                 .src = str_view(op->old.db_level),
                                 .target = str_view(op->old.target),
                                 .seen = str_view(op->old_seen),
                                 .path = str_view(op->path),
                                 .done = on_updated};
    int rc = catalog_commit(op->r->catalog, &op->commit);
    if (rc < 0)
        op_db_failed(op, rc, "commit");
}

/* The JSON says done, and the row the same. Where the move is not one of ours that was counted, it
 * is noted: perhaps only the answer was lost. */
static void row_says_so(struct op *op) {
    op->old_seen[0] = '\0'; /* of the row before, which is not known */
    if (op->is_foreign && strcmp(op->old.db_level, op->old.target) != 0)
        mark_committed(op);
    else
        commit_over(op, true);
}

/* No job is done and uncommitted, but the JSON says done: true if the row says the same. Else, if
 * another program wrote it and the row is still where that moved the file from, it is committed as
 * a move of ours is. A done that was counted before is not believed, a worker looks at the files
 * first. */
static void on_row_of_done(struct lookup *l, int rc, const struct content *row) {
    struct op *op = (struct op *)((char *)l - offsetof(struct op, lookup));
    const struct ladder *ladder = catalog_ladder(op->r->catalog);
    if (rc < 0) {
        op_db_failed(op, rc, "look-up");
        return;
    }
    if (row && strcmp(row->level, op->old.target) == 0) {
        row_says_so(op);
        return;
    }
    if (row && op->is_foreign && strcmp(row->level, op->old.db_level) == 0 &&
        strcmp(row->filename, op->old.filename) == 0 &&
        ladder_find(ladder, str_view(op->old.target)) &&
        str_copy(op->old_seen, sizeof op->old_seen, str_view(row->seen)) == 0) {
        op->path[0] = '\0'; /* nobody knows under which it was put there */
        send_update(op);
        return;
    }
    if (!row || op->rev[0] || op->is_post ||
        queue_add(op->r->queue, op->r->redis, op->cid, on_added, op) < 0)
        commit_over(op, false);
}

static void start_update(struct op *op, const struct queue_peek *p) {
    if (str_copy(op->old.db_level, sizeof op->old.db_level, p->src) < 0 ||
        str_copy(op->old.target, sizeof op->old.target, p->target) < 0 ||
        str_copy(op->old.filename, sizeof op->old.filename, p->filename) < 0 ||
        str_copy(op->old_seen, sizeof op->old_seen, p->seen) < 0 ||
        str_copy(op->path, sizeof op->path, p->path) < 0) {
        op_error(op, 500, "the job in redis is malformed");
        return;
    }
    send_update(op);
}

static void on_peeked(void *ctx, int rc, const redis_reply *reply) {
    struct op *op = ctx;
    struct queue_peek p;
    if (rc < 0) {
        op_away(op, REDIS, rc);
        return;
    }
    queue_peek_reply(reply, &p);
    if (str_copy(op->rev, sizeof op->rev, p.rev) < 0)
        op->rev[0] = '\0';
    op->is_foreign = false;
    if (str_is(p.state, "done")) {
        start_update(op, &p);
        return;
    }
    op->is_foreign = p.is_foreign && str_copy(op->ack, sizeof op->ack, p.json) == 0;
    if (!p.has_json || job_read(p.json, op->cid, &op->old) != JOB_OK ||
        op->old.status != JOB_DONE) {
        commit_over(op, false);
        return;
    }
    op->lookup = (struct lookup){.cid = op->cid, .done = on_row_of_done};
    rc = catalog_lookup(op->r->catalog, &op->lookup);
    if (rc < 0)
        op_db_failed(op, rc, "look-up");
}

static void commit_start(struct op *op) {
    int rc = queue_peek(op->r->queue, op->r->redis, op->cid, on_peeked, op);
    if (rc < 0)
        op_away(op, REDIS, rc);
}

/* ---- POST /post_sentence ---- */

static void note_odd(struct routes *r, uint64_t cid) {
    size_t i = r->next_odd++ % ROUTES_ODD;
    r->odd[i].cid = cid;
    r->odd[i].until_ms = loop_now_ms(r->loop) + ODD_MS;
}

static bool is_odd(const struct routes *r, uint64_t cid) {
    for (size_t i = 0; i < ROUTES_ODD; i++)
        if (r->odd[i].cid == cid && r->odd[i].until_ms > loop_now_ms(r->loop))
            return true;
    return false;
}

/* The row is looked up anew; where what stands is a move that another program has made, that is
 * committed before. */
static void look_again(struct op *op, struct str_view stands) {
    struct job job;
    if (str_copy(op->ack, sizeof op->ack, stands) < 0)
        op->ack[0] = '\0';
    if (job_read(stands, op->cid, &job) == JOB_OK && job.status == JOB_DONE)
        commit_start(op);
    else
        post_look_up(op);
}

static void on_posted(struct queue_post *post, int rc, enum queue_posted how,
                      struct str_view text) {
    struct op *op = (struct op *)((char *)post - offsetof(struct op, post));
    char sentence[KEYS_TEXT_BYTES];
    if (rc == -EAGAIN &&
        op->tries < 2) { /* its scripts were flushed, they are loaded again by now */
        post_look_up(op);
        return;
    }
    if (rc < 0) {
        op_away(op, REDIS, rc);
        return;
    }
    switch (how) {
    case QUEUE_POSTED:
        metrics_add(op->r->metrics, METRIC_POST_ACCEPTED, 1);
        op_reply(op, 200, JSON_TYPE, text);
        break;
    case QUEUE_LOOK_AGAIN:
        look_again(op, text);
        break;
    case QUEUE_COMMIT_FIRST:
        commit_start(op);
        break;
    case QUEUE_NO_JOB:
        note_odd(op->r, op->cid);
        /* fall through */
    case QUEUE_BAD_KEY:
        snprintf(sentence, sizeof sentence, "%.*s", STR_ARG(text));
        op_error(op, 409, sentence);
        break;
    }
}

static void on_post_row(struct lookup *l, int rc, const struct content *row) {
    struct op *op = (struct op *)((char *)l - offsetof(struct op, lookup));
    char text[96];
    if (rc < 0) {
        op_db_failed(op, rc, "look-up");
        return;
    }
    if (!row) {
        snprintf(text, sizeof text, "the content with cid %" PRIu64 " does not exist", op->cid);
        op_error(op, 404, text);
        return;
    }
    struct policy_question q = {catalog_ladder(op->r->catalog), row->level, op->count, row->age_ms,
                                op->r->use};
    struct policy_answer answer = policy_decide(op->r->policy, &q);
    const struct level *target = answer.target;
    if (!target) {
        op_error(op, 503, "the catalogue has no levels yet");
        return;
    }
    if (op->tries == 1) /* not again for the same post */
        metrics_decided(op->r->metrics, &q, &answer);
    struct job *job = &op->old;
    job->cid = op->cid;
    job->count = op->count;
    if (str_copy(job->target, sizeof job->target, str_view(target->name)) < 0 ||
        str_copy(job->db_level, sizeof job->db_level, str_view(row->level)) < 0 ||
        str_copy(job->filename, sizeof job->filename, str_view(row->filename)) < 0) {
        op_error(op, 500, "a name in the catalogue is longer than its column");
        return;
    }
    job->status = strcmp(target->name, row->level) == 0 ? JOB_DONE : JOB_UPDATE;
    job->worker_id[0] = job->error[0] = '\0';
    op->post.done = on_posted;
    rc = queue_post(&op->r->posts, &op->post, job, row->seen, str_view(op->ack));
    if (rc == -EMSGSIZE)
        op_error(op, 500, "the names in the catalogue are too long for a job");
    else if (rc < 0)
        op_away(op, REDIS, rc);
}

static void post_look_up(struct op *op) {
    if (op->tries++ == TRIES_MAX) {
        op_error(op, 503, "the content is being moved just now, try again");
        return;
    }
    op->lookup = (struct lookup){.cid = op->cid, .done = on_post_row};
    int rc = catalog_lookup(op->r->catalog, &op->lookup);
    if (rc < 0)
        op_db_failed(op, rc, "look-up");
}

static void handle_post(struct routes *r, struct http_exchange *x, const struct http_request *req,
                        struct str_view body) {
    struct form_field fields[] = {{.name = "cid"}, {.name = "count"}};
    uint64_t cid, count;
    if (!read_body(x, req, body, fields, 2) || !read_cid(x, &fields[0], &cid) ||
        !field_good(x, &fields[1], job_count_parse(str_view(fields[1].value), &count),
                    "from 0 to 9223372036854775807")) {
        metrics_add(r->metrics, METRIC_POST_REFUSED, 1);
        return;
    }
    struct op *op = op_new(r, x);
    if (!op)
        return;
    op->cid = cid;
    op->count = count;
    op->is_post = true;
    if (is_odd(r, cid)) {
        char text[KEYS_TEXT_BYTES];
        keys_no_job(text, sizeof text, cid);
        op_error(op, 409, text);
        return;
    }
    if (!redis_async_up(r->redis)) {
        op_away(op, REDIS, -ENOTCONN);
        return;
    }
    post_look_up(op);
}

/* ---- POST /update_sentence ---- */

static void handle_update(struct routes *r, struct http_exchange *x, const struct http_request *req,
                          struct str_view body) {
    struct form_field field = {.name = "cid"};
    uint64_t cid;
    if (!read_body(x, req, body, &field, 1) || !read_cid(x, &field, &cid))
        return;
    struct op *op = op_new(r, x);
    if (!op)
        return;
    op->cid = cid;
    commit_start(op);
}

/* ---- GET /health ---- */

/* "ok", "down", or what stands in the way of a server that answers. */
static bool add_health(struct buf *b, bool answers, const struct server_fault *fault,
                       const char *amiss) {
    char text[FAULT_TEXT_BYTES];
    bool ok = answers && fault->trouble == SERVER_FINE && !amiss;
    fault_text(fault, false, text);
    if (ok)
        buf_add_json(b, str_view("ok"));
    else if (fault->trouble > SERVER_AWAY)
        buf_add_json(b, str_view(text));
    else
        buf_add_json(b, str_view(amiss ? amiss : "down"));
    return ok;
}

static void health_reply(struct op *op) {
    struct buf parts, b;
    buf_init(&parts, HEALTH_BYTES);
    buf_init(&b, HEALTH_BYTES);
    buf_add_str(&parts, ", \"redis\": ");
    bool redis = add_health(&parts, op->redis_ok, redis_async_fault(op->r->redis),
                            guard_stopping(op->r->guard));
    buf_add_str(&parts, ", \"db\": ");
    bool db = add_health(&parts, op->db_ok, db_pool_fault(op->r->db), NULL);
    buf_addf(&b, "{\"status\": \"%s\"", redis && db ? "ok" : "down");
    buf_add(&b, parts.data, parts.len);
    buf_add_str(&b, "}");
    if (parts.failed || b.failed)
        http_reply_error(op->x, 503, "out of memory", HTTP_RETRY_LATER);
    else
        http_reply(op->x, redis && db ? 200 : 503, JSON_TYPE, buf_view(&b),
                   redis && db ? NULL : HTTP_RETRY_LATER);
    buf_release(&parts);
    buf_release(&b);
    op->x = NULL;
}

static void on_health_deadline(void *ctx) {
    health_reply(ctx);
}

static void health_part(struct op *op) {
    if (--op->waiting > 0)
        return;
    loop_timer_cancel(op->r->loop, &op->deadline);
    if (op->x)
        health_reply(op);
    op_free(op);
}

static void on_health_redis(void *ctx, int rc, const redis_reply *reply) {
    struct op *op = ctx;
    (void)reply;
    op->redis_ok = rc == 0 || rc == -EPROTO; /* it answers; a right that lacks is not for here */
    health_part(op);
}

static void on_health_db(void *ctx, int rc, struct db_result *res) {
    struct op *op = ctx;
    (void)res;
    op->db_ok = rc == 0;
    health_part(op);
}

static void handle_health(struct routes *r, struct http_exchange *x, const struct http_request *req,
                          struct str_view body) {
    (void)req;
    (void)body;
    struct op *op = op_new(r, x);
    if (!op)
        return;
    op->waiting = 3; /* the two parts, and this function */
    op->redis_ok = op->db_ok = false;
    op->deadline = (struct loop_timer){.fire = on_health_deadline, .ctx = op};
    loop_timer_set(r->loop, &op->deadline, loop_now_ms(r->loop) + HEALTH_MS);
    op->check = (struct db_check){.done = on_health_db, .ctx = op};
    if (redis_async_check(r->redis, on_health_redis, op) < 0)
        op->waiting--;
    if (db_pool_check(r->db, &op->check) < 0)
        op->waiting--;
    health_part(op);
}

/* ---- what people look at ---- */

static void handle_status(struct routes *r, struct http_exchange *x, const struct http_request *req,
                          struct str_view body) {
    (void)req;
    (void)body;
    show_status(r->show, x);
}

static void handle_metrics(struct routes *r, struct http_exchange *x,
                           const struct http_request *req, struct str_view body) {
    (void)req;
    (void)body;
    show_metrics(r->show, x);
}

static void handle_page(struct routes *r, struct http_exchange *x, const struct http_request *req,
                        struct str_view body) {
    (void)r;
    (void)req;
    (void)body;
    show_page(x);
}

static void handle_job(struct routes *r, struct http_exchange *x, const struct http_request *req,
                       struct str_view body) {
    const char *last = memrchr(req->path.ptr, '/', req->path.len) + 1;
    struct str_view segment = {last, (size_t)(req->path.ptr + req->path.len - last)};
    struct form_field cid = {.name = "cid", .times = 1};
    char text[FORM_VALUE_BYTES];
    size_t len;
    uint64_t n;
    (void)body;
    cid.malformed = str_url_decode(segment, text, sizeof text, &len) < 0 ||
                    str_copy(cid.value, sizeof cid.value, (struct str_view){text, len}) < 0;
    if (read_cid(x, &cid, &n))
        show_job(r->show, x, n);
}

/* ---- the table ---- */

typedef void handle_fn(struct routes *, struct http_exchange *, const struct http_request *,
                       struct str_view);

#define ALLOW_GET "Allow: GET, HEAD, OPTIONS\r\n"

/* A path that ends in '/' but is not "/" itself stands for each that has one more segment. */
static const struct route {
    const char *path;
    enum http_method method;
    handle_fn *handle;
    const char *allow;
} table[] = {
    {"/post_sentence", HTTP_POST, handle_post, "Allow: POST, OPTIONS\r\n"},
    {"/update_sentence", HTTP_POST, handle_update, "Allow: POST, OPTIONS\r\n"},
    {"/health", HTTP_GET, handle_health, ALLOW_GET},
    {"/status", HTTP_GET, handle_status, ALLOW_GET},
    {"/metrics", HTTP_GET, handle_metrics, ALLOW_GET},
    {"/jobs/", HTTP_GET, handle_job, ALLOW_GET},
    {"/", HTTP_GET, handle_page, ALLOW_GET},
};

/* The path up to and with the last '/', when something follows it. */
static struct str_view parent_of(struct str_view path) {
    const char *slash = memrchr(path.ptr, '/', path.len);
    size_t len = slash ? (size_t)(slash - path.ptr) + 1 : 0;
    return (struct str_view){path.ptr, len > 1 && len < path.len ? len : path.len};
}

static const struct route *route_of(struct str_view path) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        size_t n = strlen(table[i].path);
        bool takes_segment = n > 1 && table[i].path[n - 1] == '/';
        struct str_view parent = parent_of(path);
        if (takes_segment ? parent.len < path.len && http_path_is(parent, table[i].path)
                          : http_path_is(path, table[i].path))
            return &table[i];
    }
    return NULL;
}

struct http_refusal routes_judge(void *ctx, const struct http_request *req) {
    const struct route *route = route_of(req->path);
    enum http_method method = req->method == HTTP_HEAD ? HTTP_GET : req->method;
    (void)ctx;
    if (str_is(req->path, "*"))
        return (struct http_refusal){0};
    if (!route)
        return (struct http_refusal){404, "the path does not exist", NULL};
    if (method != route->method && method != HTTP_OPTIONS)
        return (struct http_refusal){405, "the method is not allowed on this path, see Allow",
                                     route->allow};
    if (method == HTTP_POST && body_type(req) == BODY_OTHER)
        return (struct http_refusal){415,
                                     "the Content-Type is neither " FORM_TYPE " nor " JSON_TYPE,
                                     "Accept: " FORM_TYPE ", " JSON_TYPE "\r\n"};
    /* nothing here has a tag; what is posted to cannot be read */
    if (method != HTTP_OPTIONS && (req->if_tag || (req->if_any && method == HTTP_POST)))
        return (struct http_refusal){412, "If-Match is not met, nothing here has an entity tag",
                                     NULL};
    return (struct http_refusal){0};
}

static void reply_unknown_path(struct http_exchange *x, struct str_view path) {
    char text[256];
    snprintf(text, sizeof text, "the path '%.*s' does not exist",
             (int)(path.len < 128 ? path.len : 128), path.ptr);
    http_reply_error(x, 404, text, NULL);
}

void routes_handle(void *ctx, struct http_exchange *x, const struct http_request *req,
                   struct str_view body) {
    const struct route *route = route_of(req->path);
    struct http_refusal bad = routes_judge(ctx, req);
    if (bad.status == 404)
        reply_unknown_path(x, req->path);
    else if (bad.status)
        http_reply_error(x, bad.status, bad.why, bad.extra);
    else if (req->method == HTTP_OPTIONS) /* "*" is the server as a whole, RFC 9110, 9.3.7 */
        http_reply(x, 200, TEXT_TYPE, (struct str_view){"", 0},
                   route ? route->allow : "Allow: GET, HEAD, POST, OPTIONS\r\n");
    else
        route->handle(ctx, x, req, body);
}

void routes_release(struct routes *r) {
    while (r->spare) {
        struct op *next = r->spare->next;
        free(r->spare);
        r->spare = next;
    }
}
