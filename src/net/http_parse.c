#include "net/http_parse.h"

#include <errno.h>
#include <string.h>

#include "net/http_syntax.h"

/* What the fields that decide something said. */
struct fields {
    size_t hosts, lengths, types;
    struct str_view host;
    bool close, keep;
    bool coded;        /* there is a Transfer-Encoding */
    bool other_coding; /* with another coding than chunked */
    bool chunked_last; /* the last coding so far is chunked */
};

static enum http_result refuse(struct http_refusal *bad, int status, const char *why) {
    *bad = (struct http_refusal){.status = status, .why = why};
    return HTTP_BAD;
}

/* Refuses what does not hide where the request ends; the first reason stays. */
static void refuse_later(struct http_request *req, int status, const char *why, const char *extra) {
    if (req->refusal.status == 0)
        req->refusal = (struct http_refusal){status, why, extra};
}

/* ---- request line ---- */

static enum http_method method_of(struct str_view v) {
    static const char *const names[] = {"GET", "HEAD", "POST", "OPTIONS"};
    for (size_t i = 0; i < 4; i++)
        if (str_is(v, names[i]))
            return (enum http_method)i;
    return HTTP_OTHER;
}

/* Cuts "scheme://" off; true when it was there. */
static bool take_scheme(struct str_view *target, const char *scheme) {
    size_t n = strlen(scheme);
    if (target->len < n || !str_is_nocase((struct str_view){target->ptr, n}, scheme))
        return false;
    *target = (struct str_view){target->ptr + n, target->len - n};
    return true;
}

/* RFC 9112, 3.2.2. What is left in *t begins with the path. */
static bool take_absolute(struct str_view *t, struct http_request *req) {
    bool https = take_scheme(t, "https://");
    if (!https && !take_scheme(t, "http://"))
        return false;
    size_t n = 0;
    while (n < t->len && t->ptr[n] != '/' && t->ptr[n] != '?')
        n++;
    if (!http_host_valid((struct str_view){t->ptr, n}))
        return false;
    *t = (struct str_view){t->ptr + n, t->len - n};
    if (https) /* RFC 9110, 7.4: not without TLS */
        refuse_later(req, 421, "an https resource is not served over plain http", NULL);
    if (t->len == 0 && req->method == HTTP_OPTIONS) /* RFC 9112, 3.2.4 */
        *t = str_view("*");
    return true;
}

/* RFC 9112, 3.2: origin-form, absolute-form, asterisk-form; authority-form for CONNECT alone. */
static bool parse_target(struct str_view t, bool connect, struct http_request *req) {
    if (connect) { /* RFC 9110, 9.3.6: the port is never left out */
        char last = t.ptr[t.len - 1];
        req->path = t;
        return http_host_valid(t) && memchr(t.ptr, ':', t.len) && last >= '0' && last <= '9';
    }
    if (t.ptr[0] != '/' && !str_is(t, "*") && !take_absolute(&t, req))
        return false;
    req->path = http_take(&t, '?');
    req->query = t;
    if (req->path.len == 0)
        req->path = str_view("/");
    if (str_is(req->path, "*"))
        return req->method == HTTP_OPTIONS && req->query.len == 0;
    return http_path_valid(req->path, false) && http_path_valid(req->query, true);
}

static bool is_version(struct str_view v) {
    return v.len == 8 && memcmp(v.ptr, "HTTP/", 5) == 0 && v.ptr[5] >= '0' && v.ptr[5] <= '9' &&
           v.ptr[6] == '.' && v.ptr[7] >= '0' && v.ptr[7] <= '9';
}

