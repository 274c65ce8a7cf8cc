/*
 * routes: what each request does. A table of paths, one handle_<verb> each; everything that waits
 * is a step with a callback, nothing blocks.
 */
#ifndef TIERD_API_ROUTES_H
#define TIERD_API_ROUTES_H

#include "api/guard.h"
#include "api/metrics.h"
#include "api/show.h"
#include "job/catalog.h"
#include "job/policy.h"
#include "job/queue.h"
#include "net/http_server.h"

struct op;

enum { ROUTES_ODD = 8 }; /* cids at once whose key is known to hold something large */

/* What the handlers stand on; all borrowed from api, which also sets up and releases `posts`.
 * `spare` is routes' own. */
struct routes {
    struct loop *loop;
    struct redis_async *redis;
    struct db_pool *db;
    struct catalog *catalog;
    struct queue *queue;
    struct queue_posts posts;
    const struct policy *policy;
    struct metrics_slot *metrics; /* this process' own */
    const struct level_use *use;  /* of each level, or NULL: no rule asks for it */
    struct show *show;
    struct guard *guard;
    /* What stands there is so large that Redis must not be asked for it with each post; a ring. */
    struct {
        uint64_t cid;
        int64_t until_ms;
    } odd[ROUTES_ODD];
    size_t next_odd;
    struct op *spare; /* finished operations, to be used again */
    size_t n_spare;
};

/* The http_handler_fn; ctx is a struct routes. */
void routes_handle(void *ctx, struct http_exchange *x, const struct http_request *req,
                   struct str_view body);

/* The http_judge_fn: 404, 405 and 415 are known from the head. */
struct http_refusal routes_judge(void *ctx, const struct http_request *req);

void routes_release(struct routes *r);

#endif
