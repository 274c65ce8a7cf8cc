/*
 * The queue's scripts against a real redis-server: a long random walk of everything that posts,
 * workers, the API and an operator may do, by two workers at once. After each step the job must
 * have gone where PROTOCOL.md lets it go (job_state_may), and Redis must be of one piece.
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "job/queue.h"
#include "job/watch.h"

enum { CIDS = 4, STEPS = 5000, LEASE_MS = 600000 };

struct world {
    char folder[64], url[128];
    pid_t server;
    struct redis_url redis_url;
    struct redis *redis;
    struct loop *loop;
    struct redis_async *async;
    struct queue queue;
    struct queue_posts posts;
    struct queue_post post;
    /* the workers: what they hold */
    struct lease leases[2];
    bool holds[2];
    /* the rows, as the database would have them */
    char level[CIDS + 1][8];
    /* the answer of the asynchronous call under way */
    enum queue_posted how;
    char text[JOB_JSON_BYTES];
};

static const char *const levels[] = {"bronze", "silver", "gold"};
static const char *const workers[] = {"h.1.a", "h.2.b"};

/* ---- the server ---- */

static void settled(void *ctx) {
    loop_stop(((struct world *)ctx)->loop);
}

static int setup(void **state) {
    static struct world w;
    const char *why;
    strcpy(w.folder, "/tmp/tierd-unit-r.XXXXXX");
    assert_non_null(mkdtemp(w.folder));
    char path[96];
    snprintf(path, sizeof path, "%s/s", w.folder);
    snprintf(w.url, sizeof w.url, "unix://%s?db=1", path);
    assert_int_equal(redis_url_parse(w.url, &w.redis_url, &why), 0);
    w.server = fork();
    if (w.server == 0) {
        int null = open("/dev/null", O_RDWR);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(null, 1);
        execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", path, "--save", "",
               "--dir", w.folder, (char *)NULL);
        _exit(127);
    }
    struct server_fault fault;
    while (redis_open(&w.redis_url, NULL, 5000, &w.redis, &fault) < 0) {
        assert_int_equal(waitpid(w.server, NULL, WNOHANG), 0);
        usleep(10000);
    }
    queue_init(&w.queue, 1000000);
    w.loop = loop_new();
    w.async = redis_async_new(w.loop, &w.redis_url, w.queue.scripts, QUEUE_SCRIPTS, settled, &w);
    loop_run(w.loop);
    assert_true(redis_async_up(w.async));
    queue_posts_init(&w.posts, &w.queue, w.loop, w.async);
    *state = &w;
    return 0;
}

static int teardown(void **state) {
    struct world *w = *state;
    char command[128];
    queue_posts_release(&w->posts);
    redis_async_free(w->async);
    loop_free(w->loop);
    redis_close(w->redis);
    kill(w->server, SIGKILL);
    waitpid(w->server, NULL, 0);
    snprintf(command, sizeof command, "rm -rf %s", w->folder);
    return system(command);
}

/* ---- asking ---- */

static redis_reply *call(struct world *w, const char *a, const char *b, const char *c) {
    struct str_view args[] = {str_view(a), str_view(b), str_view(c ? c : "")};
    redis_reply *reply;
    assert_int_equal(redis_call(w->redis, args, c ? 3 : 2, &reply), 0);
    return reply;
}

static void text_of(struct world *w, const char *a, const char *b, const char *c, char *out,
                    size_t cap) {
    redis_reply *reply = call(w, a, b, c);
    struct str_view v = redis_text(reply);
    snprintf(out, cap, "%.*s", (int)v.len, v.ptr);
    redis_reply_free(reply);
}

static int64_t int_of(struct world *w, const char *a, const char *b) {
    redis_reply *reply = call(w, a, b, NULL);
    int64_t n = redis_int(reply);
    redis_reply_free(reply);
    return n;
}

static bool has(struct world *w, const char *zset, unsigned cid) {
    char id[16], score[40];
    snprintf(id, sizeof id, "%u", cid);
    text_of(w, "ZSCORE", zset, id, score, sizeof score);
    return score[0] != '\0';
}

/* What was posted and never claimed is a JSON and a place in the queue. */
static bool is_waiting(struct world *w, unsigned cid) {
    char id[16], json[JOB_JSON_BYTES];
    struct job job;
    snprintf(id, sizeof id, "%u", cid);
    text_of(w, "GET", id, NULL, json, sizeof json);
    return has(w, "tierd:due", cid) && job_read(str_view(json), cid, &job) == JOB_OK &&
           job.status == JOB_UPDATE;
}

static enum job_state state_of(struct world *w, unsigned cid) {
    char key[40], name[40];
    snprintf(key, sizeof key, "tierd:job:%u", cid);
    text_of(w, "HGET", key, "state", name, sizeof name);
    enum job_state state = job_state_parse(str_view(name));
    return state == JOB_STATE_NONE && is_waiting(w, cid) ? JOB_STATE_QUEUED : state;
}

/* ---- what holds after every step ---- */

