#include "base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"

/* A line past this is cut: longer ones are not written in one piece to a pipe (PIPE_BUF, pipe(7)).
 */
enum { LINE_MAX_BYTES = 4096, TIME_BYTES = 32 };

static enum log_level log_level_now = LOG_INFO;
static enum log_format log_format_now = LOG_TEXT;

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_setup(enum log_level level, enum log_format format) {
    log_level_now = level;
    log_format_now = format;
}

bool log_enabled(enum log_level level) {
    return level >= log_level_now;
}

int log_level_parse(const char *s, enum log_level *out) {
    for (size_t i = 0; i < sizeof level_names / sizeof *level_names; i++) {
        if (strcmp(s, level_names[i]) == 0) {
            *out = (enum log_level)i;
            return 0;
        }
    }
    return -EINVAL;
}

int log_format_parse(const char *s, enum log_format *out) {
    if (strcmp(s, "text") != 0 && strcmp(s, "json") != 0)
        return -EINVAL;
    *out = s[0] == 't' ? LOG_TEXT : LOG_JSON;
    return 0;
}

const char *log_errno_text(int rc) {
    return strerror(rc < 0 ? -rc : rc);
}

/* RFC 3339 in UTC with milliseconds. */
static void format_time(char out[TIME_BYTES]) {
    int64_t us = clock_wall_us();
    time_t s = (time_t)(us / 1000000);
    struct tm tm;
    gmtime_r(&s, &tm);
    size_t n = strftime(out, TIME_BYTES, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, TIME_BYTES - n, ".%03dZ", (int)(us / 1000 % 1000));
}

/* logfmt leaves a value bare when no reader can misread it. */
static bool bare(const char *s) {
    if (!*s)
        return false;
    for (; *s; s++)
        if ((unsigned char)*s <= ' ' || (unsigned char)*s >= 0x7f || *s == '"' || *s == '=' ||
            *s == '\\')
            return false;
    return true;
}

static void add_value(struct buf *b, const struct log_field *f) {
    const char *s = f->str ? f->str : "";
    if (f->is_number)
        buf_addf(b, "%" PRIu64, f->number);
    else if (log_format_now == LOG_TEXT && bare(s))
        buf_add_str(b, s);
    else
        buf_add_json(b, str_view(s));
}

static void add_field(struct buf *b, const struct log_field *f) {
    if (log_format_now == LOG_JSON)
        buf_addf(b, "%s\"%s\": ", b->len > 1 ? ", " : "", f->key);
    else
        buf_addf(b, "%s%s=", b->len ? " " : "", f->key);
    add_value(b, f);
}

static void add_fields(struct buf *b, const struct log_field *fields, size_t n) {
    for (size_t i = 0; i < n; i++) {
        size_t before = b->len;
        add_field(b, &fields[i]);
        if (b->failed) { /* a field that does not fit is left out whole */
            b->len = before;
            b->failed = false;
        }
    }
}

static void write_line(struct buf *b) {
    b->max += 2; /* the two bytes that were kept free for the end */
    if (log_format_now == LOG_JSON)
        buf_add(b, "}", 1);
    buf_add(b, "\n", 1);
    ssize_t n = write(STDERR_FILENO, b->data, b->len);
    (void)n; /* nowhere to report that reporting failed */
    buf_release(b);
}

void log_fields(enum log_level level, const char *msg, const struct log_field *fields, size_t n) {
    if (!log_enabled(level))
        return;
    int saved = errno;
    char when[TIME_BYTES];
    format_time(when);
    struct buf b;
    buf_init(&b, LINE_MAX_BYTES - 2);
    if (log_format_now == LOG_JSON) {
        buf_addf(&b, "{\"time\": \"%s\", \"level\": \"%s\"", when, level_names[level]);
    } else {
        buf_addf(&b, "%s %s", when, level_names[level]);
    }
    add_fields(&b, &LOG_STR("msg", msg), 1);
    add_fields(&b, fields, n);
    write_line(&b);
    errno = saved;
}

void log_plain(const char *word, const struct log_field *fields, size_t n) {
    struct buf b;
    buf_init(&b, LINE_MAX_BYTES - 2);
    if (log_format_now == LOG_JSON) {
        buf_add_str(&b, "{");
        add_fields(&b, &LOG_STR("msg", word), 1);
    } else {
        buf_add_str(&b, word);
    }
    add_fields(&b, fields, n);
    write_line(&b);
}
