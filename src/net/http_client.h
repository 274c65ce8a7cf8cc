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

/* One answer of several; `body` is valid during the call. */
typedef void http_answer_fn(void *ctx, size_t i, int status, struct str_view body);

/*
 * Posts `n` forms to `path` in one write (RFC 9112, 9.3.2: pipelining) and hands over the answers
 * in order, all within `timeout_ms`. How many were answered: less than `n` when the server closed
 * in between; then the rest may be posted again. Or -errno when none was.
 */
int http_client_post_many(struct http_client *c, const char *path, const char *const *forms,
                          size_t n, int64_t timeout_ms, http_answer_fn *answer, void *ctx);

/*
 * Posts `n` forms to `path` side by side, each on a line of its own up to HTTP_CLIENT_LINES, so
 * that the server handles them at once; a line that cannot be had leaves its part to the others.
 * `answers[i]` is the status of the i-th, or -errno, as of http_client_post. All within
 * `timeout_ms`.
 */
enum { HTTP_CLIENT_LINES = 16 };
void http_client_post_each(struct http_client *c, const char *path, const char *const *forms,
                           size_t n, int64_t timeout_ms, int *answers);

#endif
