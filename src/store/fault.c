#include "store/fault.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"

void fault_set(struct server_fault *f, enum server_trouble trouble, const char *why) {
    f->trouble = trouble;
    snprintf(f->why, sizeof f->why, "%s", why ? why : "");
    for (char *p = f->why; *p; p++)
        if ((unsigned char)*p < ' ')
            *p = ' ';
}

void fault_worse(struct server_fault *f, const struct server_fault *other) {
    if (other->trouble > f->trouble)
        *f = *other;
}

bool fault_note(struct server_fault *f, const struct server_fault *now) {
    bool another = f->trouble != now->trouble ||
                   (now->trouble != SERVER_AWAY && strcmp(f->why, now->why) != 0);
    *f = *now;
    return another;
}

const char *fault_words(enum server_trouble trouble) {
    static const char *const words[] = {
        [SERVER_FINE] = "is well",
        [SERVER_AWAY] = "is away",
        [SERVER_UNKNOWN] = "cannot be looked up",
        [SERVER_UNTRUSTED] = "cannot be trusted",
        [SERVER_REFUSES] = "refuses us",
        [SERVER_NO_WRITES] = "takes no writes",
    };
    return words[trouble];
}

void fault_text(const struct server_fault *f, bool with_away, char out[FAULT_TEXT_BYTES]) {
    bool says = f->why[0] && (with_away || f->trouble != SERVER_AWAY);
    snprintf(out, FAULT_TEXT_BYTES, "%s%s%s", fault_words(f->trouble), says ? ": " : "",
             says ? f->why : "");
}

void fault_log(const struct server_fault *f, const char *server, const char *worker_id) {
    char msg[64];
    enum log_level level = f->trouble == SERVER_AWAY ? LOG_WARN : LOG_ERROR;
    snprintf(msg, sizeof msg, "%s %s", server, fault_words(f->trouble));
    if (worker_id)
        log_event(level, msg, LOG_STR("worker_id", worker_id), LOG_STR("error", f->why));
    else
        log_event(level, msg, LOG_STR("error", f->why));
}
