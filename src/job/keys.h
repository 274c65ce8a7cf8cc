/*
 * keys: whether Redis is as the queue needs it: each of our keys of its own type, numbers that are
 * numbers, every command allowed. Somebody may have written a text where we keep a hash; what only
 * people watch is then done without, what moves need stops, and both are named.
 *
 * keys_look or keys_look_async -> keys_read -> keys_tell
 *
 * Keys of one content are met by the scripts that need them, which note them in tierd:foreign
 * (queue/lua); the look goes on naming those until they are mended, and then has the content
 * looked at again.
 */
#ifndef TIERD_JOB_KEYS_H
#define TIERD_JOB_KEYS_H

#include <stdbool.h>
#include <stddef.h>

#include "job/queue.h"
#include "queue/keys.h"

enum {
    KEYS_TEXT_BYTES = 512, /* a sentence with a key and a level's name in it */
};

struct keys_amiss {
    size_t n;
    struct {
        bool stops; /* no moves, or no posts, until it is mended */
        char text[KEYS_TEXT_BYTES];
    } each[AMISS_MOST];
};

/* What is amiss; 0 or -errno: then it is not known, and with -EPROTO the server's words (redis.h)
 * say why. */
int keys_look(struct queue *q, struct redis *r, struct keys_amiss *out);
int keys_look_async(struct queue *q, struct redis_async *r, redis_done_fn *done, void *ctx);
void keys_read(const redis_reply *list, struct keys_amiss *out);

/* One sentence alone. */
void keys_only(struct keys_amiss *out, const char *text);

/* The sentence of one element of the list; and of a value under a cid that is no job. */
void keys_sentence(char *out, size_t cap, const redis_reply *one);
void keys_no_job(char *out, size_t cap, uint64_t cid);

/* The first that stops, or NULL. Valid as long as `a` is. */
const char *keys_stopping(const struct keys_amiss *a);

/* Calls `say` for each of `now` that `told` has not (`mended` false), and for each of `told` that
 * is no more (true); then `told` is as `now`. */
void keys_tell(struct keys_amiss *told, const struct keys_amiss *now,
               void (*say)(void *ctx, const char *text, bool stops, bool mended), void *ctx);

#endif