static void check(struct world *w, unsigned cid) {
    char key[40], gate[64], zset[100], json[JOB_JSON_BYTES], id[16];
    enum job_state state = state_of(w, cid);
    snprintf(key, sizeof key, "tierd:job:%u", cid);
    snprintf(id, sizeof id, "%u", cid);
    text_of(w, "HGET", key, "gate", gate, sizeof gate);
    snprintf(zset, sizeof zset, "tierd:parked:%s", gate);
    bool due = has(w, "tierd:due", cid), parked = gate[0] && has(w, zset, cid);
    bool ended = state == JOB_STATE_NONE || job_state_phase(state) == JOB_PHASE_ENDED;
    /* a job that is not at its end is looked for at exactly one place */
    assert_true(!gate[0] || parked);
    if (!ended)
        assert_int_equal(due + parked, 1);
    for (int i = 0; state == JOB_STATE_NONE && i < 3; i++) { /* nor is a copy that is known of */
        char spare[40], since[40];
        snprintf(spare, sizeof spare, "spare:%s", levels[i]);
        text_of(w, "HGET", key, spare, since, sizeof since);
        assert_true(!since[0] || due);
    }
    struct job job;
    text_of(w, "GET", id, NULL, json, sizeof json);
    if (!json[0]) { /* never posted: at most a spare copy goes */
        assert_true(ended || state == JOB_STATE_CANCELLED);
        return;
    }
    assert_int_equal(job_read(str_view(json), cid, &job), JOB_OK);
    static const enum job_status statuses[JOB_STATES] = {
        [JOB_STATE_NONE] = JOB_DONE,      [JOB_STATE_QUEUED] = JOB_UPDATE,
        [JOB_STATE_CLAIMED] = JOB_UPDATE, [JOB_STATE_BACKOFF] = JOB_UPDATE,
        [JOB_STATE_DONE] = JOB_DONE,      [JOB_STATE_COMMITTED] = JOB_DONE,
        [JOB_STATE_CANCELLED] = JOB_DONE, [JOB_STATE_CONFLICT] = JOB_CONFLICT,
        [JOB_STATE_DEAD] = JOB_DEAD};
    /* claimed and wanted back where it is reads as done; an end without spares keeps its word */
    bool back = state == JOB_STATE_CLAIMED && strcmp(job.target, job.db_level) == 0;
    bool over =
        (state == JOB_STATE_NONE || state == JOB_STATE_CANCELLED) && job.status != JOB_UPDATE;
    if (!back && !over && job.status != statuses[state])
        fail_msg("cid %u is %s, its JSON %s", cid, job_state_name(state), json);
}

/* ---- what may happen ---- */

static struct world *world_of(struct queue_post *p) {
    return (struct world *)((char *)p - offsetof(struct world, post));
}

static void on_posted(struct queue_post *p, int rc, enum queue_posted how, struct str_view text) {
    struct world *w = world_of(p);
    assert_int_equal(rc, 0);
    w->how = how;
    snprintf(w->text, sizeof w->text, "%.*s", (int)text.len, text.ptr);
    loop_stop(w->loop);
}

static void on_answer(void *ctx, int rc, const redis_reply *reply) {
    (void)reply;
    assert_int_equal(rc, 0);
    loop_stop(((struct world *)ctx)->loop);
}

/* Between two of our calls the loop does not run: one turn, so that its clock is right. */
static void turn(struct world *w) {
    struct loop_deferred stop = {.call = settled, .ctx = w};
    loop_defer(w->loop, &stop);
    loop_run(w->loop);
}

static void post(struct world *w, unsigned cid, const char *target) {
    struct job job = {.cid = cid, .count = (uint64_t)rand()};
    strcpy(job.target, target);
    strcpy(job.db_level, w->level[cid]);
    job.status = strcmp(target, w->level[cid]) == 0 ? JOB_DONE : JOB_UPDATE;
    snprintf(job.filename, sizeof job.filename, "%u.bin", cid);
    char ack[JOB_JSON_BYTES] = "";
    for (int tries = 0; tries < 3; tries++) {
        turn(w);
        w->post.done = on_posted;
        assert_int_equal(queue_post(&w->posts, &w->post, &job, "seen", str_view(ack)), 0);
        loop_run(w->loop);
        if (w->how != QUEUE_LOOK_AGAIN)
            break;
        strcpy(ack, w->text);
    }
    if (w->how == QUEUE_POSTED) {
        assert_int_equal(job_read(str_view(w->text), cid, &job), JOB_OK);
        assert_string_equal(job.target, target); /* the last post wins */
    } else {
        assert_int_equal(w->how, QUEUE_COMMIT_FIRST);
        assert_int_equal(state_of(w, cid), JOB_STATE_DONE);
    }
}

/* As the API does on /update_sentence: the row first, then the job. */
static void update(struct world *w, unsigned cid, bool replan) {
    char key[40], rev[32], target[32], seen[QUEUE_SEEN_BYTES];
    if (state_of(w, cid) != JOB_STATE_DONE)
        return;
    snprintf(key, sizeof key, "tierd:job:%u", cid);
    text_of(w, "HGET", key, "rev", rev, sizeof rev);
    text_of(w, "HGET", key, "target", target, sizeof target);
    text_of(w, "HGET", key, "seen", seen, sizeof seen);
    turn(w);
    if (replan) {
        assert_int_equal(queue_replan(&w->queue, w->async, cid, rev, seen, on_answer, w), 0);
    } else {
        strcpy(w->level[cid], target);
        assert_int_equal(queue_committed(&w->queue, w->async, cid, rev, seen, on_answer, w), 0);
    }
    loop_run(w->loop);
}

static void claim(struct world *w, int i) {
    int64_t wait_ms;
    struct queue_terms terms = {.level_jobs = rand() % 2, .reach = ""};
    if (w->holds[i])
        return;
    int rc =
        queue_claim(&w->queue, w->redis, workers[i], LEASE_MS, &terms, &w->leases[i], 1, &wait_ms);
    assert_true(rc >= 0);
    w->holds[i] = rc == 1;
    if (w->holds[0] && w->holds[1]) /* perhaps of one job, when a claim ran out: the token fences */
        assert_true(w->leases[0].token != w->leases[1].token);
}

