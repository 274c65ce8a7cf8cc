/*
 * listen: opens a listening socket from `ADDR:PORT`, `[v6]:PORT` or `unix:/path`.
 */
#ifndef TIERD_NET_LISTEN_H
#define TIERD_NET_LISTEN_H

#include <stdbool.h>
#include <stddef.h>

enum { LISTEN_NAME_BYTES = 128 };

/*
 * A listening, non-blocking descriptor, or -errno (-EINVAL: `where` is of no such form). `name`
 * gets what it is bound to, with the port that port 0 became. With `shared`, further sockets may be
 * bound to it (SO_REUSEPORT, socket(7)). A unix socket that nobody listens on any more is replaced.
 */
int listen_open(const char *where, bool shared, char name[LISTEN_NAME_BYTES]);

/* Removes the file of a unix socket; nothing for others. */
void listen_remove(const char *where);

#endif
