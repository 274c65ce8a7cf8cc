/*
 * buf: a growing byte buffer with an upper bound, for everything that is composed or received.
 *
 * buf_init -> buf_add* / buf_addf / reserve+commit -> read data/len -> buf_consume -> buf_release.
 * The buffer owns its bytes. A failed append sets `failed` and changes nothing else, so that a
 * composer may append many pieces and ask once at the end. `data` is not NUL-terminated.
 */
#ifndef TIERD_BASE_BUF_H
#define TIERD_BASE_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/str.h"

struct buf {
    char *data;
    size_t len;
    size_t cap;
    size_t max;  /* never grows past this many bytes */
    bool failed; /* an append did not fit or memory ran out */
};

/* An empty buffer that may grow to `max` bytes; allocates nothing yet. */
void buf_init(struct buf *b, size_t max);

/* Frees the bytes; the buffer is empty and usable again, with the same bound. */
void buf_release(struct buf *b);

/* Forgets the content and the failure, keeps the memory. */
void buf_clear(struct buf *b);

/* Makes room for `n` more bytes: 0, -ENOBUFS (past the bound) or -ENOMEM. */
int buf_reserve(struct buf *b, size_t n);

/* Appends; on failure sets `failed` and returns what buf_reserve says. Inline, so that what is
 * known at compile time becomes a few stores: answers are composed of many small pieces. */
int buf_add_slowly(struct buf *b, const void *bytes, size_t n);
static inline int buf_add(struct buf *b, const void *bytes, size_t n) {
    if (n > b->cap - b->len || n == 0)
        return buf_add_slowly(b, bytes, n);
    memcpy(b->data + b->len, bytes, n);
    b->len += n;
    return 0;
}
static inline int buf_add_str(struct buf *b, const char *s) {
    return buf_add(b, s, strlen(s));
}
int buf_addf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
int buf_vaddf(struct buf *b, const char *format, va_list args);

/* Appends `n` in decimal digits: a number on the hot path, where a format is too slow. */
int buf_add_u64(struct buf *b, uint64_t n);

/* Appends `v` as a JSON string with its quotes (RFC 8259, 7). Control characters and bytes that are
 * not UTF-8 are written as \u00XX, so the output is always valid JSON. */
int buf_add_json(struct buf *b, struct str_view v);

/* What is in it; valid until it changes. */
static inline struct str_view buf_view(const struct buf *b) {
    return (struct str_view){b->data, b->len};
}

/* Drops the first `n` bytes (n <= len). */
void buf_consume(struct buf *b, size_t n);

#endif
