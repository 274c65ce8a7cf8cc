/*
 * log: one event, one line, to stderr: logfmt for people, JSON for programs.
 *
 *     log_event(LOG_INFO, "d.mp4 moves bronze to gold", LOG_STR("worker_id", id), LOG_U64("cid",
 * 4));
 *
 * gives one of
 *
 *     time=2026-11-24T10:00:00.000Z level=info msg="d.mp4 moves bronze to gold" worker_id=h.1.a
 * cid=4
 *     {"time": "2026-11-24T10:00:00.000Z", "level": "info", "msg": "d.mp4 moves ...", "cid": 4}
 *
 * and, when stderr is systemd's journal, "<6>" before it instead of the time, which the journal has
 * itself (sd-daemon(3)).
 *
 * A line goes out in one write(2), so that lines of several processes do not mix; it is bounded,
 * and control characters and bytes that are not UTF-8 are escaped, so that a file name can neither
 * forge a line nor drive a terminal. Keys are the same everywhere; tierd(8) lists them. The level,
 * the format and how stderr is written to are the only mutable state outside contexts.
 *
 * Logging does not wait: a line that a pipe, socket or terminal does not take is lost, and how many
 * were is said when somebody reads again.
 */
#ifndef TIERD_BASE_LOG_H
#define TIERD_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_TEXT, LOG_JSON };

/* One field of an event; made by the macros below. A NULL string is written as "". */
struct log_field {
    const char *key;
    const char *str;
    uint64_t number;
    bool is_number;
};

#define LOG_STR(k, v) ((struct log_field){.key = (k), .str = (v)})
#define LOG_U64(k, v) ((struct log_field){.key = (k), .number = (v), .is_number = true})
#define LOG_ERRNO(rc) LOG_STR("error", log_errno_text(rc))

/* Sets what is written and how, and looks what stderr is; until then info and text. */
void log_setup(enum log_level level, enum log_format format);

/* True when events of `level` are written: ask before composing something costly. */
bool log_enabled(enum log_level level);

/* Writes one event; see the macro. Never fails: a log that cannot be written is lost. */
void log_fields(enum log_level level, const char *msg, const struct log_field *fields, size_t n);

#define log_event(level, msg, ...)                                                                 \
    log_fields((level), (msg), (const struct log_field[]){__VA_ARGS__},                            \
               sizeof((const struct log_field[]){__VA_ARGS__}) / sizeof(struct log_field))

/*
 * Writes a line that programs wait for: as text its first word alone, then the fields, without time
 * and level: `ready role=api listen=127.0.0.1:5000`. Always written, whatever the level.
 */
void log_plain(const char *word, const struct log_field *fields, size_t n);

/*
 * Writes why tierd does not start or ends a command, for whoever typed it: "tierd: " and a sentence
 * that names the option and the value, escaped like everything else. Always text: it may come
 * before the settings are known.
 */
void log_refusal(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* strerror(3) of -errno or errno. */
const char *log_errno_text(int rc);

/* Reads "debug", "info", "warn", "error" / "text", "json". 0 or -EINVAL. */
int log_level_parse(const char *s, enum log_level *out);
int log_format_parse(const char *s, enum log_format *out);

#endif
