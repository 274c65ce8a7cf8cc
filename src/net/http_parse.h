/*
 * http_parse: HTTP/1.1 requests from bytes to views (RFC 9110, RFC 9112). Pure: no allocation, no
 * I/O.
 *
 *   http_head_parse   until it says DONE: the request line and the fields
 *   http_body_parse   until it says DONE: the content, decoded in place
 *
 * Both may be called again with more bytes of the same request; work already done is not repeated,
 * so a request that comes byte by byte costs no more than one that comes at once.
 *
 * What is ambiguous is refused, never guessed: bare LF, bare CR, obs-fold, blanks before the colon,
 * two lengths. After such a refusal (HTTP_BAD) nobody knows where the next request begins, the
 * connection has to end. A request whose end is known but which cannot be served is DONE with
 * `refusal` set; the connection may go on behind it. tests/http-rules.md lists every rule.
 */
#ifndef TIERD_NET_HTTP_PARSE_H
#define TIERD_NET_HTTP_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"
#include "net/http_chunked.h"

enum {
    HTTP_LINE_MAX = 8000,  /* request line: what RFC 9112, 3 recommends to support; past it 414 */
    HTTP_HEAD_MAX = 16384, /* request line and fields: room for both; past it 431 */
    HTTP_FIELDS_MAX = 64,  /* browsers send some 20; past it 431 */
};

enum http_result { HTTP_MORE, HTTP_DONE, HTTP_BAD };

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST, HTTP_OPTIONS, HTTP_OTHER };

/* Why a request is not served. */
struct http_refusal {
    int status;        /* 0: it is served */
    const char *why;   /* a sentence */
    const char *extra; /* NULL, or further header lines of the answer, each ended by CR LF */
};

/* Views point into the buffer that was parsed. */
struct http_request {
    enum http_method method;
    struct str_view path;  /* of the target, without query; "*" for the server as a whole */
    struct str_view query; /* without '?' */
    struct str_view content_type;
    size_t head_bytes; /* where the content begins */
    uint64_t content_length;
    bool has_length;
    bool chunked;
    bool keep_alive;
    bool expects;    /* the client may wait for an answer before it sends the content */
    bool minor_zero; /* HTTP/1.0 */
    /* Preconditions (RFC 9110, 13.1): If-Match with entity tags, with "*"; If-None-Match with "*".
     * Nothing here has a tag or a date, so the others are either true or to be ignored. */
    bool if_tag, if_any, if_none;
    struct http_refusal refusal;
};

/* Progress through one request; zero it for each. */
struct http_progress {
    size_t scanned; /* bytes of whole lines */
    size_t looked;  /* bytes known to hold no further line end */
    size_t lines;
    struct http_chunked chunked;
};

/* On HTTP_BAD *bad says why, and req->method is HTTP_HEAD if it is a HEAD as far as one can see. */
enum http_result http_head_parse(struct http_progress *p, const char *data, size_t len,
                                 struct http_request *req, struct http_refusal *bad);

/*
 * The content that follows the head at data[req->head_bytes]. On HTTP_DONE the content is
 * data[head_bytes .. head_bytes + *body_len) (chunks are joined in place) and the request ends at
 * *end. Content past `body_max` bytes: HTTP_BAD with 413.
 */
enum http_result http_body_parse(struct http_progress *p, const struct http_request *req,
                                 char *data, size_t len, size_t body_max, size_t *body_len,
                                 size_t *end, struct http_refusal *bad);

/*
 * After HTTP_MORE: closes the gap that decoded chunk framing left in the buffer, so that framing
 * cannot fill it. Returns the new length.
 */
size_t http_body_compact(struct http_progress *p, const struct http_request *req, char *data,
                         size_t len);

/* True when what there is of a request begins with "HEAD ": its answer has no content. */
bool http_is_head(const char *data, size_t len);

#endif