/* The claim runs out, as when the worker is stopped: somebody else may take the job. */
static void expire(struct world *w, int i) {
    char key[40], id[24];
    snprintf(key, sizeof key, "lock:%u", (unsigned)w->leases[i].cid);
    snprintf(id, sizeof id, "%u", (unsigned)w->leases[i].cid);
    redis_reply_free(call(w, "DEL", key, NULL));
    if (has(w, "tierd:due", (unsigned)w->leases[i].cid)) {
        struct str_view args[] = {str_view("ZADD"), str_view("tierd:due"), str_view("1"),
                                  str_view(id)};
        redis_reply *reply;
        assert_int_equal(redis_call(w->redis, args, 4, &reply), 0);
        redis_reply_free(reply);
    }
}

/* The verdict on the one call that was added. */
static int told(struct world *w, struct queue_batch *b, const int *verdict) {
    queue_batch_run(b, w->redis);
    queue_batch_release(b);
    return *verdict;
}

static int act(struct world *w, int i) {
    struct lease *l = &w->leases[i];
    struct queue_batch b;
    int v;
    const char *row = w->level[l->cid];
    struct job job;
    const char *retired[QUEUE_MAX_SPARES];
    size_t n = 0;
    int what = rand() % 9;
    queue_batch_init(&b, &w->queue, workers[i]);
    if (getenv("TRACE"))
        fprintf(stderr, "   act %d on %u\n", what, (unsigned)l->cid);
    switch (what) {
    case 0:
        queue_renew(&b, l, LEASE_MS, NULL, &v);
        return told(w, &b, &v);
    case 1:
        queue_renew(&b, l, LEASE_MS, l->target, &v);
        return told(w, &b, &v);
    case 2:
        if (l->state != JOB_STATE_QUEUED && l->state != JOB_STATE_CLAIMED)
            return 0;
        queue_done(&b, l, 1, &v);
        if (told(w, &b, &v) < 0)
            return -ECANCELED;
        l->state = JOB_STATE_DONE;
        return 0;
    case 3:
    case 4:
        if (l->state == JOB_STATE_DONE)
            return 0; /* a worker commits first */
        for (size_t k = 0; k < l->n_spares; k++)
            if (strcmp(l->spares[k].level, row) != 0 || rand() % 2)
                retired[n++] = l->spares[k].level;
        w->holds[i] = false;
        queue_finish(&b, l, retired, n, &v);
        return told(w, &b, &v);
    case 5:
        w->holds[i] = false;
        queue_release(&b, l, rand() % 2 ? 0 : 5, rand() % 2, "later", &v);
        return told(w, &b, &v);
    case 6:
        if (job_state_phase(l->state) != JOB_PHASE_MOVE || rand() % 4)
            return 0;
        w->holds[i] = false;
        queue_fail(&b, l, rand() % 2 ? JOB_DEAD : JOB_CONFLICT, "it \"went\" wrong", NULL, &v);
        return told(w, &b, &v);
    case 7:
        expire(w, i);
        w->holds[i] = rand() % 2; /* dead, or only stopped */
        return 0;
    default:
        if (l->state == JOB_STATE_DONE || job_state_phase(l->state) != JOB_PHASE_MOVE ||
            job_read(str_view(l->json), l->cid, &job) != JOB_OK)
            return 0;
        strcpy(job.db_level, row);
        int rc =
            queue_begin(&w->queue, w->redis, l, workers[i], &job, "seen", str_view(l->json), NULL);
        if (rc == 0)
            strcpy(l->target, job.target);
        return rc;
    }
}

static void give_back(struct world *w, int i) {
    struct queue_batch b;
    int v;
    queue_batch_init(&b, &w->queue, workers[i]);
    queue_release(&b, &w->leases[i], 0, false, "superseded", &v);
    (void)told(w, &b, &v);
    w->holds[i] = false;
}

static void operate(struct world *w, unsigned cid) {
    const char *level = levels[rand() % 3];
    switch (rand() % 4) {
    case 0:
        assert_int_equal(queue_pause(&w->queue, w->redis, level, rand() % 2 ? 0 : 1), 0);
        break;
    case 1:
        assert_true(queue_resume(&w->queue, w->redis, level) >= 0);
        break;
    case 2:
        assert_true(queue_spare(&w->queue, w->redis, cid, w->level[cid], level) >= 0);
        break;
    default:
        assert_true(queue_busy(w->redis, cid) >= 0);
    }
}

