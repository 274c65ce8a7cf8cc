#include "base/url.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct str_view cut(struct str_view v, size_t from, size_t to) {
    return (struct str_view){v.ptr + from, to - from};
}

static size_t find(struct str_view v, char c) {
    const char *p = v.len ? memchr(v.ptr, c, v.len) : NULL;
    return p ? (size_t)(p - v.ptr) : v.len;
}

static bool scheme_valid(struct str_view s) {
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        bool alpha = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!alpha && (i == 0 || !((c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.')))
            return false;
    }
    return s.len > 0;
}

static int parse_port(struct str_view v, int *port) {
    uint64_t n;
    if (str_u64(v, 65535, &n) < 0 || n == 0)
        return -EINVAL;
    *port = (int)n;
    return 0;
}

static int parse_authority(struct str_view a, struct url *u) {
    size_t at = a.len; /* the last '@' ends the user: a password may hold an escaped one only */
    for (size_t i = 0; i < a.len; i++)
        if (a.ptr[i] == '@')
            at = i;
    if (at < a.len) {
        struct str_view info = cut(a, 0, at);
        size_t colon = find(info, ':');
        u->user = cut(info, 0, colon);
        if (colon < info.len)
            u->password = cut(info, colon + 1, info.len);
        a = cut(a, at + 1, a.len);
    }
    size_t end;
    if (a.len && a.ptr[0] == '[') {
        end = find(a, ']');
        if (end == a.len || end == 1)
            return -EINVAL;
        u->host = cut(a, 1, end);
        end++;
    } else {
        end = find(a, ':');
        u->host = cut(a, 0, end);
    }
    if (end == a.len)
        return 0;
    if (a.ptr[end] != ':' || u->host.len == 0)
        return -EINVAL;
    return parse_port(cut(a, end + 1, a.len), &u->port);
}

int url_parse(struct str_view text, struct url *out) {
    static const char empty[] = "";
    struct str_view none = {empty, 0};
    struct url u = {
        .scheme = none, .user = none, .password = none, .host = none, .path = none, .query = none};
    for (size_t i = 0; i < text.len; i++)
        if ((unsigned char)text.ptr[i] <= ' ' || text.ptr[i] == 0x7f || text.ptr[i] == '#')
            return -EINVAL;
    size_t colon = find(text, ':');
    if (text.len - colon < 3 || memcmp(text.ptr + colon, "://", 3) != 0)
        return -EINVAL;
    u.scheme = cut(text, 0, colon);
    if (!scheme_valid(u.scheme))
        return -EINVAL;
    struct str_view rest = cut(text, colon + 3, text.len);
    size_t question = find(rest, '?');
    if (question < rest.len)
        u.query = cut(rest, question + 1, rest.len);
    rest = cut(rest, 0, question);
    size_t slash = find(rest, '/');
    u.path = cut(rest, slash, rest.len);
    if (parse_authority(cut(rest, 0, slash), &u) < 0)
        return -EINVAL;
    *out = u;
    return 0;
}

bool url_query(const struct url *u, const char *key, struct str_view *value) {
    struct str_view rest = u->query;
    while (rest.len) {
        size_t end = find(rest, '&');
        struct str_view pair = cut(rest, 0, end);
        size_t eq = find(pair, '=');
        if (str_is(cut(pair, 0, eq), key)) {
            *value = eq < pair.len ? cut(pair, eq + 1, pair.len) : cut(pair, eq, eq);
            return true;
        }
        rest = end < rest.len ? cut(rest, end + 1, rest.len) : cut(rest, end, end);
    }
    return false;
}

int url_decode(struct str_view v, char *dst, size_t cap) {
    size_t n;
    if (str_url_decode(v, dst, cap - 1, &n) < 0 || (n && memchr(dst, 0, n)))
        return -EINVAL;
    dst[n] = '\0';
    return 0;
}

int url_decode_user(const struct url *u, char *user, size_t user_cap, char *password,
                    size_t password_cap) {
    int rc = url_decode(u->user, user, user_cap);
    return rc < 0 ? rc : url_decode(u->password, password, password_cap);
}

struct str_view url_secret(const char *text) {
    const char *scheme = strstr(text, "://");
    const char *at = scheme ? strrchr(scheme + 3, '@') : NULL;
    const char *colon = scheme ? strchr(scheme + 3, ':') : NULL;
    if (!at || !colon || colon >= at)
        return (struct str_view){"", 0};
    return (struct str_view){colon + 1, (size_t)(at - colon) - 1};
}

void url_shown(const char *text, char out[URL_SHOWN_BYTES]) {
    struct str_view secret = url_secret(text);
    if (secret.len)
        snprintf(out, URL_SHOWN_BYTES, "%.*s***%s", (int)(secret.ptr - text), text,
                 secret.ptr + secret.len);
    else
        snprintf(out, URL_SHOWN_BYTES, "%s", text);
}
