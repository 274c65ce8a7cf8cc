/*
 * show: what people and programs look at: GET /status, /jobs/<cid>, /metrics and the page at /.
 *
 * A status is made at most once a second, whoever asks and however many; it costs one script and
 * no scan. show_init once the parts stand -> handlers -> show_release.
 */
#ifndef TIERD_API_SHOW_H
#define TIERD_API_SHOW_H

#include "api/guard.h"
#include "api/metrics.h"
#include "base/buf.h"
#include "job/catalog.h"
#include "job/policy.h"
#include "job/queue.h"
#include "net/http_server.h"

/* One who waits for a status. */
struct show_waiter;

/* What the handlers stand on, all borrowed, and the last status. */
struct show {
    struct loop *loop;
    struct redis_async *redis;
    struct db_pool *db;
    struct catalog *catalog;
    struct queue *queue;
    const struct guard *guard;
    const struct policy *policy;
    const struct metrics *metrics;
    struct buf status, metrics_text; /* as they were at made_ms */
    int64_t made_ms;                 /* loop_now_ms; 0: never */
    bool asking;
    struct show_waiter *waiters;
};

void show_init(struct show *s);
void show_release(struct show *s);

void show_status(struct show *s, struct http_exchange *x);
void show_metrics(struct show *s, struct http_exchange *x);
void show_page(struct http_exchange *x);
void show_job(struct show *s, struct http_exchange *x, uint64_t cid);

#endif