static void random_walk(void **state) {
    struct world *w = *state;
    unsigned seed = getenv("SEED") ? (unsigned)atoi(getenv("SEED")) : (unsigned)getpid();
    unsigned seen = 0;
    printf("# seed %u\n", seed);
    srand(seed);
    for (unsigned cid = 1; cid <= CIDS; cid++)
        strcpy(w->level[cid], levels[cid % 3]);
    for (int step = 0; step < STEPS; step++) {
        enum job_state before[CIDS + 1];
        unsigned cid = 1 + (unsigned)rand() % CIDS;
        int i = rand() % 2;
        for (unsigned c = 1; c <= CIDS; c++)
            before[c] = state_of(w, c);
        int what = rand() % 8;
        if (getenv("TRACE"))
            fprintf(stderr, "%d: what %d cid %u worker %d\n", step, what, cid, i);
        switch (what) {
        case 0:
        case 1:
            post(w, cid, levels[rand() % 3]);
            break;
        case 2:
            update(w, cid, rand() % 8 == 0);
            break;
        case 3:
            operate(w, cid);
            break;
        case 4:
        case 5:
            claim(w, i);
            break;
        default:
            if (w->holds[i]) {
                int rc = act(w, i);
                if (rc != 0 && rc != -ESTALE && rc != -ECANCELED)
                    fail_msg("step %d: a worker was answered %d", step, rc);
                if (rc <
                    0) /* given back, as a worker does; if it is somebody else's, it stays so */
                    give_back(w, i);
            }
        }
        for (unsigned c = 1; c <= CIDS; c++) {
            enum job_state after = state_of(w, c);
            if (!job_state_may(before[c], after))
                fail_msg("step %d: %s became %s", step, job_state_name(before[c]),
                         job_state_name(after));
            seen |= 1U << after;
            check(w, c);
        }
    }
    assert_true(seen & 1U << JOB_STATE_COMMITTED); /* the walk came by where it matters */
    assert_true(seen & 1U << JOB_STATE_BACKOFF);
}

/* One job from its claim to its end; the call that is refused ends it. */
static void work(struct world *w, struct lease *l) {
    const char *retired[] = {levels[0], levels[1], levels[2]};
    struct queue_batch b;
    int v = 0;
    queue_batch_init(&b, &w->queue, workers[0]);
    if (job_state_phase(l->state) == JOB_PHASE_MOVE && strcmp(l->src, l->target) != 0) {
        queue_renew(&b, l, 1000, l->target, &v);
        queue_batch_run(&b, w->redis);
        if (v == 0) {
            queue_done(&b, l, 1, &v);
            queue_batch_run(&b, w->redis);
        }
    }
    if (v == 0) {
        update(w, (unsigned)l->cid, false);
        queue_finish(&b, l, retired, 3, &v);
        queue_batch_run(&b, w->redis);
    }
    queue_batch_release(&b);
}

/* With nothing in its way, everything that was wanted comes to its end, and nothing is left. */
static void all_ends(void **state) {
    struct world *w = *state;
    struct lease *leases = calloc(CIDS, sizeof *leases);
    struct queue_terms terms = {.reach = ""};
    int64_t wait_ms;
    for (unsigned cid = 1; cid <= CIDS; cid++) { /* every claim runs out */
        w->leases[0].cid = cid;
        expire(w, 0);
    }
    for (int i = 0; i < 3; i++)
        assert_true(queue_resume(&w->queue, w->redis, levels[i]) >= 0);
    for (unsigned cid = 1; cid <= CIDS; cid++)
        if (state_of(w, cid) != JOB_STATE_DONE)
            post(w, cid, "gold");
    for (int rounds = 0; int_of(w, "ZCARD", "tierd:due") > 0; rounds++) {
        assert_true(rounds < 1000);
        int n = queue_claim(&w->queue, w->redis, workers[0], 1000, &terms, leases, CIDS, &wait_ms);
        assert_true(n >= 0);
        for (int i = 0; i < n; i++)
            work(w, &leases[i]);
        if (n == 0)
            usleep((useconds_t)(wait_ms < 50 ? wait_ms + 1 : 50) * 1000);
    }
    free(leases);
    for (unsigned cid = 1; cid <= CIDS; cid++)
        assert_int_equal(state_of(w, cid), JOB_STATE_NONE);
}

/* A batch is answered whole, also when the server has forgotten its scripts, and when it is away.
 */
static void batches(void **state) {
    struct world *w = *state;
    struct lease *leases = calloc(CIDS, sizeof *leases);
    struct queue_terms terms = {.reach = ""};
    struct queue_batch b;
    int verdicts[CIDS + 1];
    int64_t wait_ms;
    for (unsigned cid = 1; cid <= CIDS; cid++) {
        strcpy(w->level[cid], "bronze");
        post(w, cid, "bronze"); /* whatever the row was before: known again */
        post(w, cid, "gold");
    }
    int n = queue_claim(&w->queue, w->redis, workers[0], LEASE_MS, &terms, leases, CIDS, &wait_ms);
    assert_int_equal(n, CIDS); /* all in one claim */
    queue_batch_init(&b, &w->queue, workers[0]);
    redis_reply_free(call(w, "SCRIPT", "FLUSH", NULL));
    for (int i = 0; i < n; i++)
        queue_renew(&b, &leases[i], 60000, NULL, &verdicts[i]);
    struct lease foreign = leases[0];
    foreign.token += 1000;
    queue_renew(&b, &foreign, 60000, NULL, &verdicts[n]);
    queue_batch_run(&b, w->redis);
    for (int i = 0; i < n; i++)
        assert_int_equal(verdicts[i], 0);
    assert_int_equal(verdicts[n], -ESTALE);
    assert_true(queue_batch_empty(&b));
    for (int i = 0; i < n; i++)
        queue_done(&b, &leases[i], 1, &verdicts[i]);
    queue_batch_run(&b, NULL);
    for (int i = 0; i < n; i++)
        assert_int_equal(verdicts[i], -ENOTCONN);
    queue_batch_run(&b, w->redis); /* nothing of them is left to be sent */
    assert_int_equal(state_of(w, (unsigned)leases[0].cid), JOB_STATE_CLAIMED);
    for (int i = 0; i < n; i++)
        queue_release(&b, &leases[i], 0, false, "later", &verdicts[i]);
    queue_batch_run(&b, w->redis);
    for (int i = 0; i < n; i++)
        assert_int_equal(verdicts[i], 0);
    queue_batch_release(&b);
    free(leases);
}

