/*
 * causes: what would be logged a thousand times for one cause is logged once, and then counted: how
 * often it came again is said after ten seconds, and then at intervals that grow. A cause is a text
 * without the name of what it happened to. One table for each process; the first line of a cause
 * is never held back, for what the table cannot keep is said each time.
 *
 * zeroed memory -> causes_is_new ... causes_tell, now and then
 */
#ifndef TIERD_BASE_CAUSES_H
#define TIERD_BASE_CAUSES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CAUSES_MAX = 64, /* kept at once: more than a process has of them at a time */
    CAUSE_BYTES = 512,
    CAUSES_FIRST_MS = 10000,
    CAUSES_MOST_MS = 600000,
};

struct causes {
    struct cause {
        uint64_t hash; /* 0: free */
        uint64_t more; /* times that were not said */
        int64_t due_ms, wait_ms;
        char text[CAUSE_BYTES];
    } each[CAUSES_MAX];
};

/* Notes that `what` happened because of `why` at `now_ms`, clock_mono_ms. True: it is to be logged;
 * false: it was not long ago, and is counted. */
bool causes_is_new(struct causes *c, const char *what, const char *why, int64_t now_ms);

/* Calls `say` for each cause that came again, when it is time, with how often it did. One that did
 * not is forgotten: it is new when it comes back. */
void causes_tell(struct causes *c, int64_t now_ms,
                 void (*say)(void *ctx, const char *text, uint64_t more), void *ctx);

#endif
