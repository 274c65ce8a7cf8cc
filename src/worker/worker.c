#include "worker/worker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "job/watch.h"
#include "queue/keys.h"
#include "worker/child.h"
#include "worker/group.h"
#include "worker/levels.h"

enum {
    SLEEP_MAX_MS = 10000,
    SCAN_STEP_MS = 40,   /* between two batches of a scan: at most some 6,000 keys a second */
    SCAN_REST = 1,       /* a scan rests as long as it took */
    SCAN_TURN_MS = 1000, /* without a batch for so long, another worker begins anew */
    STOPPED_MS = 500,    /* between two looks whether what stands in the way is mended */
    SEEN_MS = 5000,      /* between two words that we are alive */
    ALIVE_MS = 30000,    /* without one for this long, we are not */
    LOOK_MS = 1000,      /* for the looker to look at all levels, when we start */
    LOOK_AGAIN_MS = 10,  /* between two looks whether it has */
    LET_GO_MS = 2000,    /* for what waits for a level: as long as the first wait */
    REACH_BYTES = LADDER_MAX_LEVELS * (JOB_LEVEL_BYTES + 1) + 2,
};

struct worker {
    struct child child;
    struct levels levels;
    struct group *group;
    struct queue_terms terms;
    char *reach;          /* cfg->levels as queue_terms wants it, NULL: all */
    struct buf answering; /* that without the levels that do not answer */
    bool born;            /* the first step is made */
    int64_t seen_ms;      /* clock_mono_ms when we last said that we are alive, 0: never */
    uint64_t scan_cursor; /* 0: no scan of ours is under way */
    int64_t scan_next_ms, scan_started_ms;
    bool window_opened; /* for what waits for the window of former settings */
};

/* Says every few seconds that we are alive. */
static void be_seen(void *ctx) {
    struct worker *w = ctx;
    struct child *c = &w->child;
    child_tell_causes(c, false);
    if (!c->redis || (w->seen_ms && clock_mono_ms() - w->seen_ms < SEEN_MS))
        return;
    w->seen_ms = clock_mono_ms();
    child_redis_rc(c, watch_hello(&c->queue, c->redis, c->id, ALIVE_MS));
}

static int64_t longer(int64_t a_ms, int64_t b_ms) {
    return a_ms > b_ms ? a_ms : b_ms;
}

/* One batch of the reconciling scan, when it is time for one and this worker's turn. */
static void scan_some(struct worker *w) {
    struct queue_found found[QUEUE_SCAN_MAX];
    size_t n = 0;
    struct child *c = &w->child;
    int64_t now = clock_mono_ms(), interval_ms = c->cfg->scan_interval_ms;
    if (!c->redis || now < w->scan_next_ms)
        return;
    if (w->scan_cursor == 0)
        w->scan_started_ms = now;
    int64_t rest_ms = longer(interval_ms, SCAN_REST * (now - w->scan_started_ms));
    w->scan_next_ms = now + SCAN_STEP_MS;
    if (child_redis_rc(c, queue_scan(&c->queue, c->redis, c->id, longer(interval_ms, SCAN_TURN_MS),
                                     rest_ms, &w->scan_cursor, found, &n)) < 0)
        w->scan_cursor = 0;
    for (size_t i = 0; i < n; i++) {
        if (found[i].is_job)
            log_event(LOG_INFO, "found a job that another program wrote",
                      LOG_STR("worker_id", c->id), LOG_U64("cid", found[i].cid));
        else
            log_event(LOG_WARN, "a key is no job and is left alone", LOG_STR("worker_id", c->id),
                      LOG_U64("cid", found[i].cid), LOG_STR("error", job_parse_text(found[i].why)));
    }
    if (w->scan_cursor == 0)
        w->scan_next_ms = now + rest_ms;
}

static void sleep_until(struct worker *w, int64_t due_ms) {
    struct child *c = &w->child;
    int64_t wait = SLEEP_MAX_MS;
    int64_t scan = w->scan_next_ms - clock_mono_ms();
    if (due_ms >= 0 && due_ms < wait)
        wait = due_ms;
    if (scan < wait)
        wait = scan;
    int rc = queue_sleep(c->redis, wait > 0 ? wait : 1, &c->unblocked);
    if (rc == -EINTR) {
        c->stop_ms = clock_mono_ms();
        child_redis_rc(c, rc); /* a reply is owed: say_bye needs a new connection */
        (void)child_open_redis(c);
    } else if (rc == -EPROTO) { /* a foreign key in the place of tierd:wake: nobody wakes us */
        child_nap(c, wait < STOPPED_MS ? wait : STOPPED_MS);
    } else if (child_redis_rc(c, rc) < 0) {
        child_nap(c, CHILD_RECONNECT_FIRST_MS); /* a sleep that fails must not become a spin */
    }
}

/* Lets go what waits for a window: it may have been that of other settings. What must wait for ours
 * is parked again when it is claimed. */
static void open_window(struct worker *w) {
    struct child *c = &w->child;
    int rc = child_redis_rc(c, queue_pause(&c->queue, c->redis, GATE_WINDOW, 1));
    w->window_opened = rc == 0;
}

/* What we reach: not the levels that are let alone. Their jobs are parked until one of us, or
 * another host, reaches them. */
static const char *reach_now(struct worker *w) {
    const struct ladder *l = &w->levels.ladder;
    const char *all = w->reach ? w->reach : "";
    bool any = false;
    buf_clear(&w->answering);
    buf_add_str(&w->answering, "\n");
    for (size_t i = 0; levels_may_be_let_alone(&w->levels) && i < l->len; i++) {
        if (levels_is_let_alone(&w->levels, l->levels[i].name))
            any = true;
        else if (levels_is_reached(&w->levels, i))
            buf_addf(&w->answering, "%s\n", l->levels[i].name);
    }
    buf_add(&w->answering, "", 1);
    return !any || w->answering.failed ? all : w->answering.data;
}