/* What somebody may have died of is claimed alone: it must not take others along. */
static void risky_jobs_are_claimed_alone(void **state) {
    struct world *w = *state;
    struct lease *leases = calloc(CIDS, sizeof *leases);
    struct queue_terms terms = {.reach = ""};
    int64_t wait_ms;
    int n = queue_claim(&w->queue, w->redis, workers[0], LEASE_MS, &terms, leases, CIDS, &wait_ms);
    assert_int_equal(n, CIDS);
    for (unsigned cid = 1; cid <= 2; cid++) { /* the worker dies; two claims run out */
        w->leases[0].cid = cid;
        expire(w, 0);
    }
    for (int i = 0; i < 2; i++) {
        n = queue_claim(&w->queue, w->redis, workers[1], LEASE_MS, &terms, leases, CIDS, &wait_ms);
        assert_int_equal(n, 1);
        assert_int_equal(leases[0].crashes, 1);
    }
    free(leases);
}

static void set(struct world *w, const char *key, const char *name, const char *value) {
    struct str_view args[] = {str_view("HSET"), str_view(key), str_view(name), str_view(value)};
    redis_reply *reply;
    assert_int_equal(redis_call(w->redis, args, 4, &reply), 0);
    redis_reply_free(reply);
}

static void due_now(struct world *w, const char *member) {
    struct str_view args[] = {str_view("ZADD"), str_view("tierd:due"), str_view("1"),
                              str_view(member)};
    redis_reply *reply;
    assert_int_equal(redis_call(w->redis, args, 4, &reply), 0);
    redis_reply_free(reply);
}

static void claim_by(struct world *w, const char *worker, struct lease *l) {
    struct queue_terms terms = {.reach = ""};
    int64_t wait_ms;
    assert_int_equal(queue_claim(&w->queue, w->redis, worker, LEASE_MS, &terms, l, 1, &wait_ms), 1);
    w->leases[0].cid = l->cid; /* for expire */
}

/* A fresh start with one job from bronze to gold; its claim. */
static void claimed_anew(struct world *w, struct lease *l) {
    redis_reply_free(call(w, "FLUSHALL", "SYNC", NULL));
    strcpy(w->level[1], "bronze");
    post(w, 1, "gold");
    claim_by(w, workers[0], l);
}

static int ended(struct world *w, const struct lease *l, const char *worker, bool fails) {
    struct queue_batch b;
    int v;
    queue_batch_init(&b, &w->queue, worker);
    if (fails)
        queue_fail(&b, l, JOB_DEAD, "it went wrong", NULL, &v);
    else
        queue_release(&b, l, 0, true, "later", &v);
    return told(w, &b, &v);
}

static int field(struct world *w, const char *name) {
    char text[40];
    text_of(w, "HGET", "tierd:job:1", name, text, sizeof text);
    return atoi(text);
}

/* Only the one that was taken for dead takes that back, once. */
static void a_crash_is_taken_back_by_its_own_claim(void **state) {
    struct world *w = *state;
    struct lease *l = calloc(4, sizeof *l);
    claimed_anew(w, &l[0]);
    assert_int_equal(ended(w, &l[0], workers[0], false), 0);
    claim_by(w, workers[0], &l[1]);
    expire(w, 0);
    claim_by(w, workers[1], &l[2]);
    assert_int_equal(l[2].crashes, 1);
    assert_int_equal(ended(w, &l[0], workers[0], false), -ESTALE);
    assert_int_equal(field(w, "crashes"), 1); /* that one had been given up properly */
    assert_int_equal(ended(w, &l[1], workers[0], false), -ESTALE);
    assert_int_equal(field(w, "crashes"), 0); /* it lives after all */
    expire(w, 0);
    claim_by(w, workers[0], &l[3]); /* l[2] was not heard of any more */
    assert_int_equal(ended(w, &l[1], workers[0], false), -ESTALE);
    assert_int_equal(field(w, "crashes"), 1);
    expire(w, 0);
    claim_by(w, workers[0], &l[3]); /* its own claim, whose answer was lost */
    assert_int_equal(field(w, "crashes"), 1);
    free(l);
}

static int hung(struct world *w, const struct lease *l, const char *worker) {
    struct queue_batch b;
    int v;
    queue_batch_init(&b, &w->queue, worker);
    queue_release(&b, l, 0, QUEUE_COUNTS_HANG, "gold did not answer", &v);
    return told(w, &b, &v);
}

/* However often: it is one crash, for what it may have left; and what others count meanwhile goes.
 */
static void hangs_are_no_crashes(void **state) {
    struct world *w = *state;
    struct lease *l = calloc(3, sizeof *l);
    char spare[8];
    claimed_anew(w, &l[0]);
    for (int i = 1; i <= 3; i++) {
        assert_int_equal(hung(w, &l[0], workers[0]), 0);
        assert_int_equal(field(w, "crashes"), 1);
        assert_int_equal(field(w, "waits"), i);
        text_of(w, "HGET", "tierd:job:1", "spare:gold", spare, sizeof spare);
        assert_string_equal(spare, "0"); /* it may have left something there */
        claim_by(w, workers[0], &l[0]);
        assert_int_equal(l[0].crashes, 1);
    }
    expire(w, 0);
    claim_by(w, workers[1], &l[1]);
    assert_int_equal(l[1].crashes, 2);
    assert_int_equal(hung(w, &l[0], workers[0]), -ESTALE);
    assert_int_equal(field(w, "crashes"), 1);
    expire(w, 0);
    claim_by(w, workers[0], &l[2]); /* that one crashed */
    assert_int_equal(l[2].crashes, 2);
    assert_int_equal(hung(w, &l[0], workers[0]), -ESTALE);
    assert_int_equal(field(w, "crashes"), 2);
    free(l);
}

