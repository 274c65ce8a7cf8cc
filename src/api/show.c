#include "api/show.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/page.h"
#include "job/report.h"
#include "job/watch.h"
#include "queue/keys.h"

enum { STATUS_AGE_MS = 1000 }; /* a page that polls costs no more than this */

#define FRESH        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

struct show_waiter {
    struct show_waiter *next;
    struct http_exchange *x;
    bool wants_metrics;
};

/* ---- metrics that Redis and the catalogue know ---- */

/* A label's value in quotes (Prometheus text format 0.0.4). */
static void add_label(struct buf *b, const char *value) {
    buf_add_str(b, "\"");
    for (const char *p = value; *p; p++)
        if (*p == '\n')
            buf_add_str(b, "\\n");
        else if (*p == '\\' || *p == '"')
            buf_addf(b, "\\%c", *p);
        else
            buf_add(b, p, 1);
    buf_add_str(b, "\"");
}

static void add_head(struct buf *b, const char *name, const char *type, const char *help) {
    buf_addf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void add_durations(struct buf *b, const redis_reply *watched, uint64_t took_ms) {
    static const uint64_t bounds_ms[] = {MOVE_MS};
    uint64_t n = 0;
    char name[32];
    add_head(b, "tierd_move_duration_seconds", "histogram",
             "From the claim until the copy stood, of committed moves.");
    for (size_t i = 0; i < sizeof bounds_ms / sizeof *bounds_ms; i++) {
        snprintf(name, sizeof name, STAT_WITHIN "%" PRIu64, bounds_ms[i]);
        n += report_stat(watched, name);
        buf_addf(b, "tierd_move_duration_seconds_bucket{le=\"%g\"} %" PRIu64 "\n",
                 (double)bounds_ms[i] / 1000, n);
    }
    n += report_stat(watched, STAT_WITHIN "inf");
    buf_addf(b,
             "tierd_move_duration_seconds_bucket{le=\"+Inf\"} %" PRIu64
             "\ntierd_move_duration_seconds_sum %.3f\ntierd_move_duration_seconds_count %" PRIu64
             "\n",
             n, (double)took_ms / 1000, n);
}

static void add_jobs(struct buf *b, const redis_reply *watched) {
    struct status_numbers n;
    report_numbers(watched, &n);
    const struct {
        const char *state;
        uint64_t n;
    } states[] = {{"ready", n.ready},   {"moving", n.running},    {"later", n.later},
                  {"paused", n.parked}, {"conflict", n.conflict}, {"dead", n.dead}};
    add_head(b, "tierd_jobs", "gauge", "Jobs by state.");
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        buf_addf(b, "tierd_jobs{state=\"%s\"} %" PRIu64 "\n", states[i].state, states[i].n);
    add_head(b, "tierd_queue_age_seconds", "gauge", "How long the job that is due first has been.");
    buf_addf(b, "tierd_queue_age_seconds %.3f\n", (double)n.age_ms / 1000);
    add_head(b, "tierd_workers", "gauge", "Worker processes alive.");
    buf_addf(b, "tierd_workers %" PRIu64 "\n", n.alive);
    add_head(b, "tierd_moves_total", "counter", "Moves that were committed.");
    buf_addf(b, "tierd_moves_total %" PRIu64 "\n", n.moves);
    add_head(b, "tierd_copied_bytes_total", "counter",
             "Bytes that these copied; a move by link or reflink copies none.");
    buf_addf(b, "tierd_copied_bytes_total %" PRIu64 "\n", n.bytes);
    add_head(b, "tierd_retries_total", "counter", "Attempts that failed and are tried again.");
    buf_addf(b, "tierd_retries_total %" PRIu64 "\n", n.retried);
    add_head(b, "tierd_failed_total", "counter", "Jobs that ended so.");
    buf_addf(b,
             "tierd_failed_total{status=\"dead\"} %" PRIu64
             "\ntierd_failed_total{status=\"conflict\"} %" PRIu64 "\n",
             n.deaths, n.conflicts);
    add_durations(b, watched, n.took_ms);
}

static void add_level_gauge(struct buf *b, const char *name, const char *help,
                            const struct ladder *ladder, const uint64_t *values,
                            const bool *known) {
    add_head(b, name, "gauge", help);
    for (size_t i = 0; i < ladder->len; i++) {
        if (!known[i])
            continue;
        buf_addf(b, "%s{level=", name);
        add_label(b, ladder->levels[i].name);
        buf_addf(b, "} %" PRIu64 "\n", values[i]);
    }
}

static void add_levels(struct buf *b, const struct status_facts *f) {
    const redis_reply *use_reply = report_use_of(f->watched);
    struct level_use use[LADDER_MAX_LEVELS];
    uint64_t used[LADDER_MAX_LEVELS], left[LADDER_MAX_LEVELS], usable[LADDER_MAX_LEVELS];
    uint64_t full[LADDER_MAX_LEVELS], tight[LADDER_MAX_LEVELS];
    bool known[LADDER_MAX_LEVELS], all[LADDER_MAX_LEVELS];
    report_use(use_reply, f->ladder, use);
    for (size_t i = 0; i < f->ladder->len; i++) {
        used[i] = use[i].used_bytes;
        left[i] = use[i].free_bytes;
        known[i] = use[i].known;
        usable[i] = report_troubles(f->watched, f->ladder->levels[i].name) == 0;
        all[i] = true;
        report_room(f->watched, f->ladder->levels[i].name, &full[i], &tight[i]);
    }
    add_level_gauge(b, "tierd_level_used_bytes", "In use on the level's file system.", f->ladder,
                    used, known);
    add_level_gauge(b, "tierd_level_free_bytes", "Free on the level's file system.", f->ladder,
                    left, known);
    add_level_gauge(b, "tierd_level_full", "1: no move begins into the level, there is no room.",
                    f->ladder, full, all);
    add_level_gauge(b, "tierd_jobs_without_room",
                    "Jobs that wait by themselves because their file does not fit into the level.",
                    f->ladder, tight, all);
    if (f->watched)
        add_level_gauge(b, "tierd_level_usable",
                        "Whether no host has trouble with the level (mount, marker, no answer).",
                        f->ladder, usable, all);
    if (f->files)
        add_level_gauge(b, "tierd_level_files", "Contents at the level, by the catalogue.",
                        f->ladder, f->files, all);
}

/* Those of workers are counted in Redis, and known while it answers. */
static void add_reconnects(struct buf *b, const struct metrics *m, const redis_reply *watched) {
    static const char line[] = "tierd_reconnects_total{role=\"%s\",server=\"%s\"} %" PRIu64 "\n";
    add_head(b, "tierd_reconnects_total", "counter", "Connections that were lost and made again.");
    buf_addf(b, line, "api", "redis", metrics_sum(m, METRIC_REDIS_RECONNECTS));
    buf_addf(b, line, "api", "db", metrics_sum(m, METRIC_DB_RECONNECTS));
    if (!watched)
        return;
    buf_addf(b, line, "worker", "redis", report_stat(watched, STAT_RECONNECTS "redis"));
    buf_addf(b, line, "worker", "db", report_stat(watched, STAT_RECONNECTS "db"));
}

static void write_metrics(struct buf *b, const struct show *s, const struct status_facts *f) {
    add_head(b, "tierd_redis_up", "gauge", "Whether Redis answers.");
    buf_addf(b, "tierd_redis_up %d\n", f->watched ? 1 : 0);
    add_head(b, "tierd_db_up", "gauge", "Whether the database is connected.");
    buf_addf(b, "tierd_db_up %d\n", f->db_ok ? 1 : 0);
    add_head(b, "tierd_redis_writable", "gauge", "Whether Redis takes writes.");
    buf_addf(b, "tierd_redis_writable %d\n",
             redis_async_up(s->redis) && redis_async_fault(s->redis)->trouble == SERVER_FINE);
    add_head(b, "tierd_db_writable", "gauge", "Whether the database takes writes.");
    buf_addf(b, "tierd_db_writable %d\n",
             db_pool_up(s->db) && db_pool_fault(s->db)->trouble == SERVER_FINE);
    metrics_write(b, s->metrics);
    add_reconnects(b, s->metrics, f->watched);
    add_levels(b, f);
    if (f->watched)
        add_jobs(b, f->watched);
}

/* ---- status ---- */

static void reply_status(struct show *s, struct http_exchange *x, bool wants_metrics) {
    const struct buf *b = wants_metrics ? &s->metrics_text : &s->status;
    if (b->failed)
        http_reply_error(x, 500, "the status is larger than an answer may be", NULL);
    else
        http_reply(x, 200, wants_metrics ? METRICS_TYPE : "application/json", buf_view(b), FRESH);
}

static void on_watched(void *ctx, int rc, const redis_reply *reply) {
    struct show *s = ctx;
    struct status_facts f = {.watched = rc < 0 ? NULL : reply,
                             .amiss = &s->guard->now,
                             .db_ok = db_pool_up(s->db),
                             .ladder = catalog_ladder(s->catalog),
                             .files = catalog_files(s->catalog)};
    struct show_waiter *w = s->waiters;
    s->asking = false;
    s->waiters = NULL;
    s->made_ms = loop_now_ms(s->loop);
    buf_clear(&s->status);
    buf_clear(&s->metrics_text);
    report_status(&s->status, &f);
    write_metrics(&s->metrics_text, s, &f);
    while (w) {
        struct show_waiter *next = w->next;
        reply_status(s, w->x, w->wants_metrics);
        free(w);
        w = next;
    }
}

static void answer(struct show *s, struct http_exchange *x, bool wants_metrics) {
    if (s->made_ms && loop_now_ms(s->loop) - s->made_ms < STATUS_AGE_MS) {
        reply_status(s, x, wants_metrics);
        return;
    }
    struct show_waiter *w = malloc(sizeof *w);
    if (!w) {
        http_reply_error(x, 503, "out of memory", HTTP_RETRY_LATER);
        return;
    }
    *w = (struct show_waiter){s->waiters, x, wants_metrics};
    s->waiters = w;
    if (s->asking)
        return;
    s->asking = true;
    (void)catalog_files(s->catalog); /* has them counted meanwhile */
    int rc = watch_status_async(s->queue, s->redis, on_watched, s);
    if (rc < 0)
        on_watched(s, rc, NULL);
}

void show_status(struct show *s, struct http_exchange *x) {
    answer(s, x, false);
}

void show_metrics(struct show *s, struct http_exchange *x) {
    answer(s, x, true);
}

/* ---- one content ---- */

struct job_view {
    struct show *s;
    struct http_exchange *x;
    struct lookup lookup;
    struct content row;
};

static void job_end(struct job_view *v, int status, const char *sentence) {
    http_reply_error(v->x, status, sentence, status == 503 ? HTTP_RETRY_LATER : NULL);
    free(v);
}

static void job_away(struct job_view *v, const char *server, const struct server_fault *fault) {
    struct server_fault away = {.trouble = SERVER_AWAY};
    char text[FAULT_TEXT_BYTES + 32], what[FAULT_TEXT_BYTES];
    fault_text(fault->trouble == SERVER_FINE ? &away : fault, false, what);
    snprintf(text, sizeof text, "%s %s", server, what);
    job_end(v, 503, text);
}

static void on_explained(void *ctx, int rc, const redis_reply *reply) {
    struct job_view *v = ctx;
    struct buf b;
    if (rc < 0) {
        job_away(v, "redis", redis_async_fault(v->s->redis));
        return;
    }
    buf_init(&b, REPORT_BYTES);
    report_job(&b, &(struct job_facts){.cid = v->lookup.cid,
                                       .watched = reply,
                                       .amiss = &v->s->guard->now,
                                       .ladder = catalog_ladder(v->s->catalog),
                                       .row = &v->row,
                                       .policy = v->s->policy});
    if (b.failed) {
        job_end(v, 500, "the explanation is larger than an answer may be");
    } else {
        http_reply(v->x, 200, "application/json", buf_view(&b), FRESH);
        free(v);
    }
    buf_release(&b);
}

static void on_row(struct lookup *l, int rc, const struct content *row) {
    struct job_view *v = (struct job_view *)((char *)l - offsetof(struct job_view, lookup));
    char text[96];
    if (rc < 0) {
        job_away(v, "the database", db_pool_fault(v->s->db));
        return;
    }
    if (!row) {
        snprintf(text, sizeof text, "the content with cid %" PRIu64 " does not exist", l->cid);
        job_end(v, 404, text);
        return;
    }
    v->row = *row;
    if (watch_explain_async(v->s->queue, v->s->redis, l->cid, on_explained, v) < 0)
        job_away(v, "redis", redis_async_fault(v->s->redis));
}

void show_job(struct show *s, struct http_exchange *x, uint64_t cid) {
    struct job_view *v = calloc(1, sizeof *v);
    if (!v) {
        http_reply_error(x, 503, "out of memory", HTTP_RETRY_LATER);
        return;
    }
    v->s = s;
    v->x = x;
    v->lookup = (struct lookup){.cid = cid, .done = on_row};
    if (catalog_lookup(s->catalog, &v->lookup) < 0)
        job_away(v, "the database", db_pool_fault(v->s->db));
}

/* ---- the page ---- */

void show_page(struct http_exchange *x) {
    http_reply(x, 200, "text/html; charset=utf-8",
               (struct str_view){(const char *)page_html, page_html_len},
               "Content-Security-Policy: " PAGE_POLICY "\r\n"
               "Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\n");
}

void show_init(struct show *s) {
    buf_init(&s->status, REPORT_BYTES);
    buf_init(&s->metrics_text, REPORT_BYTES);
}

void show_release(struct show *s) {
    while (s->waiters) { /* their exchanges end with the server */
        struct show_waiter *next = s->waiters->next;
        free(s->waiters);
        s->waiters = next;
    }
    buf_release(&s->status);
    buf_release(&s->metrics_text);
}
