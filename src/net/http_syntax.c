#include "net/http_syntax.h"

#include <arpa/inet.h>
#include <string.h>

enum { PORT_MAX = 65535 };

static bool is_digit(unsigned char c) {
    return c >= '0' && c <= '9';
}

static bool is_alpha(unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_one_of(unsigned char c, const char *set) {
    return c && strchr(set, c);
}

static int hex_value(unsigned char c) {
    return is_digit(c)              ? c - '0'
           : (c >= 'a' && c <= 'f') ? c - 'a' + 10
           : (c >= 'A' && c <= 'F') ? c - 'A' + 10
                                    : -1;
}

/* The byte that "%XX" at v.ptr[i] stands for, or -1. */
static int escaped(struct str_view v, size_t i) {
    if (v.len - i < 3)
        return -1;
    int high = hex_value((unsigned char)v.ptr[i + 1]);
    int low = hex_value((unsigned char)v.ptr[i + 2]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* RFC 3986, 2.3 and 2.2 */
static bool is_unreserved(unsigned char c) {
    return is_alpha(c) || is_digit(c) || is_one_of(c, "-._~");
}

static bool is_sub_delim(unsigned char c) {
    return is_one_of(c, "!$&'()*+,;=");
}

bool http_is_tchar(unsigned char c) {
    return is_alpha(c) || is_digit(c) || is_one_of(c, "!#$%&'*+-.^_`|~");
}

bool http_is_token(struct str_view v) {
    for (size_t i = 0; i < v.len; i++)
        if (!http_is_tchar((unsigned char)v.ptr[i]))
            return false;
    return v.len > 0;
}

bool http_is_field_byte(unsigned char c) {
    return c == '\t' || (c >= ' ' && c != 0x7f);
}

struct str_view http_trim(struct str_view v) {
    while (v.len && (v.ptr[0] == ' ' || v.ptr[0] == '\t'))
        v.ptr++, v.len--;
    while (v.len && (v.ptr[v.len - 1] == ' ' || v.ptr[v.len - 1] == '\t'))
        v.len--;
    return v;
}

struct str_view http_take(struct str_view *rest, char c) {
    const char *p = rest->len ? memchr(rest->ptr, c, rest->len) : NULL;
    struct str_view head = {rest->ptr, p ? (size_t)(p - rest->ptr) : rest->len};
    size_t skip = head.len + (p ? 1 : 0);
    rest->ptr += skip;
    rest->len -= skip;
    return head;
}

bool http_list_next(struct str_view *rest, struct str_view *member) {
    while (rest->len) {
        *member = http_trim(http_take(rest, ','));
        if (member->len)
            return true;
    }
    return false;
}

/* ---- hosts ---- */

/* What stands between the brackets: an IPv6 address, or "v1.something" of the future. */
static bool literal_valid(struct str_view v) {
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;
    if (v.len && (v.ptr[0] == 'v' || v.ptr[0] == 'V')) {
        struct str_view rest = {v.ptr + 1, v.len - 1};
        struct str_view version = http_take(&rest, '.');
        for (size_t i = 0; i < version.len; i++)
            if (hex_value((unsigned char)version.ptr[i]) < 0)
                return false;
        for (size_t i = 0; i < rest.len; i++) {
            unsigned char c = (unsigned char)rest.ptr[i];
            if (!is_unreserved(c) && !is_sub_delim(c) && c != ':')
                return false;
        }
        return version.len && rest.len;
    }
    return str_copy(text, sizeof text, v) == 0 && inet_pton(AF_INET6, text, &address) == 1;
}

static bool name_valid(struct str_view v) {
    for (size_t i = 0; i < v.len; i++) {
        unsigned char c = (unsigned char)v.ptr[i];
        if (c == '%' && escaped(v, i) > 0)
            i += 2;
        else if (!is_unreserved(c) && !is_sub_delim(c))
            return false;
    }
    return v.len > 0;
}

static bool port_valid(struct str_view v) {
    unsigned port = 0;
    for (size_t i = 0; i < v.len; i++) {
        if (!is_digit((unsigned char)v.ptr[i]))
            return false;
        port = port * 10 + (unsigned)(v.ptr[i] - '0');
        if (port > PORT_MAX)
            return false;
    }
    return true; /* none after the colon stands for the default */
}

bool http_host_valid(struct str_view v) {
    struct str_view host, rest = v;
    if (v.len && v.ptr[0] == '[') {
        host = http_take(&rest, ']');
        if (host.len == v.len || !literal_valid((struct str_view){host.ptr + 1, host.len - 1}))
            return false;
        if (rest.len && rest.ptr[0] != ':')
            return false;
        rest = (struct str_view){rest.ptr + (rest.len ? 1 : 0), rest.len - (rest.len ? 1 : 0)};
        return port_valid(rest);
    }
    host = http_take(&rest, ':');
    return name_valid(host) && port_valid(rest);
}

/* ---- paths ---- */

bool http_path_valid(struct str_view v, bool query) {
    for (size_t i = 0; i < v.len; i++) {
        unsigned char c = (unsigned char)v.ptr[i];
        if (c == '%' && escaped(v, i) >= 0)
            i += 2;
        else if (!is_unreserved(c) && !is_sub_delim(c) && !is_one_of(c, "/:@") &&
                 !(query && c == '?'))
            return false;
    }
    return true;
}

bool http_path_is(struct str_view path, const char *name) {
    size_t n = 0;
    for (size_t i = 0; i < path.len; i++) {
        int c = (unsigned char)path.ptr[i];
        if (c == '%') {
            c = escaped(path, i);
            if (c < 0 || !is_unreserved((unsigned char)c))
                return false;
            i += 2;
        }
        if (c == 0 || c != (unsigned char)name[n])
            return false;
        n++;
    }
    return name[n] == '\0';
}
