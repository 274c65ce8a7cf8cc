/*
 * http_parse: HTTP/1.1 requests from bytes to views (RFC 9110, RFC 9112). Pure: no allocation, no
 * I/O.
 *
 *   http_head_parse   until it says DONE: the request line and the fields
 *   http_body_parse   until it says DONE: the content, decoded in place
 *
 * Both may be called again with more bytes of the same request; work already done is not repeated,
 * so a request that comes byte by byte costs no more than one that comes at once. What is ambiguous
 * is refused, never guessed: bare LF, bare CR, obs-fold, blanks before the colon, two lengths.
 */
#ifndef TIERD_NET_HTTP_PARSE_H
#define TIERD_NET_HTTP_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

enum {
    HTTP_LINE_MAX = 4096, /* request line: far above any path of ours; past it 414 */
    HTTP_HEAD_MAX = 8192, /* request line and fields, as nginx and Apache have it; past it 431 */
    HTTP_FIELDS_MAX = 64, /* browsers send some 20; past it 431 */
    HTTP_CHUNK_EXT_MAX = 256, /* nobody uses chunk extensions; past it 400 */
    HTTP_TRAILER_MAX = 2048,
};

enum http_result { HTTP_MORE, HTTP_DONE, HTTP_BAD };

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST, HTTP_OPTIONS, HTTP_OTHER };

/* Views point into the buffer that was parsed. */
struct http_request {
    enum http_method method;
    struct str_view path;  /* of the target, without query; "*" for OPTIONS * */
    struct str_view query; /* without '?' */
    struct str_view content_type;
    size_t head_bytes; /* where the content begins */
    uint64_t content_length;
    bool has_length;
    bool chunked;
    bool keep_alive;
    bool expect_continue;
    bool minor_zero; /* HTTP/1.0 */
};

/* Progress through one request; zero it for each. */
struct http_progress {
    size_t scanned; /* bytes known not to hold the end of the head */
    size_t lines;
    /* the content */
    size_t in, out; /* read and written positions in the buffer */
    uint64_t chunk_left;
    int chunk_state;
    size_t chunk_extra; /* bytes of extensions or trailers so far */
};

/* On HTTP_BAD, *status is the response's status and *why a sentence. */
enum http_result http_head_parse(struct http_progress *p, const char *data, size_t len,
                                 struct http_request *req, int *status, const char **why);

/*
 * The content that follows the head at data[req->head_bytes]. On HTTP_DONE the content is
 * data[head_bytes .. head_bytes + *body_len) (chunks are joined in place) and the request ends at
 * *end. Content past `body_max` bytes: HTTP_BAD with 413.
 */
enum http_result http_body_parse(struct http_progress *p, const struct http_request *req,
                                 char *data, size_t len, size_t body_max, size_t *body_len,
                                 size_t *end, int *status, const char **why);

#endif