/* What is no job after all is not claimed again at once, though a copy of it may be known. */
static void no_job_after_all(void **state) {
    struct world *w = *state;
    struct lease *l = calloc(1, sizeof *l);
    struct queue_batch b;
    int v;
    redis_reply_free(call(w, "FLUSHALL", "SYNC", NULL));
    redis_reply_free(call(w, "SET", "1", "no JSON"));
    set(w, "tierd:job:1", "spare:silver", "0");
    due_now(w, "1");
    claim_by(w, workers[0], l);
    queue_batch_init(&b, &w->queue, workers[0]);
    queue_finish(&b, l, NULL, 0, &v);
    assert_int_equal(told(w, &b, &v), 0);
    assert_false(has(w, "tierd:due", 1));
    assert_int_equal(int_of(w, "HLEN", "tierd:job:1"), 2); /* the copy and the token */
    free(l);
}

/* What stands among the cids and is none leaves those that are claimed with it alone. */
static void a_member_that_is_no_cid(void **state) {
    struct world *w = *state;
    struct lease *l = calloc(4, sizeof *l);
    struct queue_terms terms = {.reach = ""};
    int64_t wait_ms;
    redis_reply_free(call(w, "FLUSHALL", "SYNC", NULL));
    redis_reply_free(call(w, "SET", "abc", "x")); /* like a job that another program wrote */
    due_now(w, "abc");
    redis_reply_free(call(w, "SET", "tierd:job:7", "x")); /* another type */
    due_now(w, "7");
    set(w, "tierd:job:8", "worker", "h.3.c"); /* and half of a claim */
    redis_reply_free(call(w, "SET", "8", "x"));
    due_now(w, "8");
    for (unsigned cid = 1; cid <= 2; cid++) {
        strcpy(w->level[cid], "bronze");
        post(w, cid, "gold");
    }
    claim_by(w, workers[0], l); /* what may have killed somebody comes alone */
    assert_int_equal(l->cid, 8);
    assert_int_equal(queue_claim(&w->queue, w->redis, workers[0], LEASE_MS, &terms, l, 4, &wait_ms),
                     2);
    assert_int_equal(l[0].cid, 1);
    assert_int_equal(l[1].cid, 2);
    redis_reply_free(call(w, "FLUSHALL", "SYNC", NULL));
    free(l);
}

/* The answer was lost: what is told again changes nothing, also when a post came in between. */
static void an_end_counts_once(void **state) {
    struct world *w = *state;
    struct lease *l = calloc(1, sizeof *l);
    claimed_anew(w, l);
    assert_int_equal(ended(w, l, workers[0], false), 0);
    assert_int_equal(ended(w, l, workers[0], false), 0);
    assert_int_equal(field(w, "attempts"), 1);
    claim_by(w, workers[0], l);
    set(w, "tierd:job:1", "spare:silver", "0");
    assert_int_equal(ended(w, l, workers[0], true), 0);
    assert_int_equal(state_of(w, 1), JOB_STATE_DEAD);
    post(w, 1, "silver");
    assert_int_equal(ended(w, l, workers[0], true), 0);
    assert_int_equal(state_of(w, 1), JOB_STATE_QUEUED);
    check(w, 1);
    free(l);
}

/* The name of one content, posted and claimed: the state that the claim finds. */
static enum job_state claimed_as(struct world *w, const char *filename, struct lease *l) {
    struct job job = {.cid = CIDS + 1, .count = 5, .target = "gold", .db_level = "bronze"};
    struct queue_terms terms = {.reach = ""};
    struct queue_batch b;
    int64_t wait_ms;
    int v;
    snprintf(job.filename, sizeof job.filename, "%s", filename);
    redis_reply_free(call(w, "FLUSHDB", "SYNC", NULL));
    turn(w);
    w->post.done = on_posted;
    assert_int_equal(queue_post(&w->posts, &w->post, &job, "then", str_view("")), 0);
    loop_run(w->loop);
    assert_int_equal(w->how, QUEUE_POSTED);
    assert_int_equal(int_of(w, "EXISTS", "tierd:job:5"), 0);
    /* it is known as waiting all the same */
    assert_int_equal(queue_busy(w->redis, job.cid), QUEUE_WAITS);
    assert_int_equal(queue_spare(&w->queue, w->redis, job.cid, "bronze", "silver"), 0);
    enum watch_retried how;
    assert_int_equal(watch_retry(&w->queue, w->redis, job.cid, &how), 0);
    assert_int_equal(how, WATCH_RETRIED);
    assert_int_equal(queue_claim(&w->queue, w->redis, workers[0], LEASE_MS, &terms, l, 1, &wait_ms),
                     1);
    enum job_state state = l->state;
    if (state != JOB_STATE_NONE) { /* what the worker saw counts, not what the post saw */
        char seen[QUEUE_SEEN_BYTES];
        strcpy(l->seen, "now");
        queue_batch_init(&b, &w->queue, workers[0]);
        queue_done(&b, l, 1, &v);
        assert_int_equal(told(w, &b, &v), 0);
        text_of(w, "HGET", "tierd:job:5", "seen", seen, sizeof seen);
        assert_string_equal(seen, "now");
    }
    return state;
}

