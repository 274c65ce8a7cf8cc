/*
 * str: borrowed views of bytes, and strict parsing of the few things tierd reads from text:
 * decimal numbers, durations, sizes, percent-encoding, UTF-8.
 *
 * A view owns nothing; it is valid for as long as the bytes it was taken from.
 */
#ifndef TIERD_BASE_STR_H
#define TIERD_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct str_view {
    const char *ptr;
    size_t len;
};

/* For printf: `"%.*s", STR_ARG(view)`. */
#define STR_ARG(v) (int)(v).len, (v).ptr

/* A view of a NUL-terminated string; valid while the string is. */
struct str_view str_view(const char *s);

/* True when the view's bytes are those of the NUL-terminated `s`. */
bool str_is(struct str_view v, const char *s);

/* The same, ASCII letters compared without case (RFC 9110, 5.1: field names, most tokens). */
bool str_is_nocase(struct str_view v, const char *s);

/*
 * Copies `v` with a closing NUL into `dst` of `cap` bytes.
 * 0, or -ENAMETOOLONG (does not fit), -EINVAL (holds a NUL); `dst` is written only on success.
 */
int str_copy(char *dst, size_t cap, struct str_view v);

/*
 * Reads a whole view as a decimal number: ASCII digits alone, no sign, no blank, no leading zero
 * (except "0" itself), at most `max`. 0, -EINVAL (not of that form) or -ERANGE (greater than
 * `max`).
 */
int str_u64(struct str_view v, uint64_t max, uint64_t *out);

/*
 * Reads a duration such as "250ms", "30s", "10m", "12h", "7d" as milliseconds; "0" needs no unit.
 * 0, -EINVAL, or -ERANGE past INT64_MAX.
 */
int str_duration_ms(struct str_view v, int64_t *out);

/*
 * Reads a size such as "65536", "64K", "100M", "5G", "1T" (powers of 1024) as bytes.
 * 0, -EINVAL, or -ERANGE past UINT64_MAX.
 */
int str_size_bytes(struct str_view v, uint64_t *out);

/*
 * Decodes application/x-www-form-urlencoded text: %XX and '+' (WHATWG URL, 5.1), but strictly: a
 * '%' that is not followed by two hexadecimal digits is refused instead of passed through.
 * `*out_len` bytes go to `dst` (not NUL-terminated). 0, -EINVAL, or -ENAMETOOLONG past `cap`.
 */
int str_form_decode(struct str_view v, char *dst, size_t cap, size_t *out_len);

/* The same without '+' as blank: the rule for URLs (RFC 3986, 2.1). */
int str_url_decode(struct str_view v, char *dst, size_t cap, size_t *out_len);

enum {
    STR_U64_BYTES = 21,
    STR_SPAN_BYTES = 24,
    STR_SIZE_BYTES = 32
}; /* 2^64-1 has 20 digits, and a NUL */

/* Writes `n` in decimal digits into `text`; a view of it. */
struct str_view str_from_u64(char text[STR_U64_BYTES], uint64_t n);

/* A span of time for people, whole units: "250 ms", "12 s", "3 min", "5 h", "2 d". */
const char *str_span(uint64_t ms, char out[STR_SPAN_BYTES]);

/* A size for people, to a tenth: "60 MiB", "59.9 MiB"; rounded down, or `up`: so that what is
 * needed never looks like what there is when that is less. */
const char *str_size(uint64_t bytes, bool up, char out[STR_SIZE_BYTES]);

/* Length in bytes of the valid UTF-8 sequence at `p` (RFC 3629, no surrogates), or 0 if none. */
size_t str_utf8_len(const char *p, size_t len);

/* Whether all of it is valid UTF-8. */
bool str_is_utf8(struct str_view v);

#endif
