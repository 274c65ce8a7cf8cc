#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
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
    WAIT_MS = 50,          /* for a reader that is only slow, */
    WAIT_AGAIN_MS = 10000, /* once in so long: /health has to answer within a second */
    REFUSAL_BYTES = 600,   /* escaped at worst six times as long: still one line */
};

struct line {
    struct buf buf;
    size_t n_fields;
};

static enum log_level log_level_now = LOG_INFO;
static enum log_format log_format_now = LOG_TEXT;
static bool log_journal_now;

/* How stderr is written to; see open_own. */
static struct sink {
    int fd; /* our own opening of it, or -1 */
    bool is_socket;
    dev_t dev;
    ino_t ino;
    uint64_t lost;     /* lines that could not be written, and were not told of yet */
    int64_t waited_ms; /* when we waited last, 0: never */
} sink = {.fd = -1};

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

/*
 * A pipe, terminal or socket that nobody reads must not stop us. O_NONBLOCK belongs to the open
 * file, which we share with whoever started us; so a pipe or terminal is opened anew for ourselves
 * (proc(5), /proc/PID/fd), and a socket, and what cannot be opened, is asked each time. A file is
 * written as it is.
 */
static void open_own(void) {
    struct stat st;
    int known = fstat(STDERR_FILENO, &st);
    if (sink.fd >= 0 && known == 0 && sink.dev == st.st_dev && sink.ino == st.st_ino)
        return;
    if (sink.fd >= 0)
        close(sink.fd);
    sink = (struct sink){.fd = -1};
    if (known < 0)
        return;
    sink.dev = st.st_dev;
    sink.ino = st.st_ino;
    sink.is_socket = S_ISSOCK(st.st_mode);
    if (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode))
        sink.fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

void log_setup(enum log_level level, enum log_format format) {
    log_level_now = level;
    log_format_now = format;
    log_journal_now = on_journal();
    open_own();
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

/* ---- writing without waiting ---- */

/* False: it would have to wait. What fails otherwise has nowhere to be reported. */
static bool try_write(const char *data, size_t len) {
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    ssize_t n;
    if (sink.is_socket)
        n = send(STDERR_FILENO, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    else if (sink.fd >= 0)
        n = write(sink.fd, data, len);
    else if (poll(&p, 1, 0) == 0)
        return false;
    else
        n = write(STDERR_FILENO, data, len);
    return n >= 0 || errno != EAGAIN;
}

/* A reader that is only slow gets a moment, but not every time. */
static bool write_soon(const char *data, size_t len) {
    int64_t now_ms = clock_mono_ms();
    struct pollfd p = {.fd = sink.fd >= 0 ? sink.fd : STDERR_FILENO, .events = POLLOUT};
    if (try_write(data, len))
        return true;
    if (sink.waited_ms && now_ms - sink.waited_ms < WAIT_AGAIN_MS)
        return false;
    sink.waited_ms = now_ms;
    return poll(&p, 1, WAIT_MS) > 0 && try_write(data, len);
}

static void compose_lost(struct line *l, uint64_t lines);

/* Says first how many lines were lost, so that nobody takes what is there for all. */
static void put_line(const struct buf *b) {
    if (sink.lost) {
        struct line l;
        compose_lost(&l, sink.lost);
        bool written = write_soon(l.buf.data, l.buf.len);
        buf_release(&l.buf);
        sink.lost = written ? 0 : sink.lost;
    }
    if (sink.lost || !write_soon(b->data, b->len))
        sink.lost++;
}

static void close_line(struct line *l) {
    l->buf.max += END_BYTES;
    buf_add_str(&l->buf, log_format_now == LOG_JSON ? "}\n" : "\n");
}

static void compose_lost(struct line *l, uint64_t lines) {
    begin_line(l, LOG_WARN, true);
    add_field(l, &LOG_STR("msg", "lines of the log are lost, nobody read them"));
    add_field(l, &LOG_U64("lines", lines));
    close_line(l);
}

static void end_line(struct line *l) {
    close_line(l);
    put_line(&l->buf);
    buf_release(&l->buf);
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
