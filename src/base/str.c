#include "base/str.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct str_view str_view(const char *s) {
    return (struct str_view){s, strlen(s)};
}

bool str_is(struct str_view v, const char *s) {
    return strlen(s) == v.len && memcmp(v.ptr, s, v.len) == 0;
}

bool str_is_nocase(struct str_view v, const char *s) {
    return strlen(s) == v.len && strncasecmp(v.ptr, s, v.len) == 0;
}

int str_copy(char *dst, size_t cap, struct str_view v) {
    if (v.len >= cap)
        return -ENAMETOOLONG;
    if (memchr(v.ptr, '\0', v.len))
        return -EINVAL;
    memcpy(dst, v.ptr, v.len);
    dst[v.len] = '\0';
    return 0;
}

int str_u64(struct str_view v, uint64_t max, uint64_t *out) {
    if (v.len == 0 || (v.len > 1 && v.ptr[0] == '0'))
        return -EINVAL;
    for (size_t i = 0; i < v.len; i++)
        if (v.ptr[i] < '0' || v.ptr[i] > '9')
            return -EINVAL;
    uint64_t n = 0;
    for (size_t i = 0; i < v.len; i++) {
        uint64_t digit = (uint64_t)(v.ptr[i] - '0');
        if (__builtin_mul_overflow(n, 10U, &n) || __builtin_add_overflow(n, digit, &n))
            return -ERANGE;
    }
    if (n > max)
        return -ERANGE;
    *out = n;
    return 0;
}

/* Splits "12ms" into its digits and its unit. */
static struct str_view cut_unit(struct str_view v, struct str_view *digits) {
    size_t n = 0;
    while (n < v.len && v.ptr[n] >= '0' && v.ptr[n] <= '9')
        n++;
    *digits = (struct str_view){v.ptr, n};
    return (struct str_view){v.ptr + n, v.len - n};
}

int str_duration_ms(struct str_view v, int64_t *out) {
    static const struct {
        const char *name;
        int64_t ms;
    } units[] = {{"ms", 1},
                 {"s", 1000},
                 {"m", INT64_C(60) * 1000},
                 {"h", INT64_C(3600) * 1000},
                 {"d", INT64_C(86400) * 1000}};
    struct str_view digits;
    struct str_view unit = cut_unit(v, &digits);
    uint64_t n;
    int rc = str_u64(digits, INT64_MAX, &n);
    if (rc < 0)
        return rc;
    if (unit.len == 0 && n == 0) {
        *out = 0;
        return 0;
    }
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (!str_is(unit, units[i].name))
            continue;
        int64_t ms;
        if (__builtin_mul_overflow((int64_t)n, units[i].ms, &ms))
            return -ERANGE;
        *out = ms;
        return 0;
    }
    return -EINVAL;
}

int str_size_bytes(struct str_view v, uint64_t *out) {
    static const char letters[] = "KMGT";
    struct str_view digits;
    struct str_view unit = cut_unit(v, &digits);
    uint64_t n;
    int rc = str_u64(digits, UINT64_MAX, &n);
    if (rc < 0)
        return rc;
    if (unit.len > 1)
        return -EINVAL;
    unsigned shift = 0;
    if (unit.len == 1) {
        const char *letter = memchr(letters, unit.ptr[0], sizeof letters - 1);
        if (!letter)
            return -EINVAL;
        shift = 10U * (unsigned)(letter - letters + 1);
    }
    if (shift && n > UINT64_MAX >> shift)
        return -ERANGE;
    *out = n << shift;
    return 0;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static int percent_decode(struct str_view v, bool plus_is_blank, char *dst, size_t cap,
                          size_t *out_len) {
    size_t n = 0;
    for (size_t i = 0; i < v.len; i++) {
        char c = v.ptr[i];
        if (c == '%') {
            if (v.len - i < 3)
                return -EINVAL;
            int hi = hex_digit(v.ptr[i + 1]);
            int lo = hex_digit(v.ptr[i + 2]);
            if (hi < 0 || lo < 0)
                return -EINVAL;
            c = (char)(hi * 16 + lo);
            i += 2;
        } else if (c == '+' && plus_is_blank) {
            c = ' ';
        }
        if (n == cap)
            return -ENAMETOOLONG;
        dst[n++] = c;
    }
    *out_len = n;
    return 0;
}

int str_form_decode(struct str_view v, char *dst, size_t cap, size_t *out_len) {
    return percent_decode(v, true, dst, cap, out_len);
}

int str_url_decode(struct str_view v, char *dst, size_t cap, size_t *out_len) {
    return percent_decode(v, false, dst, cap, out_len);
}

struct str_view str_from_u64(char text[STR_U64_BYTES], uint64_t n) {
    int len = snprintf(text, STR_U64_BYTES, "%" PRIu64, n);
    return (struct str_view){text, (size_t)len};
}

const char *str_span(uint64_t ms, char out[STR_SPAN_BYTES]) {
    static const struct {
        uint64_t ms, below_ms; /* two digits at least, before the next unit begins */
        const char *name;
    } units[] = {{1, 1000, "ms"},
                 {1000, 100000, "s"},
                 {60000, 6000000, "min"},
                 {3600000, 172800000, "h"},
                 {86400000, UINT64_MAX, "d"}};
    size_t i = 0;
    while (ms >= units[i].below_ms && i + 1 < sizeof units / sizeof *units)
        i++;
    snprintf(out, STR_SPAN_BYTES, "%" PRIu64 " %s", ms / units[i].ms, units[i].name);
    return out;
}

const char *str_size(uint64_t bytes, bool up, char out[STR_SIZE_BYTES]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    unsigned u = 0;
    while (u + 1 < sizeof units / sizeof *units && bytes >> 10 * (u + 1) > 0)
        u++;
    uint64_t unit = UINT64_C(1) << 10 * u, tenths = bytes % unit * 10;
    uint64_t n = bytes / unit * 10 + (tenths + (up ? unit - 1 : 0)) / unit;
    if (n % 10)
        snprintf(out, STR_SIZE_BYTES, "%" PRIu64 ".%" PRIu64 " %s", n / 10, n % 10, units[u]);
    else
        snprintf(out, STR_SIZE_BYTES, "%" PRIu64 " %s", n / 10, units[u]);
    return out;
}

size_t str_utf8_len(const char *p, size_t len) {
    const unsigned char *s = (const unsigned char *)p;
    if (len == 0)
        return 0;
    if (s[0] < 0x80)
        return 1;
    size_t n = s[0] >= 0xc2 && s[0] <= 0xdf   ? 2
               : (s[0] & 0xf0) == 0xe0        ? 3
               : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4
                                              : 0;
    if (n == 0 || len < n)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || /* overlong, surrogate */
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))   /* overlong, > 10FFFF */
        return 0;
    return n;
}

bool str_is_utf8(struct str_view v) {
    for (size_t i = 0, n; i < v.len; i += n)
        if ((n = str_utf8_len(v.ptr + i, v.len - i)) == 0)
            return false;
    return true;
}
