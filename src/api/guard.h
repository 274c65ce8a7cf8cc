/*
 * guard: looks every few seconds whether Redis is as the queue needs it (job/keys), says once what
 * is amiss and once when it is mended, and keeps the sentences for /health, /status and answers.
 *
 * guard_init -> guard_start ... guard_look -> guard_release
 */
#ifndef TIERD_API_GUARD_H
#define TIERD_API_GUARD_H

#include "job/keys.h"
#include "net/loop.h"
#include "store/redis.h"

struct guard {
    struct loop *loop;
    struct redis_async *redis;
    struct queue *queue;
    struct loop_timer timer;
    bool asking;
    struct keys_amiss now;
    void (*looked)(void *ctx); /* once, after the first look */
    void *ctx;
};

void guard_init(struct guard *g, struct loop *loop, struct redis_async *redis, struct queue *queue);

/* Begins to look; `looked` is called once, when the first look ended either way. */
void guard_start(struct guard *g, void (*looked)(void *ctx), void *ctx);
void guard_release(struct guard *g);

/* Looks at once: Redis refused something. */
void guard_look(struct guard *g);

/* Why Redis cannot be used though it answers, in a sentence that names what is at fault, or NULL.
 * Valid until the next turn of the loop. */
const char *guard_stopping(const struct guard *g);

#endif
