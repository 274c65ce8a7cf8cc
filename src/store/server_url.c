#include "store/server_url.h"

#include <errno.h>

#include "base/url.h"

static int parse_db(const struct url *u, struct redis_url *out, const char **why) {
    struct str_view text = u->path;
    if (str_is_nocase(u->scheme, "unix")) {
        if (!url_query(u, "db", &text))
            return 0;
    } else if (text.len) {
        text = (struct str_view){text.ptr + 1, text.len - 1};
    }
    uint64_t db;
    if (text.len == 0)
        return 0;
    if (str_u64(text, 1000000, &db) < 0) {
        *why = "its database is not a number";
        return -EINVAL;
    }
    out->db = (int)db;
    return 0;
}

int redis_url_parse(const char *url, struct redis_url *out, const char **why) {
    struct url u;
    struct redis_url r = {.db = 0};
    *why = "it is not of the form redis://host:port/db, rediss://host:port/db or unix:///path?db=1";
    if (url_parse(str_view(url), &u) < 0)
        return -EINVAL;
    bool is_unix = str_is_nocase(u.scheme, "unix");
    r.tls = str_is_nocase(u.scheme, "rediss");
    if (!is_unix && !r.tls && !str_is_nocase(u.scheme, "redis"))
        return -EINVAL;
    struct str_view where = is_unix ? u.path : u.host;
    if (where.len == 0 || url_decode(where, r.host, sizeof r.host) < 0)
        return -EINVAL;
    if (url_decode_user(&u, r.user, sizeof r.user, r.password, sizeof r.password) < 0)
        return -EINVAL;
    r.port = is_unix ? 0 : u.port ? u.port : 6379;
    int rc = parse_db(&u, &r, why);
    if (rc < 0)
        return rc;
    *out = r;
    return 0;
}

int db_url_parse(const char *url, struct db_url *out, const char **why) {
    struct url u;
    struct db_url d = {.port = 3306};
    struct str_view socket;
    *why = "it is not of the form mysql://user@host:port/name or "
           "mysql://user@localhost/name?socket=/path";
    if (url_parse(str_view(url), &u) < 0 ||
        (!str_is_nocase(u.scheme, "mysql") && !str_is_nocase(u.scheme, "mariadb")))
        return -EINVAL;
    if (url_decode(u.host, d.host, sizeof d.host) < 0 ||
        url_decode_user(&u, d.user, sizeof d.user, d.password, sizeof d.password) < 0)
        return -EINVAL;
    if (url_query(&u, "socket", &socket) && url_decode(socket, d.socket, sizeof d.socket) < 0)
        return -EINVAL;
    if (!d.host[0] && !d.socket[0])
        return -EINVAL;
    if (u.path.len < 2 ||
        url_decode((struct str_view){u.path.ptr + 1, u.path.len - 1}, d.name, sizeof d.name) < 0) {
        *why = "it names no database";
        return -EINVAL;
    }
    if (u.port)
        d.port = u.port;
    *out = d;
    return 0;
}