/* The looker goes first. Mostly it has been there; for a level that hangs we wait LOOK_MS. */
static void await_looker(struct worker *w) {
    const struct ladder *l = &w->levels.ladder;
    int64_t since_ms = clock_mono_ms();
    (void)levels_read(&w->levels, false);
    while (clock_mono_ms() - since_ms < LOOK_MS && !child_stopping(&w->child)) {
        size_t unknown = 0;
        for (size_t i = 0; i < l->len; i++)
            unknown += levels_is_reached(&w->levels, i) &&
                       levels_is_let_alone(&w->levels, l->levels[i].name);
        if (unknown == 0)
            return;
        child_nap(&w->child, LOOK_AGAIN_MS);
    }
}

/* Puts off what one of us held who was killed for a level that hangs: nobody died of it, and it
 * need not wait for the end of its lease. */
static void let_go(struct child *c) {
    char levels[TURNS_TEXT_BYTES], why[JOB_ERROR_BYTES];
    int verdicts[TURN_HOLDS_MAX];
    struct turn_holds holds;
    struct turn *whose = c->redis ? turns_left(c->o->turns, &holds, levels) : NULL;
    if (!whose)
        return;
    struct queue_batch b;
    struct lease lease = {0};
    bool done = true;
    snprintf(why, sizeof why, "the file system of the level %.256s did not answer", levels);
    queue_batch_init(&b, &c->queue, holds.who);
    for (size_t i = 0; i < holds.n; i++) {
        lease.cid = holds.each[i].id;
        lease.token = holds.each[i].token;
        queue_release(&b, &lease, LET_GO_MS, QUEUE_COUNTS_HANG, why, &verdicts[i]);
    }
    queue_batch_run(&b, c->redis);
    for (size_t i = 0; i < holds.n; i++)
        done = done && (verdicts[i] == 0 || verdicts[i] == -ESTALE || verdicts[i] == -EPROTO);
    child_redis_rc(c, 0);
    queue_batch_release(&b);
    turns_let_go(whose, done);
}

static void step(struct worker *w) {
    struct child *c = &w->child;
    int64_t wait_ms = -1;
    if (child_is_stopped(c)) {
        child_nap(c, STOPPED_MS);
        return;
    }
    turn_now(c->o->turn);
    if (!w->born)
        await_looker(w);
    w->born = true;
    w->terms.reach = reach_now(w);
    w->terms.opens_ms = window_opens_ms(&c->cfg->window, time(NULL));
    if (c->redis && !w->window_opened) /* it may have gone while the levels were read */
        open_window(w);
    let_go(c);
    int rc = c->redis ? group_claim(w->group, &w->terms, &wait_ms) : -ENOTCONN;
    if (rc < 0) {
        child_nap(c, rc == -EPROTO ? STOPPED_MS : CHILD_RECONNECT_FIRST_MS);
        return;
    }
    if (rc > 0)
        group_run(w->group);
    scan_some(w); /* also while there is always something to do */
    be_seen(w);
    if (rc == 0 && c->redis && !child_stopping(c))
        sleep_until(w, wait_ms);
}

/* "a,b" as "\na\nb\n". */
static int set_terms(struct worker *w) {
    struct buf b;
    buf_init(&w->answering, REACH_BYTES);
    w->terms.level_jobs = w->child.cfg->level_jobs;
    if (!w->child.cfg->levels)
        return 0;
    buf_init(&b, strlen(w->child.cfg->levels) + 3);
    buf_addf(&b, "\n%s\n", w->child.cfg->levels);
    buf_add(&b, "", 1);
    if (b.failed)
        return -ENOMEM;
    size_t n = 0;
    for (const char *p = b.data; *p; p++) { /* "a, b" is "a,b" */
        char c = *p == ',' ? '\n' : *p;
        if (c == ' ' && (b.data[n - 1] == '\n' || p[1] == ',' || p[1] == '\n'))
            continue;
        b.data[n++] = c;
    }
    b.data[n] = '\0';
    w->reach = b.data; /* the buffer's memory is ours from here on */
    return 0;
}

/* Whoever woke us, or would have with the reply that we did not wait for, wakes another instead. */
static void say_bye(struct child *c) {
    if (c->redis)
        child_redis_rc(c, queue_wake(c->redis));
    if (c->redis)
        watch_bye(c->redis, c->id);
}

int worker_run(const struct worker_options *options) {
    struct worker *w = calloc(1, sizeof *w);
    if (!w)
        return EX_OSERR;
    struct child *c = &w->child;
    int rc = child_init(c, options);
    levels_init(&w->levels, c);
    if (rc == 0)
        rc = set_terms(w);
    if (rc == 0 && !(w->group = group_new(c, &w->levels, be_seen, w)))
        rc = -ENOMEM;
    bool told = false;
    while (rc == 0 && !child_stopping(c)) {
        turn_now(options->turn);
        int up = child_connect(c);
        if (!told && options->ready)
            options->ready(options->ready_ctx);
        told = true;
        if (up == 0)
            step(w);
        else
            child_wait_to_reconnect(c);
    }
    if (w->group)
        group_pay(w->group);
    child_tell_causes(c, true);
    say_bye(c);
    group_free(w->group);
    levels_release(&w->levels);
    child_release(c);
    free(w->reach);
    buf_release(&w->answering);
    free(w);
    return rc < 0 ? EX_OSERR : 0;
}
