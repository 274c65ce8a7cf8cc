/*
 * url: cuts a URL into borrowed views (RFC 3986, 3):
 * scheme://[user[:password]@]host[:port][/path][?query]. Pure. The host of a URL may be an IPv6
 * literal in brackets; the view is then without them.
 */
#ifndef TIERD_BASE_URL_H
#define TIERD_BASE_URL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/str.h"

struct url {
    struct str_view scheme;
    struct str_view user;     /* percent-encoded, empty when absent */
    struct str_view password; /* percent-encoded, empty when absent */
    struct str_view host;     /* percent-encoded, empty for scheme:///path */
    int port;                 /* 0 when absent */
    struct str_view path;     /* with its leading '/', or empty */
    struct str_view query;    /* without '?', or empty */
};

/* 0 or -EINVAL; `out` holds views into `text`. Fragments, blanks and control characters are
 * refused. */
int url_parse(struct str_view text, struct url *out);

enum { URL_SHOWN_BYTES = 72 }; /* enough to recognise it, and a NUL */

/* The password in `text`, which need not be a URL that can be parsed; empty when there is none. */
struct str_view url_secret(const char *text);

/* The beginning of `text` for a person, its password as "***". */
void url_shown(const char *text, char out[URL_SHOWN_BYTES]);

/* Finds the value of `key` in the query (still percent-encoded). False when it is absent. */
bool url_query(const struct url *u, const char *key, struct str_view *value);

/* Decodes user and password into NUL-terminated strings. 0 or -EINVAL. */
int url_decode_user(const struct url *u, char *user, size_t user_cap, char *password,
                    size_t password_cap);

/* Decodes `v` into a NUL-terminated string without NUL inside. 0 or -EINVAL. */
int url_decode(struct str_view v, char *dst, size_t cap);

#endif
