/*
 * resolve: looks names of servers up, with c-ares, never longer than it may: on a loop for those
 * that have one, or waiting until a deadline. The only module that knows c-ares.
 *
 * resolver_new -> resolver_ask ... -> resolver_free                            (on a loop)
 * resolve_wait ... -> name_lookup_release                                    (blocking)
 *
 * Numeric addresses and names of /etc/hosts are known at once; `localhost` is the machine's own
 * (RFC 6761, 6.3). Any other name is asked for as /etc/resolv.conf says, which is read anew each
 * time: each search domain in turn, also behind one whose server fails (SERVFAIL), and over TCP
 * when an answer is cut (RFC 7766). What was learned last is kept, and used while no name server
 * answers; a name that there is no more is not.
 */
#ifndef TIERD_NET_RESOLVE_H
#define TIERD_NET_RESOLVE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "net/loop.h"

enum {
    ADDRESSES_MAX = 8,     /* of one name: more are never tried before it is looked up anew */
    ADDRESS_BYTES = 46,    /* INET6_ADDRSTRLEN */
    RESOLVE_MS = 2000,     /* without an answer for so long, there is none */
    RESOLVE_KEPT_MS = 300, /* or for so long, when an earlier one is kept */
    RESOLVE_WHY_BYTES = 320,
};

/* Of one name, in the order in which they are to be tried; numeric, as inet_pton(3) reads them. */
struct addresses {
    size_t n;
    char at[ADDRESSES_MAX][ADDRESS_BYTES];
};

/* Where connect(2) finds `port` at a numeric address; the length, 0 when it is none. */
socklen_t address_socket(const char *address, int port, struct sockaddr_storage *out);

/* What is known of one name, and the look-up that is under way; zeroed before the first use. */
struct name_lookup {
    struct addresses kept;
    struct waiting *asked; /* NULL: none is */
};

/*
 * Looks `host` up until `deadline_ms` (clock_mono_ms) at most; `l` is for this host alone. When
 * what is kept is used because no answer came in RESOLVE_KEPT_MS, the look-up goes on, and a later
 * call takes the answer: a name server that is slow, or the second of two, is heard, too. 0,
 * -ENOMEM or -EHOSTUNREACH, with a sentence that names the host in `why` (may be NULL).
 */
int resolve_wait(const char *host, int64_t deadline_ms, struct name_lookup *l,
                 struct addresses *out, char why[RESOLVE_WHY_BYTES]);

/* After the last use. */
void name_lookup_release(struct name_lookup *l);

/* ---- on a loop ---- */

struct resolver;

/* `addresses` is NULL when there are none, then `why` says why; valid during the call. */
typedef void resolved_fn(void *ctx, const struct addresses *addresses, const char *why);

/* One who asks; the owner embeds it, and sets done and ctx. */
struct resolver_question {
    resolved_fn *done;
    void *ctx;
    struct resolver_question *next, **at; /* kept by the resolver; `at` is NULL while not waiting */
};

/* For one name (copied). NULL when out of memory. */
struct resolver *resolver_new(struct loop *loop, const char *host);

/* Nobody who waits is called back. Not while the loop runs: a deferred call may be queued. NULL is
 * allowed. */
void resolver_free(struct resolver *r);

/* Calls q->done once, within RESOLVE_MS, and maybe before this returns. Those who ask while a
 * look-up is under way share it. */
void resolver_ask(struct resolver *r, struct resolver_question *q);

/* Takes a question back; harmless when it is not waiting. */
void resolver_forget(struct resolver_question *q);

#endif
