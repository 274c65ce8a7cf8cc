#include "api/guard.h"

#include <errno.h>

#include "base/log.h"

enum {
    LOOK_MS = 2000, /* a look takes Redis some 50 us */
    WAIT_MS = 200,  /* until Redis is there */
};

static void say(void *ctx, const char *text, bool stops, bool mended) {
    (void)ctx;
    if (mended)
        log_event(LOG_INFO, "this is mended in redis", LOG_STR("role", "api"),
                  LOG_STR("error", text));
    else
        log_event(stops ? LOG_ERROR : LOG_WARN, "redis is not as tierd needs it",
                  LOG_STR("role", "api"), LOG_STR("error", text));
}

static void next(struct guard *g, int64_t ms) {
    void (*looked)(void *) = g->looked;
    g->asking = false;
    loop_timer_set(g->loop, &g->timer, loop_now_ms(g->loop) + ms);
    g->looked = NULL;
    if (looked)
        looked(g->ctx);
}

/* A refusal for good says itself what is amiss; one that passes, or a lost connection, says nothing
 * about keys. */
static void on_look(void *ctx, int rc, const redis_reply *reply) {
    struct guard *g = ctx;
    struct keys_amiss found;
    if (rc == 0)
        keys_read(reply, &found);
    else if (rc == -EPROTO)
        keys_only(&found, redis_async_words(g->redis));
    if (rc == 0 || rc == -EPROTO)
        keys_tell(&g->now, &found, say, g);
    next(g, LOOK_MS);
}

void guard_look(struct guard *g) {
    if (g->asking)
        return;
    g->asking = true;
    loop_timer_cancel(g->loop, &g->timer);
    if (keys_look_async(g->queue, g->redis, on_look, g) < 0)
        next(g, WAIT_MS);
}

static void on_timer(void *p) {
    guard_look(p);
}

void guard_init(struct guard *g, struct loop *loop, struct redis_async *redis,
                struct queue *queue) {
    *g = (struct guard){.loop = loop, .redis = redis, .queue = queue};
    g->timer = (struct loop_timer){.fire = on_timer, .ctx = g};
}

void guard_start(struct guard *g, void (*looked)(void *ctx), void *ctx) {
    g->looked = looked;
    g->ctx = ctx;
    guard_look(g);
}

void guard_release(struct guard *g) {
    if (g->loop)
        loop_timer_cancel(g->loop, &g->timer);
}

const char *guard_stopping(const struct guard *g) {
    const char *refusal = redis_async_refusal(g->redis);
    return refusal[0] ? refusal : keys_stopping(&g->now);
}
