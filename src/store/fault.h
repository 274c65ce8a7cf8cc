/*
 * fault: why a server cannot be used. That it is away, that its name is unknown, that it refuses us
 * and that it takes no writes are different things to a person, who has to look in different
 * places; so each is named everywhere by its own words, and the reason in the server's own.
 */
#ifndef TIERD_STORE_FAULT_H
#define TIERD_STORE_FAULT_H

#include <stdbool.h>
#include <stddef.h>

enum {
    FAULT_WHY_BYTES = 320, /* a server's sentence; Redis' longest, MISCONF, has 240 */
    FAULT_TEXT_BYTES = FAULT_WHY_BYTES + 64,
};

/* The worse the later: of several addresses that failed the one that tells most is told. */
enum server_trouble {
    SERVER_FINE,
    SERVER_AWAY,      /* nobody answers */
    SERVER_UNKNOWN,   /* its name cannot be looked up */
    SERVER_UNTRUSTED, /* its certificate is not that of whom we look for */
    SERVER_REFUSES,   /* it does not let us in, or is not ready to */
    SERVER_NO_WRITES,
};

struct server_fault {
    enum server_trouble trouble;
    char why[FAULT_WHY_BYTES]; /* one line */
};

/* `why` (NULL for SERVER_FINE) is copied, cut where it is too long. */
void fault_set(struct server_fault *f, enum server_trouble trouble, const char *why);

/* Keeps the worse of both, the first of two that are alike. */
void fault_worse(struct server_fault *f, const struct server_fault *other);

/* `now` takes the place of `f`. True when it is another trouble, which is to be said: a server that
 * is away gives other reasons while it ends and starts, that is one; what it says is another when
 * it says something else. */
bool fault_note(struct server_fault *f, const struct server_fault *now);

/* "is away", "refuses us" ...: what comes behind a server's name. */
const char *fault_words(enum server_trouble trouble);

/* The same with the reason: "refuses us: WRONGPASS ..."; `with_away`: also of one that is away. */
void fault_text(const struct server_fault *f, bool with_away, char out[FAULT_TEXT_BYTES]);

/* Logs it: "redis is away", error and, when that is not NULL, worker_id. */
void fault_log(const struct server_fault *f, const char *server, const char *worker_id);

#endif
