/*
 * http_client: posting forms. Blocking, over kept-alive connections, every call under one deadline.
 *
 * http_client_new -> http_client_post, _post_many, _post_each ... -> http_client_free
 */
#ifndef TIERD_NET_HTTP_CLIENT_H
#define TIERD_NET_HTTP_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

struct http_client;

/* For `http://host[:port]` or `http+unix:///path/of/socket`. 0, -EINVAL (another URL), -ENOMEM. */
int http_client_new(const char *url, struct http_client **out);
void http_client_free(struct http_client *c);

/*
 * Posts a form to `path`. The status of the answer (its content is read and dropped), or -errno:
 * -ETIMEDOUT, -ECONNREFUSED and the like, -EPROTO for what is not HTTP. A kept connection that
 * turns out to be closed is opened anew once.
 */
int http_client_post(struct http_client *c, const char *path, const char *form, int64_t timeout_ms);

/*
 * Posts `n` forms to `path` side by side, each on a line of its own up to HTTP_CLIENT_LINES, so
 * that the server handles them at once; a line that cannot be had leaves its part to the others.
 * `answers[i]` is the status of the i-th, or -errno, as of http_client_post; `said` (may be NULL)
 * gets the content of each answer, valid during the call. All within `timeout_ms`.
 */
enum { HTTP_CLIENT_LINES = 16 };
typedef void http_said_fn(void *ctx, size_t i, struct str_view body);
void http_client_post_each(struct http_client *c, const char *path, const char *const *forms,
                           size_t n, int64_t timeout_ms, int *answers, http_said_fn *said,
                           void *ctx);

/* Forms that are answered one after the other; `answered` is set: how many were, or -errno when
 * none was. */
struct http_client_batch {
    const char *const *forms;
    size_t n;
    int answered;
};

/* One answer of several; `body` is valid during the call. */
typedef void http_answer_fn(void *ctx, int status, struct str_view body);

/*
 * Posts up to HTTP_CLIENT_LINES batches to `path`, each in one write (RFC 9112, 9.3.2: pipelining)
 * over a line of its own, the i-th always over the same, and an empty one over none; so the server
 * handles them at once, and each batch in order. Then it hands over the answers, batch by batch,
 * all within `timeout_ms`. Fewer of a batch are answered when the server closed in between; the
 * rest may be posted again.
 */
void http_client_post_many(struct http_client *c, const char *path,
                           struct http_client_batch *batches, size_t n, int64_t timeout_ms,
                           http_answer_fn *answer, void *ctx);

#endif
