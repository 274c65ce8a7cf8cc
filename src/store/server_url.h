/*
 * server_url: where Redis and the database are, from the URLs of the configuration. Pure: no
 * connection is made, nothing of their libraries is needed.
 */
#ifndef TIERD_STORE_SERVER_URL_H
#define TIERD_STORE_SERVER_URL_H

#include <stdbool.h>

enum {
    REDIS_HOST_BYTES = 256,   /* a DNS name has at most 253 */
    REDIS_SECRET_BYTES = 512, /* longer than any password store hands out */
    DB_NAME_BYTES = 256,
    DB_SECRET_BYTES = 512,
};

struct redis_url {
    char host[REDIS_HOST_BYTES]; /* or the path of a unix socket */
    int port;                    /* 0: `host` is a unix socket */
    int db;
    bool tls;
    char user[REDIS_SECRET_BYTES];
    char password[REDIS_SECRET_BYTES];
};

/*
 * Reads `redis://[user:pass@]host[:port][/db]`, `rediss://...`, or `unix:///path[?db=N]`.
 * 0, or -EINVAL with a sentence in *why. A password in it is taken: URLs come from files and the
 * environment too, config refuses the command line.
 */
int redis_url_parse(const char *url, struct redis_url *out, const char **why);

struct db_url {
    char host[DB_NAME_BYTES];   /* empty when `socket` is used */
    char socket[DB_NAME_BYTES]; /* path of a unix socket, or empty */
    int port;
    char user[DB_NAME_BYTES];
    char password[DB_SECRET_BYTES];
    char name[DB_NAME_BYTES];
};

/* Reads `mysql://user[:pass]@host[:port]/name[?socket=/path]` (or mariadb://). 0, or -EINVAL with a
 * sentence in *why. */
int db_url_parse(const char *url, struct db_url *out, const char **why);

#endif
