/*
 * http_client: the worker's POST. Blocking, one kept-alive connection, every call under one
 * deadline.
 *
 * http_client_new -> http_client_post ... -> http_client_free
 */
#ifndef TIERD_NET_HTTP_CLIENT_H
#define TIERD_NET_HTTP_CLIENT_H

#include <stdint.h>

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

#endif