/* Of what was posted there is the JSON alone; the claim makes the job from it. */
static void a_claim_makes_the_job(void **state) {
    static const char *const plain[] = {"5.bin", "a b/c%d.bin", "\xc3\xa9.bin", "^[a].$-*+?(%1)"};
    static const char *const escaped[] = {"a\"b.bin", "a\\b.bin", "a\x01.bin", "\xff.bin"};
    struct world *w = *state;
    struct lease *l = calloc(1, sizeof *l);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        assert_int_equal(claimed_as(w, plain[i], l), JOB_STATE_CLAIMED);
        assert_string_equal(l->src, "bronze");
        assert_string_equal(l->target, "gold");
        assert_string_equal(l->rev, "1");
    }
    /* not read by the script, but by the worker, as what another program wrote */
    for (size_t i = 0; i < sizeof escaped / sizeof *escaped; i++)
        assert_int_equal(claimed_as(w, escaped[i], l), JOB_STATE_NONE);
    redis_reply_free(call(w, "FLUSHALL", "SYNC", NULL));
    redis_reply_free(call(w, "SET", "5",
                          "{\"cid\": \"5\", \"count\": \"9999999999999999999\", \"target\": "
                          "\"gold\", \"db_level\": \"bronze\", \"filename\": \"5.bin\", "
                          "\"worker_id\": null, \"status\": \"update\"}"));
    due_now(w, "5");
    claim_by(w, workers[0], l);
    assert_int_equal(l->state, JOB_STATE_NONE); /* which refuses it: such a count there is not */
    free(l);
}

/* Told while a post waits that nobody has claimed yet, or of a job that was given up: somebody
 * looks at the copy all the same. */
static void a_spare_is_looked_at(void **state) {
    struct world *w = *state;
    struct lease *l = calloc(1, sizeof *l);
    struct queue_batch b;
    int v;
    for (int given_up = 0; given_up < 2; given_up++) {
        claimed_anew(w, l);
        if (given_up) { /* with a copy that was known already */
            set(w, "tierd:job:1", "spare:silver", "0");
            assert_int_equal(ended(w, l, workers[0], true), 0);
            assert_int_equal(queue_spare(&w->queue, w->redis, 1, "bronze", "gold"), 1);
        } else {
            redis_reply_free(call(w, "FLUSHALL", "SYNC", NULL));
            post(w, 1, "gold");
            assert_int_equal(queue_spare(&w->queue, w->redis, 1, "bronze", "silver"), 0);
            post(w, 1, "bronze");
        }
        check(w, 1);
        claim_by(w, workers[0], l);
        assert_int_equal(l->n_spares, 1 + given_up);
        const char *retired[] = {"silver", "gold"};
        queue_batch_init(&b, &w->queue, workers[0]);
        queue_finish(&b, l, retired, 2, &v);
        assert_int_equal(told(w, &b, &v), 0);
        assert_int_equal(int_of(w, "EXISTS", "tierd:job:1"), 0);
        assert_int_equal(int_of(w, "ZCARD", "tierd:due"), 0);
        check(w, 1);
        assert_int_equal(int_of(w, "ZCARD", "tierd:dead"), given_up); /* it is so still */
    }
    free(l);
}

/* However densely they stand, one scan finds them all. */
static void a_scan_of_foreign_jobs(void **state) {
    enum { N = 200 };
    struct world *w = *state;
    struct queue_found *found = calloc(QUEUE_SCAN_MAX, sizeof *found);
    uint64_t cursor = 0;
    size_t n, all = 0;
    redis_reply_free(call(w, "FLUSHALL", "SYNC", NULL));
    for (unsigned cid = 1; cid <= N; cid++) {
        char key[16], json[256];
        snprintf(key, sizeof key, "%u", cid);
        snprintf(json, sizeof json,
                 "{\"cid\": %u, \"count\": 1, \"target\": \"gold\", \"db_level\": \"bronze\", "
                 "\"filename\": \"%u\", \"worker_id\": null, \"status\": \"update\"}",
                 cid, cid);
        redis_reply_free(call(w, "SET", key, json));
    }
    do {
        assert_int_equal(queue_scan(&w->queue, w->redis, workers[0], 1000, 1, &cursor, found, &n),
                         0);
        all += n;
    } while (cursor != 0);
    assert_int_equal(all, N);
    assert_int_equal(int_of(w, "ZCARD", "tierd:due"), N);
    redis_reply_free(call(w, "FLUSHALL", "SYNC", NULL));
    free(found);
}

static int64_t add(struct world *w, const char *cid, const char *read) {
    struct str_view key = str_view(cid), args[] = {{"", 0}, str_view(read)};
    redis_reply *reply;
    assert_int_equal(redis_eval(w->redis, &w->queue.scripts[QUEUE_ADD], &key, 1, args, 2, &reply),
                     0);
    int64_t n = redis_int(reply);
    redis_reply_free(reply);
    return n;
}

/* What a scan read may be out of date when it adds it: moved since, or posted anew. */
static void what_changed_since_it_was_read_is_not_added(void **state) {
    struct world *w = *state;
    const char *stands[] = {"{\"status\": \"done\"}", "{\"status\": \"update\"}"};
    redis_reply_free(call(w, "FLUSHALL", "SYNC", NULL));
    for (int i = 0; i < 2; i++) {
        redis_reply_free(call(w, "SET", "5", stands[i]));
        assert_int_equal(add(w, "5", stands[1]), i);
        assert_int_equal(int_of(w, "ZCARD", "tierd:due"), i);
    }
    redis_reply_free(call(w, "FLUSHALL", "SYNC", NULL));
}

