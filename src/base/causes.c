#include "base/causes.h"

#include <stdio.h>
#include <string.h>

/* FNV-1a, 64 bits; never 0. */
static uint64_t hash(uint64_t h, const char *s) {
    for (; *s; s++)
        h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    return h | 1;
}

bool causes_is_new(struct causes *c, const char *what, const char *why, int64_t now_ms) {
    struct cause *room = NULL;
    uint64_t h = hash(hash(0xcbf29ce484222325u, what), why);
    for (struct cause *at = c->each; at < c->each + CAUSES_MAX; at++) {
        if (at->hash == h) {
            at->more++;
            return false;
        }
        if (!room && at->hash == 0)
            room = at;
    }
    if (!room)
        return true;
    *room =
        (struct cause){.hash = h, .due_ms = now_ms + CAUSES_FIRST_MS, .wait_ms = CAUSES_FIRST_MS};
    snprintf(room->text, sizeof room->text, "%s: %s", what, why);
    return true;
}

void causes_tell(struct causes *c, int64_t now_ms,
                 void (*say)(void *ctx, const char *text, uint64_t more), void *ctx) {
    for (struct cause *at = c->each; at < c->each + CAUSES_MAX; at++) {
        if (at->hash == 0 || now_ms < at->due_ms)
            continue;
        if (at->more == 0) {
            at->hash = 0;
            continue;
        }
        say(ctx, at->text, at->more);
        at->more = 0;
        at->wait_ms = at->wait_ms * 2 < CAUSES_MOST_MS ? at->wait_ms * 2 : CAUSES_MOST_MS;
        at->due_ms = now_ms + at->wait_ms;
    }
}
