#include "base/buf.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* First allocation: most replies and requests fit, so that most buffers are allocated once. */
enum { BUF_FIRST_BYTES = 512 };

void buf_init(struct buf *b, size_t max) {
    *b = (struct buf){.max = max};
}

void buf_release(struct buf *b) {
    free(b->data);
    buf_init(b, b->max);
}

void buf_clear(struct buf *b) {
    b->len = 0;
    b->failed = false;
}

int buf_reserve(struct buf *b, size_t n) {
    if (n <= b->cap - b->len)
        return 0;
    size_t need;
    if (__builtin_add_overflow(b->len, n, &need) || need > b->max)
        return -ENOBUFS;
    size_t cap = b->cap ? b->cap : BUF_FIRST_BYTES;
    while (cap < need)
        cap = cap > b->max / 2 ? b->max : cap * 2;
    if (cap > b->max)
        cap = b->max;
    char *data = realloc(b->data, cap);
    if (!data)
        return -ENOMEM;
    b->data = data;
    b->cap = cap;
    return 0;
}

int buf_add_slowly(struct buf *b, const void *bytes, size_t n) {
    int rc = buf_reserve(b, n);
    if (rc < 0) {
        b->failed = true;
        return rc;
    }
    if (n) {
        memcpy(b->data + b->len, bytes, n);
        b->len += n;
    }
    return 0;
}

int buf_vaddf(struct buf *b, const char *format, va_list args) {
    char small[256];
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(small, sizeof small, format, args);
    assert(n >= 0); /* only a bad format or an invalid wide character fails */
    int rc;
    if ((size_t)n < sizeof small) {
        rc = buf_add(b, small, (size_t)n);
    } else if ((rc = buf_reserve(b, (size_t)n + 1)) == 0) {
        vsnprintf(b->data + b->len, (size_t)n + 1, format, again);
        b->len += (size_t)n;
    } else {
        b->failed = true;
    }
    va_end(again);
    return rc;
}

int buf_addf(struct buf *b, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int rc = buf_vaddf(b, format, args);
    va_end(args);
    return rc;
}

int buf_add_u64(struct buf *b, uint64_t n) {
    char digits[20]; /* of 2^64-1 */
    size_t at = sizeof digits;
    do
        digits[--at] = (char)('0' + n % 10);
    while (n /= 10);
    return buf_add(b, digits + at, sizeof digits - at);
}

static void add_json_byte(struct buf *b, unsigned char c) {
    switch (c) {
    case '"':
        buf_add(b, "\\\"", 2);
        return;
    case '\\':
        buf_add(b, "\\\\", 2);
        return;
    case '\n':
        buf_add(b, "\\n", 2);
        return;
    case '\r':
        buf_add(b, "\\r", 2);
        return;
    case '\t':
        buf_add(b, "\\t", 2);
        return;
    default:
        buf_addf(b, "\\u%04x", c);
    }
}

/* True for bytes that stand for themselves in a JSON string and start no multi-byte sequence. */
static bool json_plain(unsigned char c) {
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

int buf_add_json(struct buf *b, struct str_view v) {
    buf_add(b, "\"", 1);
    for (size_t i = 0; i < v.len;) {
        size_t run = 0;
        while (i + run < v.len && json_plain((unsigned char)v.ptr[i + run]))
            run++;
        if (run == 0) {
            size_t n = str_utf8_len(v.ptr + i, v.len - i);
            bool c1 =
                n == 2 && (unsigned char)v.ptr[i] == 0xc2 && (unsigned char)v.ptr[i + 1] < 0xa0;
            if (c1) { /* C1 controls would reach a terminal that shows the log */
                buf_addf(b, "\\u%04x", (unsigned char)v.ptr[i + 1]);
                i += 2;
                continue;
            }
            if (n > 1) {
                run = n;
            } else {
                add_json_byte(b, (unsigned char)v.ptr[i++]);
                continue;
            }
        }
        buf_add(b, v.ptr + i, run);
        i += run;
    }
    buf_add(b, "\"", 1);
    return b->failed ? -ENOBUFS : 0;
}

void buf_consume(struct buf *b, size_t n) {
    assert(n <= b->len);
    if (n == 0)
        return;
    b->len -= n;
    memmove(b->data, b->data + n, b->len);
}