/* What was left to another worker did not wait, and must not make the next wait longer. */
static void what_is_let_go_of_at_once_counts_as_nothing(void **state) {
    static const enum queue_counts as[] = {QUEUE_COUNTS_NOTHING, QUEUE_COUNTS_WAIT,
                                           QUEUE_COUNTS_ATTEMPT};
    struct world *w = *state;
    struct lease *l = calloc(CIDS, sizeof *l);
    struct queue_terms terms = {.reach = ""};
    struct queue_batch b;
    int64_t wait_ms;
    int v;
    redis_reply_free(call(w, "FLUSHALL", "SYNC", NULL));
    redis_reply_free(call(w, "SET", "7",
                          "{\"cid\": \"7\", \"count\": \"1\", \"target\": \"gold\", "
                          "\"db_level\": \"bronze\", \"filename\": \"7\", "
                          "\"worker_id\": null, \"status\": \"update\"}"));
    add(w, "7", "");
    queue_batch_init(&b, &w->queue, workers[0]);
    for (int i = 0; i < 3; i++) {
        int n = queue_claim(&w->queue, w->redis, workers[0], LEASE_MS, &terms, l, 1, &wait_ms);
        assert_int_equal(n, 1);
        char key[32], waits[8], attempts[8];
        snprintf(key, sizeof key, "tierd:job:%u", (unsigned)l->cid);
        redis_reply_free(call(w, "HDEL", key, "waits"));
        redis_reply_free(call(w, "HDEL", key, "attempts"));
        queue_release(&b, l, 0, as[i], "why", &v);
        assert_int_equal(told(w, &b, &v), 0);
        text_of(w, "HGET", key, "waits", waits, sizeof waits);
        text_of(w, "HGET", key, "attempts", attempts, sizeof attempts);
        assert_string_equal(waits, as[i] == QUEUE_COUNTS_WAIT ? "1" : "");
        assert_string_equal(attempts, as[i] == QUEUE_COUNTS_ATTEMPT ? "1" : "");
    }
    queue_batch_release(&b);
    free(l);
}

/* ---- what a batch of posts costs ---- */

static size_t allocations;

static void *counted_malloc(size_t n) {
    allocations++;
    return malloc(n);
}

static void *counted_calloc(size_t n, size_t size) {
    allocations++;
    return calloc(n, size);
}

struct many {
    struct world *w;
    size_t left;
};

struct one_of_many {
    struct queue_post post; /* first */
    struct job job;
    struct many *many;
};

static void on_one_of_many(struct queue_post *p, int rc, enum queue_posted how,
                           struct str_view text) {
    struct many *m = ((struct one_of_many *)p)->many;
    (void)text;
    assert_int_equal(rc, 0);
    assert_int_equal(how, QUEUE_POSTED);
    if (--m->left == 0)
        loop_stop(m->w->loop);
}

/* How often hiredis asks for memory for `n` posts that go out together. */
static size_t allocations_of(struct world *w, size_t n) {
    struct many many = {.w = w, .left = n};
    struct one_of_many *posts = calloc(n, sizeof *posts);
    turn(w);
    allocations = 0;
    for (size_t i = 0; i < n; i++) {
        posts[i].many = &many;
        posts[i].post.done = on_one_of_many;
        posts[i].job = (struct job){.cid = 1000 + i,
                                    .count = 5,
                                    .target = "gold",
                                    .db_level = "bronze",
                                    .filename = "a.bin"};
        assert_int_equal(queue_post(&w->posts, &posts[i].post, &posts[i].job, "then", str_view("")),
                         0);
    }
    loop_run(w->loop);
    free(posts);
    return allocations;
}

/* No more for a hundred posts than for one; in how many pieces replies arrive is left to the
 * kernel. */
static void a_post_allocates_nothing(void **state) {
    enum { PIECES = 10 };
    struct world *w = *state;
    hiredisAllocFuncs counting = {.mallocFn = counted_malloc,
                                  .callocFn = counted_calloc,
                                  .reallocFn = realloc,
                                  .strdupFn = strdup,
                                  .freeFn = free};
    redis_reply_free(call(w, "FLUSHALL", "SYNC", NULL));
    (void)allocations_of(w, 100);
    hiredisSetAllocators(&counting);
    size_t one = allocations_of(w, 1), hundred = allocations_of(w, 100);
    hiredisResetAllocators();
    assert_in_range(hundred, 0, one + PIECES);
    assert_int_equal(int_of(w, "ZCARD", "tierd:due"), 100);
    redis_reply_free(call(w, "FLUSHALL", "SYNC", NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_walk),
        cmocka_unit_test(all_ends),
        cmocka_unit_test(a_post_allocates_nothing),
        cmocka_unit_test(a_claim_makes_the_job),
        cmocka_unit_test(a_crash_is_taken_back_by_its_own_claim),
        cmocka_unit_test(hangs_are_no_crashes),
        cmocka_unit_test(an_end_counts_once),
        cmocka_unit_test(no_job_after_all),
        cmocka_unit_test(a_member_that_is_no_cid),
        cmocka_unit_test(a_spare_is_looked_at),
        cmocka_unit_test(batches),
        cmocka_unit_test(risky_jobs_are_claimed_alone),
        cmocka_unit_test(what_is_let_go_of_at_once_counts_as_nothing),
        cmocka_unit_test(a_scan_of_foreign_jobs),
        cmocka_unit_test(what_changed_since_it_was_read_is_not_added),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