static enum http_result parse_line(struct str_view line, struct http_request *req,
                                   struct http_refusal *bad) {
    struct str_view rest = line;
    struct str_view method = http_take(&rest, ' ');
    struct str_view target = http_take(&rest, ' ');
    bool connect = str_is(method, "CONNECT");
    if (!http_is_token(method) || target.len == 0)
        return refuse(bad, 400, "the request line is not 'METHOD TARGET HTTP/1.1'");
    if (!is_version(rest))
        return refuse(bad, 400, "the request line does not end in HTTP/1.1");
    if (rest.ptr[5] != '1')
        return refuse(bad, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    req->minor_zero = rest.ptr[7] == '0';
    req->keep_alive = !connect; /* what follows a CONNECT may be meant for another server */
    req->method = method_of(method);
    if (req->method == HTTP_OTHER)
        refuse_later(req, 501,
                     "the method is not implemented; there are GET, HEAD, POST and OPTIONS", NULL);
    if (!parse_target(target, connect, req))
        return refuse(bad, 400, "the request target is neither a path nor an http URL");
    return HTTP_DONE;
}

/* ---- fields ---- */

static void connection_options(struct str_view value, struct fields *f) {
    struct str_view option;
    while (http_list_next(&value, &option)) {
        f->close |= str_is_nocase(option, "close");
        f->keep |= str_is_nocase(option, "keep-alive");
    }
}

/* RFC 9112, 6.3: a length is digits alone; a list, a sign or a second one is refused. */
static bool parse_length(struct str_view v, uint64_t *out) {
    uint64_t n = 0;
    for (size_t i = 0; i < v.len; i++) {
        if (v.ptr[i] < '0' || v.ptr[i] > '9' || __builtin_mul_overflow(n, 10U, &n) ||
            __builtin_add_overflow(n, (uint64_t)(v.ptr[i] - '0'), &n))
            return false;
    }
    *out = n;
    return v.len > 0;
}

/* RFC 9112, 6.1 and 7: chunked comes last, once, without parameters. */
static bool transfer_codings(struct str_view value, struct fields *f) {
    struct str_view coding;
    f->coded = true;
    while (http_list_next(&value, &coding)) {
        struct str_view rest = coding;
        struct str_view name = http_trim(http_take(&rest, ';'));
        if (f->chunked_last || !http_is_token(name))
            return false;
        f->chunked_last = str_is_nocase(name, "chunked");
        f->other_coding |= !f->chunked_last;
        if (f->chunked_last && name.len != coding.len)
            return false;
    }
    return true;
}

/* RFC 9110, 10.1.1: HTTP/1.0 knows no expectations. */
static void expectations(struct str_view value, struct http_request *req) {
    struct str_view one;
    while (!req->minor_zero && http_list_next(&value, &one)) {
        req->expects = true;
        if (!str_is_nocase(one, "100-continue"))
            refuse_later(req, 417, "the only expectation that can be met is 100-continue", NULL);
    }
}

static void content_codings(struct str_view value, struct http_request *req) {
    struct str_view one;
    while (http_list_next(&value, &one))
        if (!str_is_nocase(one, "identity"))
            refuse_later(req, 415, "a Content-Encoding is not supported",
                         "Accept-Encoding: identity\r\n");
}

static enum http_result take_field(struct str_view name, struct str_view value,
                                   struct http_request *req, struct fields *f,
                                   struct http_refusal *bad) {
    if (str_is_nocase(name, "host")) {
        f->hosts++;
        f->host = value;
    } else if (str_is_nocase(name, "content-length")) {
        if (f->lengths++ || !parse_length(value, &req->content_length))
            return refuse(bad, 400, "Content-Length is not one decimal number");
        req->has_length = true;
    } else if (str_is_nocase(name, "transfer-encoding")) {
        if (!transfer_codings(value, f))
            return refuse(bad, 400, "in Transfer-Encoding chunked is the last coding, once");
    } else if (str_is_nocase(name, "connection")) {
        connection_options(value, f);
    } else if (str_is_nocase(name, "expect")) {
        expectations(value, req);
    } else if (str_is_nocase(name, "content-type")) {
        if (f->types++)
            return refuse(bad, 400, "Content-Type is given more than once");
        req->content_type = value;
    } else if (str_is_nocase(name, "content-encoding")) {
        content_codings(value, req);
    } else if (str_is_nocase(name, "if-match")) {
        req->if_any |= str_is(value, "*");
        req->if_tag |= !str_is(value, "*");
    } else if (str_is_nocase(name, "if-none-match")) {
        req->if_none |= str_is(value, "*");
    }
    return HTTP_DONE;
}

static enum http_result parse_field(struct str_view line, struct http_request *req,
                                    struct fields *f, struct http_refusal *bad) {
    struct str_view rest = line;
    struct str_view name = http_take(&rest, ':');
    if (line.ptr[0] == ' ' || line.ptr[0] == '\t')
        return refuse(bad, 400, "a header line begins with a blank; folded lines are obsolete");
    if (name.len == line.len || !http_is_token(name))
        return refuse(bad, 400, "a header field is not 'Name: value'");
    for (size_t i = 0; i < rest.len; i++)
        if (!http_is_field_byte((unsigned char)rest.ptr[i]))
            return refuse(bad, 400, "a header field holds a control character");
    return take_field(name, http_trim(rest), req, f, bad);
}

/* What the fields mean together. */
static enum http_result settle(struct http_request *req, const struct fields *f,
                               struct http_refusal *bad) {
    if (f->hosts > 1 || (f->hosts == 0 && !req->minor_zero))
        return refuse(bad, 400, "a request has exactly one Host field");
    if (f->host.len && !http_host_valid(f->host))
        return refuse(bad, 400, "the Host is not a valid host");
    if (f->coded && req->minor_zero)
        return refuse(bad, 400, "HTTP/1.0 has no Transfer-Encoding");
    if (f->coded && f->lengths)
        return refuse(bad, 400, "Content-Length and Transfer-Encoding exclude each other");
    if (f->coded && !f->chunked_last)
        return refuse(bad, 400, "in Transfer-Encoding chunked is the last coding, once");
    if (f->other_coding)
        return refuse(bad, 501, "the only transfer coding here is chunked");
    req->chunked = f->coded;
    if (req->method == HTTP_POST && !req->chunked && !req->has_length)
        return refuse(bad, 411, "a POST needs a Content-Length or chunked coding");
    req->keep_alive &= !f->close && (f->keep || !req->minor_zero);
    req->expects &= req->chunked || req->content_length > 0;
    return HTTP_DONE;
}

static enum http_result parse_lines(const char *data, size_t end, struct http_request *req,
                                    struct http_refusal *bad) {
    struct fields f = {0};
    const char *at = data;
    for (size_t count = 0; at < data + end; count++) {
        const char *lf = memchr(at, '\n', (size_t)(data + end - at));
        struct str_view line = {at, (size_t)(lf - at) - 1};
        enum http_result rc =
            count == 0 ? parse_line(line, req, bad) : parse_field(line, req, &f, bad);
        if (rc != HTTP_DONE)
            return rc;
        at = lf + 1;
    }
    return settle(req, &f, bad);
}

/* One whole line of the head, data[from .. lf]: its end and its bytes. */
static enum http_result check_line(const char *data, size_t from, size_t lf, size_t lines,
                                   struct http_refusal *bad) {
    if (lf == from || data[lf - 1] != '\r' || memchr(data + from, '\r', lf - 1 - from))
        return refuse(bad, 400, "a line does not end in CR LF, or a CR stands alone");
    if (memchr(data + from, '\0', lf - from))
        return refuse(bad, 400, "the header holds a NUL");
    if (lines > HTTP_FIELDS_MAX + 1)
        return refuse(bad, 431, "there are more than 64 header fields");
    return HTTP_DONE;
}

static enum http_result scan_head(struct http_progress *p, const char *data, size_t len,
                                  struct http_request *req, struct http_refusal *bad) {
    size_t start = 0;
    if (len >= 2 && data[0] == '\r' && data[1] == '\n')
        start = 2; /* RFC 9112, 2.2: one empty line before a request is ignored */
    if (p->scanned < start)
        p->scanned = p->looked = start;
    size_t limit = len < HTTP_HEAD_MAX ? len : HTTP_HEAD_MAX;
    for (;;) {
        size_t from = p->scanned;
        const char *lf =
            p->looked < limit ? memchr(data + p->looked, '\n', limit - p->looked) : NULL;
        size_t line_end = lf ? (size_t)(lf - data) : limit;
        if (p->lines == 0 && line_end - start > HTTP_LINE_MAX + 1) /* the CR */
            return refuse(bad, 414, "the request line is longer than 8000 bytes");
        if (!lf && len >= HTTP_HEAD_MAX)
            return refuse(bad, 431, "the header is longer than 16384 bytes");
        p->looked = lf ? line_end + 1 : limit;
        if (!lf)
            return HTTP_MORE;
        bool last = p->lines > 0 && line_end == from + 1;
        enum http_result rc = check_line(data, from, line_end, p->lines + (last ? 0 : 1), bad);
        if (rc != HTTP_DONE)
            return rc;
        p->scanned = line_end + 1;
        p->lines++;
        if (!last)
            continue;
        req->head_bytes = p->scanned;
        p->chunked.in = p->chunked.out = req->head_bytes;
        return parse_lines(data + start, from - start, req, bad);
    }
}

enum http_result http_head_parse(struct http_progress *p, const char *data, size_t len,
                                 struct http_request *req, struct http_refusal *bad) {
    memset(req, 0, sizeof *req);
    enum http_result rc = scan_head(p, data, len, req, bad);
    if (rc == HTTP_BAD)
        *req = (struct http_request){.method = http_is_head(data, len) ? HTTP_HEAD : HTTP_OTHER};
    return rc;
}

bool http_is_head(const char *data, size_t len) {
    size_t start = len >= 2 && data[0] == '\r' && data[1] == '\n' ? 2 : 0;
    return len - start >= 5 && memcmp(data + start, "HEAD ", 5) == 0;
}

/* ---- content ---- */

static enum http_result chunked_body(struct http_progress *p, const struct http_request *req,
                                     char *data, size_t len, size_t body_max,
                                     struct http_refusal *bad) {
    switch (http_chunked_read(&p->chunked, data, len, req->head_bytes, body_max)) {
    case HTTP_CHUNKED_MORE:
        return HTTP_MORE;
    case HTTP_CHUNKED_DONE:
        return HTTP_DONE;
    case HTTP_CHUNKED_LARGE:
        return refuse(bad, 413, "the content is too large");
    case HTTP_CHUNKED_TRAILER_LARGE:
        return refuse(bad, 431, "the trailer is longer than 2048 bytes");
    default:
        return refuse(bad, 400, "the chunked content is malformed");
    }
}

enum http_result http_body_parse(struct http_progress *p, const struct http_request *req,
                                 char *data, size_t len, size_t body_max, size_t *body_len,
                                 size_t *end, struct http_refusal *bad) {
    if (req->chunked) {
        enum http_result rc = chunked_body(p, req, data, len, body_max, bad);
        if (rc == HTTP_DONE) {
            *body_len = p->chunked.out - req->head_bytes;
            *end = p->chunked.in;
        }
        return rc;
    }
    if (req->content_length > body_max)
        return refuse(bad, 413, "the content is too large");
    if (len - req->head_bytes < req->content_length)
        return HTTP_MORE;
    *body_len = (size_t)req->content_length;
    *end = req->head_bytes + *body_len;
    return HTTP_DONE;
}

size_t http_body_compact(struct http_progress *p, const struct http_request *req, char *data,
                         size_t len) {
    size_t gap = p->chunked.in - p->chunked.out;
    if (!req->chunked || gap == 0)
        return len;
    memmove(data + p->chunked.out, data + p->chunked.in, len - p->chunked.in);
    p->chunked.in = p->chunked.out;
    return len - gap;
}
