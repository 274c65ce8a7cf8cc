/*
 * http_server: connections that speak HTTP/1.1 on the loop, and one handler that answers.
 *
 *   http_server_new -> http_server_listen for each socket -> (handler -> http_reply) ...
 *   http_server_drain -> its callback -> http_server_free
 *
 * Requests of one connection are handled one after the other, in order; what comes meanwhile waits
 * in the bounded input buffer, then in the kernel; so do requests behind answers that the client
 * does not read. The handler may answer at once or later. An exchange belongs to its connection; it
 * stays valid until http_reply, even when the client went away.
 */
#ifndef TIERD_NET_HTTP_SERVER_H
#define TIERD_NET_HTTP_SERVER_H

#include "net/http_parse.h"
#include "net/loop.h"

enum { HTTP_ANSWER_MAX = 256 * 1024 }; /* the longest answer, with its head: a report of status */

struct http_server;
struct http_exchange;

struct http_limits {
    size_t connections;             /* open at once; more wait in the kernel's backlog */
    size_t connections_per_address; /* of one client address, peers.h; 0: no bound. Past it 503 */
    size_t body_bytes;              /* content of a request; past it 413 */
    int64_t request_timeout_ms; /* from its first byte to its last, however slowly it comes: 408 */
    int64_t idle_timeout_ms;    /* between requests, and for a client to read its answers */
};

/* Called for each complete request; must lead to one http_reply. */
typedef void http_handler_fn(void *ctx, struct http_exchange *x, const struct http_request *req,
                             struct str_view body);

/* Says from the head alone whether a request will be refused (status 0: it will not), for a client
 * that waits for that before it sends the content. */
typedef struct http_refusal http_judge_fn(void *ctx, const struct http_request *req);

struct http_server *http_server_new(struct loop *loop, const struct http_limits *limits,
                                    http_handler_fn *handler, http_judge_fn *judge, void *ctx);

/* Accepts from a listening, non-blocking socket, which stays the caller's. 0 or -errno. */
int http_server_listen(struct http_server *s, int fd);

/* Answers, head and body within HTTP_ANSWER_MAX. `extra` is NULL or further header lines, each
 * ended by CR LF. A HEAD gets the head alone; "If-None-Match: *" makes a 200 to it or
 * to a GET a 304. */
void http_reply(struct http_exchange *x, int status, const char *type, struct str_view body,
                const char *extra);

#define HTTP_RETRY_LATER "Retry-After: 1\r\n" /* for `extra`, with a 503 */

/* Answers with {"error": "..."}. */
void http_reply_error(struct http_exchange *x, int status, const char *sentence, const char *extra);

/* Stops accepting, closes idle connections, ends the others after their answer; then calls back. */
void http_server_drain(struct http_server *s, void (*drained)(void *ctx), void *ctx);

/* Closes everything. Exchanges that were not answered must not be used any more. */
void http_server_free(struct http_server *s);

#endif
