#include "base/rate.h"

#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>

#include "base/clock.h"

struct rate {
    _Atomic uint64_t bytes_per_s;
    _Atomic int64_t next_us; /* when all that was taken will have passed, clock_mono_us */
};

struct rate *rate_new(void) {
    void *p =
        mmap(NULL, sizeof(struct rate), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void rate_set(struct rate *r, uint64_t bytes_per_s) {
    atomic_store(&r->bytes_per_s, bytes_per_s);
}

int64_t rate_take(struct rate *r, uint64_t bytes) {
    uint64_t limit = atomic_load(&r->bytes_per_s);
    if (limit == 0 || bytes == 0)
        return 0;
    int64_t now = clock_mono_us();
    int64_t cost_us = (int64_t)((double)bytes * 1e6 / (double)limit);
    int64_t next = atomic_load(&r->next_us), after;
    do {
        after = (next > now ? next : now) + cost_us;
    } while (!atomic_compare_exchange_weak(&r->next_us, &next, after));
    return (after - now) / 1000;
}

uint64_t rate_chunk_bytes(struct rate *r, uint64_t least, uint64_t most) {
    uint64_t limit = atomic_load(&r->bytes_per_s);
    uint64_t tenth = limit / 10;
    return limit == 0 || tenth > most ? most : tenth < least ? least : tenth;
}
