/*
 * peers: counts the connections of each client address, so that one address cannot take all places.
 * An IPv4 address counts by itself, mapped into IPv6 or not; an IPv6 address by its first 64 bits,
 * since one host commonly owns all that begin with them. Unix sockets are not counted.
 *
 * peers_new -> peers_add for each connection -> peers_remove for each -> peers_free
 */
#ifndef TIERD_NET_PEERS_H
#define TIERD_NET_PEERS_H

#include <stddef.h>
#include <sys/socket.h>

struct peers;
struct peer;

/* Allows `max` connections for each address. NULL without memory. */
struct peers *peers_new(size_t max);
void peers_free(struct peers *p);

/*
 * Counts one more connection from `address`. 0 with *out for peers_remove (NULL when it is not
 * counted, as always when `p` is NULL), -EBUSY when the address has all it may have, -ENOMEM.
 */
int peers_add(struct peers *p, const struct sockaddr_storage *address, struct peer **out);

/* Counts one less; NULL is allowed. */
void peers_remove(struct peers *p, struct peer *peer);

#endif
