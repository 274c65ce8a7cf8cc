#include "net/http_parse.h"

#include <errno.h>
#include <string.h>

/* The fields that decide something, as they were met. */
struct fields {
    size_t hosts, lengths, codings, types;
    struct str_view host;
    bool connection_close, connection_keep;
};

static enum http_result bad(int *status, int code, const char **why, const char *text) {
    *status = code;
    *why = text;
    return HTTP_BAD;
}

/* RFC 9110, 5.6.2 */
static bool is_tchar(unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_token(struct str_view v) {
    for (size_t i = 0; i < v.len; i++)
        if (!is_tchar((unsigned char)v.ptr[i]))
            return false;
    return v.len > 0;
}

static struct str_view trim(struct str_view v) {
    while (v.len && (v.ptr[0] == ' ' || v.ptr[0] == '\t'))
        v.ptr++, v.len--;
    while (v.len && (v.ptr[v.len - 1] == ' ' || v.ptr[v.len - 1] == '\t'))
        v.len--;
    return v;
}

/* Takes what stands before `c` (or all) off the front of *rest. */
static struct str_view take(struct str_view *rest, char c) {
    const char *p = rest->len ? memchr(rest->ptr, c, rest->len) : NULL;
    struct str_view head = {rest->ptr, p ? (size_t)(p - rest->ptr) : rest->len};
    size_t skip = head.len + (p ? 1 : 0);
    rest->ptr += skip;
    rest->len -= skip;
    return head;
}

/* ---- request line ---- */

static enum http_method method_of(struct str_view v) {
    static const char *const names[] = {"GET", "HEAD", "POST", "OPTIONS"};
    for (size_t i = 0; i < 4; i++)
        if (str_is(v, names[i]))
            return (enum http_method)i;
    return HTTP_OTHER;
}

/* RFC 9112, 3.2: origin-form, absolute-form, asterisk-form. */
static bool parse_target(struct str_view t, struct http_request *req, struct str_view *authority) {
    for (size_t i = 0; i < t.len; i++)
        if ((unsigned char)t.ptr[i] <= ' ' || (unsigned char)t.ptr[i] >= 0x7f || t.ptr[i] == '#')
            return false;
    if (str_is(t, "*")) {
        req->path = t;
        return req->method == HTTP_OPTIONS;
    }
    if (t.len && t.ptr[0] != '/') {
        static const char *const schemes[] = {"http://", "https://"};
        for (size_t i = 0; i < 2; i++) {
            size_t n = strlen(schemes[i]);
            if (t.len > n && str_is_nocase((struct str_view){t.ptr, n}, schemes[i])) {
                t = (struct str_view){t.ptr + n, t.len - n};
                size_t end = 0;
                while (end < t.len && t.ptr[end] != '/' && t.ptr[end] != '?')
                    end++;
                *authority = (struct str_view){t.ptr, end};
                t = (struct str_view){t.ptr + end, t.len - end};
                break;
            }
        }
        if (!authority->ptr)
            return false;
    }
    req->path = take(&t, '?');
    req->query = t;
    if (req->path.len == 0)
        req->path = str_view("/");
    return true;
}

static enum http_result parse_line(struct str_view line, struct http_request *req,
                                   struct str_view *authority, int *status, const char **why) {
    struct str_view rest = line;
    struct str_view method = take(&rest, ' ');
    struct str_view target = take(&rest, ' ');
    if (!is_token(method) || target.len == 0)
        return bad(status, 400, why, "the request line is not 'METHOD TARGET HTTP/1.1'");
    if (rest.len != 8 || memcmp(rest.ptr, "HTTP/", 5) != 0 || rest.ptr[6] != '.' ||
        rest.ptr[5] < '0' || rest.ptr[5] > '9' || rest.ptr[7] < '0' || rest.ptr[7] > '9')
        return bad(status, 400, why, "the request line does not end in HTTP/1.1");
    if (rest.ptr[5] != '1')
        return bad(status, 505, why, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    req->minor_zero = rest.ptr[7] == '0';
    req->method = method_of(method);
    if (req->method == HTTP_OTHER)
        return bad(status, 501, why,
                   "the method is not implemented; there are GET, HEAD, POST, OPTIONS");
    if (!parse_target(target, req, authority))
        return bad(status, 400, why, "the request target is neither a path nor an http URL");
    return HTTP_DONE;
}

/* ---- fields ---- */

/* RFC 9110, 7.2; RFC 3986, 3.2.2: a name, an IPv4 or a bracketed IPv6 address, and a port. */
static bool host_valid(struct str_view v) {
    size_t i = 0;
    if (v.len && v.ptr[0] == '[') {
        while (i < v.len && v.ptr[i] != ']')
            i++;
        if (i++ == v.len)
            return false;
    } else {
        for (; i < v.len && v.ptr[i] != ':'; i++) {
            unsigned char c = (unsigned char)v.ptr[i];
            if (!is_tchar(c) && !strchr("()=;,", c))
                return false;
        }
    }
    if (i == v.len)
        return true;
    if (v.ptr[i++] != ':')
        return false;
    for (; i < v.len; i++)
        if (v.ptr[i] < '0' || v.ptr[i] > '9')
            return false;
    return true;
}

static void connection_options(struct str_view value, struct fields *f) {
    while (value.len) {
        struct str_view option = trim(take(&value, ','));
        f->connection_close |= str_is_nocase(option, "close");
        f->connection_keep |= str_is_nocase(option, "keep-alive");
    }
}

/* RFC 9112, 6.3: a length is digits alone; a list, a sign or a second one is refused. */
static bool parse_length(struct str_view v, uint64_t *out) {
    if (v.len == 0)
        return false;
    uint64_t n = 0;
    for (size_t i = 0; i < v.len; i++) {
        if (v.ptr[i] < '0' || v.ptr[i] > '9' || __builtin_mul_overflow(n, 10U, &n) ||
            __builtin_add_overflow(n, (uint64_t)(v.ptr[i] - '0'), &n))
            return false;
    }
    *out = n;
    return true;
}

static enum http_result take_field(struct str_view name, struct str_view value,
                                   struct http_request *req, struct fields *f, int *status,
                                   const char **why) {
    if (str_is_nocase(name, "host")) {
        f->hosts++;
        f->host = value;
    } else if (str_is_nocase(name, "content-length")) {
        if (f->lengths++ || !parse_length(value, &req->content_length))
            return bad(status, 400, why, "Content-Length is not one decimal number");
        req->has_length = true;
    } else if (str_is_nocase(name, "transfer-encoding")) {
        f->codings++;
        if (!str_is_nocase(value, "chunked") || f->codings > 1)
            return bad(status, 501, why, "the only transfer coding here is one 'chunked'");
        req->chunked = true;
    } else if (str_is_nocase(name, "connection")) {
        connection_options(value, f);
    } else if (str_is_nocase(name, "expect")) {
        if (!str_is_nocase(value, "100-continue"))
            return bad(status, 417, why, "the only expectation that can be met is 100-continue");
        req->expect_continue = true;
    } else if (str_is_nocase(name, "content-type")) {
        if (f->types++)
            return bad(status, 400, why, "Content-Type is given more than once");
        req->content_type = value;
    } else if (str_is_nocase(name, "content-encoding") && !str_is_nocase(value, "identity")) {
        return bad(status, 415, why, "a Content-Encoding is not supported");
    }
    return HTTP_DONE;
}

static enum http_result parse_field(struct str_view line, struct http_request *req,
                                    struct fields *f, int *status, const char **why) {
    struct str_view rest = line;
    struct str_view name = take(&rest, ':');
    if (name.len == line.len || !is_token(name)) /* obs-fold begins with a blank: no token */
        return bad(status, 400, why, "a header field is not 'Name: value'");
    for (size_t i = 0; i < rest.len; i++) {
        unsigned char c = (unsigned char)rest.ptr[i];
        if ((c < ' ' && c != '\t') || c == 0x7f)
            return bad(status, 400, why, "a header field holds a control character");
    }
    return take_field(name, trim(rest), req, f, status, why);
}

/* What the fields mean together. */
static enum http_result settle(struct http_request *req, const struct fields *f,
                               struct str_view authority, int *status, const char **why) {
    struct str_view host = authority.ptr ? authority : f->host;
    if (f->hosts > 1 || (f->hosts == 0 && !req->minor_zero))
        return bad(status, 400, why, "a request has exactly one Host field");
    if ((f->hosts && !host_valid(f->host)) ||
        (authority.ptr && (host.len == 0 || !host_valid(host))))
        return bad(status, 400, why, "the Host is not a valid host");
    if (f->codings && f->lengths)
        return bad(status, 400, why, "Content-Length and Transfer-Encoding exclude each other");
    if (f->codings && req->minor_zero)
        return bad(status, 400, why, "HTTP/1.0 has no Transfer-Encoding");
    if (req->method == HTTP_POST && !req->chunked && !req->has_length)
        return bad(status, 411, why, "a POST needs a Content-Length or chunked coding");
    if (req->minor_zero) {
        req->expect_continue = false; /* RFC 9110, 10.1.1 */
        req->keep_alive = f->connection_keep && !f->connection_close;
    } else {
        req->keep_alive = !f->connection_close;
    }
    return HTTP_DONE;
}

static enum http_result parse_lines(const char *data, size_t end, struct http_request *req,
                                    int *status, const char **why) {
    struct fields f = {0};
    struct str_view authority = {NULL, 0};
    const char *at = data;
    size_t count = 0;
    while (at < data + end) {
        const char *lf = memchr(at, '\n', (size_t)(data + end - at));
        struct str_view line = {at, (size_t)(lf - at) - 1};
        enum http_result rc = count == 0 ? parse_line(line, req, &authority, status, why)
                                         : parse_field(line, req, &f, status, why);
        if (rc != HTTP_DONE)
            return rc;
        if (++count > HTTP_FIELDS_MAX + 1)
            return bad(status, 431, why, "there are more than 64 header fields");
        at = lf + 1;
    }
    return settle(req, &f, authority, status, why);
}

enum http_result http_head_parse(struct http_progress *p, const char *data, size_t len,
                                 struct http_request *req, int *status, const char **why) {
    size_t start = 0;
    if (len >= 2 && data[0] == '\r' && data[1] == '\n')
        start = 2; /* RFC 9112, 2.2: one empty line before a request is ignored */
    if (p->scanned < start)
        p->scanned = start;
    for (;;) {
        size_t from = p->scanned;
        size_t limit = len < HTTP_HEAD_MAX ? len : HTTP_HEAD_MAX;
        const char *lf = from < limit ? memchr(data + from, '\n', limit - from) : NULL;
        size_t line_end = lf ? (size_t)(lf - data) : limit;
        if (p->lines == 0 && line_end - start > HTTP_LINE_MAX)
            return bad(status, 414, why, "the request line is longer than 4096 bytes");
        if (!lf && len >= HTTP_HEAD_MAX)
            return bad(status, 431, why, "the header is longer than 8192 bytes");
        if (!lf) /* the unfinished line is looked through again: at most 8 KiB in all */
            return HTTP_MORE;
        if (line_end == 0 || data[line_end - 1] != '\r' ||
            memchr(data + from, '\r', line_end - 1 - from))
            return bad(status, 400, why, "a line does not end in CR LF, or a CR stands alone");
        if (memchr(data + from, '\0', line_end - from))
            return bad(status, 400, why, "the header holds a NUL");
        p->scanned = line_end + 1;
        if (line_end - 1 == from && p->lines > 0) {
            memset(req, 0, sizeof *req);
            req->head_bytes = line_end + 1;
            p->in = p->out = req->head_bytes;
            return parse_lines(data + start, from - start, req, status, why);
        }
        p->lines++;
    }
}

/* ---- content ---- */

enum chunk_state {
    CHUNK_SIZE,
    CHUNK_EXT,
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_CR,
    CHUNK_LF,
    TRAILER_START,
    TRAILER,
    TRAILER_LF,
    TRAILER_END
};

static int hex_value(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* One byte of a chunk's size line, RFC 9112, 7.1. False when it is malformed. */
static bool size_byte(struct http_progress *p, char c) {
    if (p->chunk_state == CHUNK_SIZE) {
        int digit = hex_value(c);
        if (digit >= 0) {
            if (p->chunk_extra++ >= 16 || p->chunk_left >> 60)
                return false;
            p->chunk_left = p->chunk_left * 16 + (uint64_t)digit;
            return true;
        }
        if (p->chunk_extra == 0)
            return false;
        p->chunk_extra = 0;
        p->chunk_state = CHUNK_EXT;
        if (c != ';' && c != '\r' && c != ' ' && c != '\t')
            return false;
    }
    if (c == '\r') {
        p->chunk_state = CHUNK_SIZE_LF;
        return true;
    }
    unsigned char u = (unsigned char)c;
    return (u >= ' ' || u == '\t') && u != 0x7f && p->chunk_extra++ < HTTP_CHUNK_EXT_MAX;
}

/* One byte of a trailer section; its fields are checked for form and dropped. */
static bool trailer_byte(struct http_progress *p, char c) {
    unsigned char u = (unsigned char)c;
    if (p->chunk_extra++ >= HTTP_TRAILER_MAX)
        return false;
    switch (p->chunk_state) {
    case TRAILER_START:
        p->chunk_state = c == '\r' ? TRAILER_END : TRAILER;
        return c == '\r' || is_tchar(u);
    case TRAILER:
        if (c == '\r')
            p->chunk_state = TRAILER_LF;
        return c == '\r' || (u >= ' ' && u != 0x7f) || u == '\t';
    default: /* TRAILER_LF */
        p->chunk_state = TRAILER_START;
        return c == '\n';
    }
}

static enum http_result chunked_body(struct http_progress *p, size_t begin, char *data, size_t len,
                                     size_t body_max, int *status, const char **why) {
    while (p->in < len) {
        if (p->chunk_state == CHUNK_DATA) {
            size_t n = len - p->in;
            if (n > p->chunk_left)
                n = (size_t)p->chunk_left;
            memmove(data + p->out, data + p->in, n);
            p->in += n;
            p->out += n;
            p->chunk_left -= n;
            if (p->chunk_left == 0)
                p->chunk_state = CHUNK_CR;
            continue;
        }
        char c = data[p->in++];
        bool good = true;
        switch (p->chunk_state) {
        case CHUNK_SIZE:
        case CHUNK_EXT:
            good = size_byte(p, c);
            break;
        case CHUNK_SIZE_LF:
            good = c == '\n';
            if (p->chunk_left > body_max - (p->out - begin))
                return bad(status, 413, why, "the content is too large");
            p->chunk_state = p->chunk_left ? CHUNK_DATA : TRAILER_START;
            p->chunk_extra = 0;
            break;
        case CHUNK_CR:
            good = c == '\r';
            p->chunk_state = CHUNK_LF;
            break;
        case CHUNK_LF:
            good = c == '\n';
            p->chunk_state = CHUNK_SIZE;
            break;
        case TRAILER_END:
            if (c == '\n')
                return HTTP_DONE;
            good = false;
            break;
        default:
            good = trailer_byte(p, c);
        }
        if (!good)
            return bad(status, 400, why, "the chunked content is malformed");
    }
    return HTTP_MORE;
}

enum http_result http_body_parse(struct http_progress *p, const struct http_request *req,
                                 char *data, size_t len, size_t body_max, size_t *body_len,
                                 size_t *end, int *status, const char **why) {
    if (req->chunked) {
        enum http_result rc = chunked_body(p, req->head_bytes, data, len, body_max, status, why);
        if (rc == HTTP_DONE) {
            *body_len = p->out - req->head_bytes;
            *end = p->in;
        }
        return rc;
    }
    if (req->content_length > body_max)
        return bad(status, 413, why, "the content is too large");
    if (len - req->head_bytes < req->content_length)
        return HTTP_MORE;
    *body_len = (size_t)req->content_length;
    *end = req->head_bytes + *body_len;
    return HTTP_DONE;
}
