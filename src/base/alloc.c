#include "base/alloc.h"

#include <malloc.h>
#include <string.h>

enum {
    CLASS_MIN = 32,          /* smaller ones share a group of musl's that never empties */
    CLASS_MAX = 128 * 1024,  /* larger ones are mapped one by one and moved by mremap(2) */
    CLASSES = 25,            /* 32 48 64 96 ... 98304 131072 */
    CACHED_MAX = 1024 * 1024 /* the answers of several batches; an idle process keeps no more */
};

/* A freed piece. */
struct piece {
    struct piece *next;
};

/* The one state of the program that is not passed down: malloc has no context. */
static struct {
    struct piece *first[CLASSES];
    size_t bytes;
} cache;

/* The class that holds `n` bytes, and how many it holds: powers of two and the middles between. */
static size_t class_of(size_t n, size_t *bytes) {
    if (n <= CLASS_MIN) {
        *bytes = CLASS_MIN;
        return 0;
    }
    size_t log = 63 - (size_t)__builtin_clzl(n - 1); /* 2^log < n <= 2^(log+1) */
    size_t middle = (size_t)3 << (log - 1);
    *bytes = n <= middle ? middle : (size_t)2 << log;
    return 2 * (log - 5) + (n <= middle ? 1 : 2);
}

void *__wrap_malloc(size_t n) {
    size_t bytes;
    if (n > CLASS_MAX)
        return __real_malloc(n);
    size_t class = class_of(n, &bytes);
    struct piece *p = cache.first[class];
    if (!p)
        return __real_malloc(bytes);
    cache.first[class] = p->next;
    cache.bytes -= bytes;
    return p;
}

void __wrap_free(void *p) {
    size_t bytes;
    size_t usable = p ? malloc_usable_size(p) : 0;
    if (usable < CLASS_MIN || usable > CLASS_MAX || cache.bytes + usable > CACHED_MAX) {
        __real_free(p);
        return;
    }
    size_t class = class_of(usable, &bytes);
    if (bytes != usable) {
        __real_free(p);
        return;
    }
    struct piece *piece = p;
    piece->next = cache.first[class];
    cache.first[class] = piece;
    cache.bytes += bytes;
}

void *__wrap_calloc(size_t n, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > CLASS_MAX)
        return __real_calloc(n, size);
    void *p = __wrap_malloc(bytes);
    if (p)
        memset(p, 0, bytes);
    return p;
}

void *__wrap_realloc(void *p, size_t n) {
    size_t usable = p ? malloc_usable_size(p) : 0;
    if (n > CLASS_MAX)
        return __real_realloc(p, n);
    if (p && n <= usable && n > usable / 2)
        return p;
    void *new = __wrap_malloc(n);
    if (!new)
        return NULL;
    if (p)
        memcpy(new, p, usable < n ? usable : n);
    __wrap_free(p);
    return new;
}
