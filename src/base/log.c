#include "base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"

/* A line past this is cut: longer ones are not written in one piece to a pipe (PIPE_BUF, pipe(7)).
 */
enum {
    LINE_MAX_BYTES = 4096,
    END_BYTES = 2, /* kept free for the brace and the newline */
    TIME_BYTES = 32,
    REFUSAL_BYTES = 600, /* escaped at worst six times as long: still one line */
};

struct line {
    struct buf buf;
    size_t n_fields;
};

static enum log_level log_level_now = LOG_INFO;
static enum log_format log_format_now = LOG_TEXT;
static bool log_journal_now;

static const char *const level_names[] = {"debug", "info", "warn", "error"};
/* The same as prefixes for the journal (sd-daemon(3)): syslog's debug, info, warning, err. */
static const char *const level_prefixes[] = {"<7>", "<6>", "<4>", "<3>"};

/* Whether stderr is the journal: systemd says which file that is (systemd.exec(5)), and it may have
 * been redirected since. */
static bool on_journal(void) {
    const char *stream = getenv("JOURNAL_STREAM");
    char ours[48];
    struct stat st;
    if (!stream || fstat(STDERR_FILENO, &st) < 0)
        return false;
    snprintf(ours, sizeof ours, "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    return strcmp(stream, ours) == 0;
}

void log_setup(enum log_level level, enum log_format format) {
    log_level_now = level;
    log_format_now = format;
    log_journal_now = on_journal();
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
    if (!s || !*s)
        return false;
    for (; *s; s++)
        if ((unsigned char)*s <= ' ' || (unsigned char)*s >= 0x7f || *s == '"' || *s == '=' ||
            *s == '\\')
            return false;
    return true;
}

/* The bytes of a value that are shown: all of it, or a beginning that ends between two characters.
 */
static void add_string(struct buf *b, const char *s, size_t len, bool cut) {
    while (cut && len && ((unsigned char)s[len] & 0xc0) == 0x80)
        len--;
    buf_add_json(b, (struct str_view){s, len});
    if (cut && !b->failed) {
        b->len--;
        buf_add_str(b, "...\"");
    }
}

static void add_value(struct buf *b, const struct log_field *f, size_t len, bool cut) {
    if (f->is_number)
        buf_addf(b, "%" PRIu64, f->number);
    else if (log_format_now == LOG_TEXT && !cut && f->str && bare(f->str))
        buf_add_str(b, f->str);
    else
        add_string(b, f->str ? f->str : "", len, cut);
}

static bool try_field(struct line *l, const struct log_field *f, size_t len, bool cut) {
    struct buf *b = &l->buf;
    size_t before = b->len;
    if (log_format_now == LOG_JSON)
        buf_addf(b, "%s\"%s\": ", l->n_fields ? ", " : "", f->key);
    else
        buf_addf(b, "%s%s=", l->n_fields ? " " : "", f->key);
    add_value(b, f, len, cut);
    if (b->failed) {
        b->len = before;
        b->failed = false;
        return false;
    }
    l->n_fields++;
    return true;
}

/* A value that does not fit is cut until it does; a field without room for any of it is left out.
 */
static void add_field(struct line *l, const struct log_field *f) {
    size_t len = f->is_number || !f->str ? 0 : strlen(f->str);
    bool fits = try_field(l, f, len, false);
    while (!fits && len) {
        len /= 2;
        fits = try_field(l, f, len, true);
    }
}

static void add_fields(struct line *l, const struct log_field *fields, size_t n) {
    for (size_t i = 0; i < n; i++)
        add_field(l, &fields[i]);
}

/* The journal keeps the time itself and reads the level from the prefix. */
static void begin_line(struct line *l, enum log_level level, bool with_level) {
    char when[TIME_BYTES];
    *l = (struct line){.n_fields = 0};
    buf_init(&l->buf, LINE_MAX_BYTES - END_BYTES);
    if (log_journal_now)
        buf_add_str(&l->buf, level_prefixes[level]);
    if (log_format_now == LOG_JSON)
        buf_add_str(&l->buf, "{");
    if (!with_level)
        return;
    if (!log_journal_now) {
        format_time(when);
        add_field(l, &LOG_STR("time", when));
    }
    add_field(l, &LOG_STR("level", level_names[level]));
}

static void end_line(struct line *l) {
    struct buf *b = &l->buf;
    b->max += END_BYTES;
    buf_add_str(b, log_format_now == LOG_JSON ? "}\n" : "\n");
    ssize_t n = write(STDERR_FILENO, b->data, b->len);
    (void)n; /* nowhere to report that reporting failed */
    buf_release(b);
}

void log_fields(enum log_level level, const char *msg, const struct log_field *fields, size_t n) {
    if (!log_enabled(level))
        return;
    int saved = errno;
    struct line l;
    begin_line(&l, level, true);
    add_field(&l, &LOG_STR("msg", msg));
    add_fields(&l, fields, n);
    end_line(&l);
    errno = saved;
}

void log_plain(const char *word, const struct log_field *fields, size_t n) {
    struct line l;
    begin_line(&l, LOG_INFO, log_format_now == LOG_JSON);
    if (log_format_now == LOG_JSON) {
        add_field(&l, &LOG_STR("msg", word));
    } else {
        buf_add_str(&l.buf, word);
        l.n_fields++;
    }
    add_fields(&l, fields, n);
    end_line(&l);
}

void log_refusal(const char *format, ...) {
    char text[REFUSAL_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    struct buf quoted;
    buf_init(&quoted, LINE_MAX_BYTES);
    buf_add_json(&quoted, str_view(text));
    dprintf(STDERR_FILENO, "%stierd: %.*s\n", on_journal() ? level_prefixes[LOG_ERROR] : "",
            (int)quoted.len - 2, quoted.data + 1);
    buf_release(&quoted);
}
