#include "net/peers.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    BUCKETS = 4096, /* a few addresses in each, even when every connection has its own */
    KEY_BYTES = 16,
    PREFIX_BYTES = 8
};

struct peer {
    struct peer *next;
    unsigned char key[KEY_BYTES];
    size_t count;
};

struct peers {
    size_t max;
    uint64_t seed; /* so that nobody can choose addresses that share a bucket */
    struct peer *buckets[BUCKETS];
};

struct peers *peers_new(size_t max) {
    struct peers *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->max = max;
    if (getrandom(&p->seed, sizeof p->seed, 0) != sizeof p->seed)
        p->seed = (uintptr_t)p;
    return p;
}

void peers_free(struct peers *p) {
    for (size_t i = 0; p && i < BUCKETS; i++) {
        while (p->buckets[i]) {
            struct peer *next = p->buckets[i]->next;
            free(p->buckets[i]);
            p->buckets[i] = next;
        }
    }
    free(p);
}

/* False for what is not counted. */
static bool key_of(const struct sockaddr_storage *address, unsigned char key[KEY_BYTES]) {
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
    memset(key, 0, KEY_BYTES);
    if (address->ss_family == AF_INET) {
        memcpy(key, mapped, sizeof mapped);
        memcpy(key + sizeof mapped, &((const struct sockaddr_in *)address)->sin_addr, 4);
        return true;
    }
    if (address->ss_family != AF_INET6)
        return false;
    const struct in6_addr *v6 = &((const struct sockaddr_in6 *)address)->sin6_addr;
    memcpy(key, v6, IN6_IS_ADDR_V4MAPPED(v6) ? KEY_BYTES : PREFIX_BYTES);
    return true;
}

static struct peer **bucket_of(struct peers *p, const unsigned char key[KEY_BYTES]) {
    uint64_t h = p->seed;
    for (size_t i = 0; i < KEY_BYTES; i++)
        h = (h ^ key[i]) * UINT64_C(0x100000001b3);
    return &p->buckets[(h ^ h >> 32) % BUCKETS];
}

int peers_add(struct peers *p, const struct sockaddr_storage *address, struct peer **out) {
    unsigned char key[KEY_BYTES];
    *out = NULL;
    if (!p || !key_of(address, key))
        return 0;
    struct peer **bucket = bucket_of(p, key), *peer = *bucket;
    while (peer && memcmp(peer->key, key, KEY_BYTES) != 0)
        peer = peer->next;
    if (peer && peer->count >= p->max)
        return -EBUSY;
    if (!peer) {
        peer = calloc(1, sizeof *peer);
        if (!peer)
            return -ENOMEM;
        memcpy(peer->key, key, KEY_BYTES);
        peer->next = *bucket;
        *bucket = peer;
    }
    peer->count++;
    *out = peer;
    return 0;
}

void peers_remove(struct peers *p, struct peer *peer) {
    if (!peer)
        return;
    assert(peer->count > 0);
    if (--peer->count > 0)
        return;
    struct peer **at = bucket_of(p, peer->key);
    while (*at != peer)
        at = &(*at)->next;
    *at = peer->next;
    free(peer);
}
