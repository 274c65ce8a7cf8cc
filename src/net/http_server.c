#include "net/http_server.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "net/peers.h"

enum {
    LISTENERS_MAX = 4,
    ACCEPT_BATCH = 64,     /* per turn, so that those who are in are served meanwhile */
    ACCEPT_PAUSE_MS = 100, /* when descriptors are used up */
    OUT_PAUSE = 64 * 1024, /* unread answers; past it no further request is taken */
    OUT_MAX = OUT_PAUSE + HTTP_ANSWER_MAX,
    PIPELINE_MAX = 64, /* answers written together; the requests behind them wait for a turn */
    IN_SLACK = 4096,   /* what may come behind a request before it is answered */
    LINGER_MS = 1000,  /* to let the client read a refusal before the socket goes */
    DATE_BYTES = 64,
    HEAD_ROOM = 1024, /* for the head of an answer */
    IN_BYTES = 2048,  /* a post with the head of a browser */
    OUT_BYTES = 1024, /* its answer */
    SPARES_MAX = 256, /* buffers of each kind kept for the next busy connection: 768 KiB at most */
};

/* Buffers of one size that connections hand on: an idle connection holds none, and a busy server
 * allocates none. */
struct spares {
    size_t bytes, n;
    char *data[SPARES_MAX];
};

struct http_exchange {
    struct http_request req;
};

enum conn_state { READING, HANDLING, LINGERING, CLOSED };

struct conn {
    struct http_server *server;
    struct conn *next, *prev; /* all connections */
    struct conn *dirty;       /* those with output to write at the end of this turn */
    bool is_dirty, peer_done, close_after, continued, in_request;
    bool starved; /* `in` holds no whole request */
    enum conn_state state;
    struct loop_io io;
    struct loop_timer timer;
    int64_t deadline_ms; /* of the request, of being idle, or of lingering; 0: none */
    int64_t
        output_due_ms; /* when the client must have read the next `output_left` bytes; 0: none */
    size_t output_left;
    size_t answers; /* in `out` */
    struct peer *peer;
    struct buf in, out;
    struct http_progress progress;
    struct http_exchange x;
    const char *base; /* where `in` was when the head was parsed */
    bool has_head;
    size_t request_end; /* of the request being handled, within `in` */
};

struct listener {
    struct http_server *server;
    struct loop_io io;
};

struct http_server {
    struct loop *loop;
    struct http_limits limits;
    http_handler_fn *handler;
    http_judge_fn *judge;
    void *ctx;
    struct listener listeners[LISTENERS_MAX];
    size_t n_listeners, n_conns;
    struct conn conns; /* ring */
    struct conn *dirty, *dead;
    struct peers *peers; /* NULL: addresses are not counted */
    struct loop_deferred flush;
    struct loop_timer resume;
    bool paused, draining;
    void (*drained)(void *ctx);
    void *drained_ctx;
    time_t date_s;
    char date[DATE_BYTES];
    struct spares ins, outs;
};

static void conn_serve(struct conn *c);

/* ---- buffers ---- */

/* Gives an empty buffer its first bytes; without memory it stays empty and the next append fails.
 */
static void buf_borrow(struct buf *b, struct spares *s) {
    if (b->data)
        return;
    if (s->n == 0) {
        (void)buf_reserve(b, s->bytes);
        return;
    }
    b->data = s->data[--s->n];
    b->cap = s->bytes;
}

/* Takes back the bytes of a buffer, which is empty then; those that grew are freed. */
static void buf_hand_back(struct buf *b, struct spares *s) {
    if (b->data && b->cap == s->bytes && s->n < SPARES_MAX) {
        s->data[s->n++] = b->data;
        b->data = NULL;
    }
    buf_release(b);
}

static void spares_release(struct spares *s) {
    while (s->n)
        free(s->data[--s->n]);
}

/* ---- life of a connection ---- */

static void listeners_set(struct http_server *s, bool on) {
    for (size_t i = 0; i < s->n_listeners; i++)
        loop_io_set(s->loop, &s->listeners[i].io, on ? EPOLLIN : 0);
    s->paused = !on;
}

static void check_drained(struct http_server *s) {
    if (s->draining && s->n_conns == 0 && s->drained) {
        void (*drained)(void *) = s->drained;
        s->drained = NULL;
        drained(s->drained_ctx);
    }
}

/* Closes now, frees at the end of the turn: there may be events of it in this turn still. A
 * connection whose request is being handled is kept until the answer, which then goes nowhere. */
static void conn_close(struct conn *c) {
    struct http_server *s = c->server;
    if (c->io.fd >= 0) {
        loop_io_set(s->loop, &c->io, 0);
        loop_timer_cancel(s->loop, &c->timer);
        close(c->io.fd);
        c->io.fd = -1;
        peers_remove(s->peers, c->peer);
        buf_hand_back(&c->out, &s->outs);
    }
    if (c->state == HANDLING || c->state == CLOSED)
        return;
    c->state = CLOSED;
    c->prev->next = c->next;
    c->next->prev = c->prev;
    s->n_conns--;
    c->next = s->dead;
    s->dead = c;
    loop_defer(s->loop, &s->flush);
    if (s->paused && !s->draining) { /* its place, or its descriptor, is free */
        loop_timer_cancel(s->loop, &s->resume);
        listeners_set(s, true);
    }
}

/* The earlier of both deadlines, 0 when there is none. */
static int64_t conn_due_ms(const struct conn *c) {
    if (c->deadline_ms == 0 || c->output_due_ms == 0)
        return c->deadline_ms + c->output_due_ms;
    return c->deadline_ms < c->output_due_ms ? c->deadline_ms : c->output_due_ms;
}

/* An earlier timer finds out by itself; only one that is too late must be moved. */
static void conn_arm(struct conn *c) {
    int64_t due_ms = conn_due_ms(c);
    if (due_ms && (!loop_timer_armed(&c->timer) || c->timer.due_ms > due_ms))
        loop_timer_set(c->server->loop, &c->timer, due_ms);
}

static void conn_deadline(struct conn *c, int64_t timeout_ms) {
    c->deadline_ms = loop_now_ms(c->server->loop) + timeout_ms;
    conn_arm(c);
}

static void conn_dirty(struct conn *c) {
    struct http_server *s = c->server;
    if (c->is_dirty)
        return;
    c->is_dirty = true;
    c->dirty = s->dirty;
    s->dirty = c;
    loop_defer(s->loop, &s->flush);
}

/* What the connection waits for. A client that does not read is not read from. */
static void conn_watch(struct conn *c, bool blocked) {
    bool reads =
        !c->peer_done && !c->close_after && c->in.len < c->in.max && c->out.len < OUT_PAUSE;
    loop_io_set(c->server->loop, &c->io,
                (reads ? (uint32_t)EPOLLIN : 0) | (blocked ? (uint32_t)EPOLLOUT : 0));
}

/* Output is done and the connection is to end: say so, and give the client time to read it, since a
 * close with unread input would destroy what it has not read yet (RFC 9112, 9.6). */
static void conn_linger(struct conn *c) {
    if (c->peer_done || shutdown(c->io.fd, SHUT_WR) < 0) {
        conn_close(c);
        return;
    }
    c->state = LINGERING;
    buf_hand_back(&c->in, &c->server->ins);
    conn_deadline(c, LINGER_MS);
    loop_io_set(c->server->loop, &c->io, EPOLLIN);
}

/*
 * `sent` bytes went out. What then is left has one time-out to be read by the client; only when all
 * of that is gone, the next part gets its own. So a client cannot stretch it by reading drops, and
 * one that reads and posts without end is not cut off.
 */
static void output_clock(struct conn *c, size_t sent) {
    if (c->out.len == 0) {
        c->output_due_ms = 0;
        c->answers = 0;
    } else if (c->output_due_ms == 0 || sent >= c->output_left) {
        c->output_left = c->out.len;
        c->output_due_ms = loop_now_ms(c->server->loop) + c->server->limits.idle_timeout_ms;
        conn_arm(c);
    } else {
        c->output_left -= sent;
    }
}

/* 0, or -errno when the client is gone. */
static int conn_send(struct conn *c) {
    size_t sent = 0;
    while (sent < c->out.len) {
        ssize_t n = send(c->io.fd, c->out.data + sent, c->out.len - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0 && errno != EINTR)
            return -errno;
        sent += n > 0 ? (size_t)n : 0;
    }
    buf_consume(&c->out, sent);
    output_clock(c, sent);
    return 0;
}

/* Everything that can be done without further bytes is done, all answers are out. */
static void conn_rest(struct conn *c) {
    if (c->close_after || (c->server->draining && c->in.len == 0)) {
        conn_linger(c);
    } else if (!c->starved) { /* the next of a long pipeline, after the others' turn */
        conn_dirty(c);
    } else if (c->peer_done) { /* half a request, or none */
        conn_close(c);
    } else if (!c->in_request) { /* idle: costs no buffers */
        buf_hand_back(&c->out, &c->server->outs);
        buf_hand_back(&c->in, &c->server->ins);
        conn_deadline(c, c->server->limits.idle_timeout_ms);
    }
}

static void conn_flush(struct conn *c) {
    if (c->io.fd < 0 || c->state == LINGERING)
        return;
    conn_serve(c);
    if (conn_send(c) < 0) {
        conn_close(c);
        return;
    }
    if (c->state == READING && c->out.len == 0)
        conn_rest(c);
    if (c->io.fd >= 0 && c->state != LINGERING)
        conn_watch(c, c->out.len > 0);
}

/* Frees the closed ones; those that are still to be flushed have their turn first. */
static void bury(struct http_server *s) {
    struct conn *dead = s->dead;
    s->dead = NULL;
    while (dead) {
        struct conn *c = dead;
        dead = c->next;
        if (c->is_dirty) {
            c->next = s->dead;
            s->dead = c;
            continue;
        }
        buf_hand_back(&c->in, &s->ins);
        free(c);
    }
}

static void on_flush(void *p) {
    struct http_server *s = p;
    struct conn *list = s->dirty;
    s->dirty = NULL; /* those that are dirty again afterwards wait for the next turn */
    while (list) {
        struct conn *c = list;
        list = c->dirty;
        c->is_dirty = false;
        if (c->state != CLOSED)
            conn_flush(c);
    }
    bury(s);
    if (s->dead)
        loop_defer(s->loop, &s->flush);
    check_drained(s);
}

/* ---- answers ---- */

static const char *reason(int status) {
    switch (status) {
    case 200:
        return "OK";
    case 204:
        return "No Content";
    case 304:
        return "Not Modified";
    case 400:
        return "Bad Request";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 408:
        return "Request Timeout";
    case 409:
        return "Conflict";
    case 411:
        return "Length Required";
    case 412:
        return "Precondition Failed";
    case 413:
        return "Content Too Large";
    case 414:
        return "URI Too Long";
    case 415:
        return "Unsupported Media Type";
    case 421:
        return "Misdirected Request";
    case 417:
        return "Expectation Failed";
    case 431:
        return "Request Header Fields Too Large";
    case 500:
        return "Internal Server Error";
    case 501:
        return "Not Implemented";
    case 503:
        return "Service Unavailable";
    case 505:
        return "HTTP Version Not Supported";
    default:
        return "Unknown";
    }
}

/* IMF-fixdate (RFC 9110, 5.6.7), made once a second. */
static const char *date_now(struct http_server *s) {
    time_t now = time(NULL);
    if (now != s->date_s) {
        struct tm tm;
        gmtime_r(&now, &tm);
        strftime(s->date, sizeof s->date, "%a, %d %b %Y %H:%M:%S GMT", &tm);
        s->date_s = now;
    }
    return s->date;
}

/* The lines of the head, appended one by one: formatting them took longer than parsing a request.
 */
static void write_reply(struct conn *c, int status, const char *type, struct str_view body,
                        const char *extra, bool head_only) {
    struct buf *out = &c->out;
    assert(body.len <= HTTP_ANSWER_MAX - HEAD_ROOM);
    buf_borrow(out, &c->server->outs);
    buf_add_str(out, "HTTP/1.1 ");
    buf_add_u64(out, (uint64_t)status);
    buf_add_str(out, " ");
    buf_add_str(out, reason(status));
    buf_add_str(out, "\r\nDate: ");
    buf_add_str(out, date_now(c->server));
    buf_add_str(out, "\r\nContent-Type: ");
    buf_add_str(out, type);
    buf_add_str(out, "\r\nContent-Length: ");
    buf_add_u64(out, body.len);
    buf_add_str(out, "\r\n");
    if (extra)
        buf_add_str(out, extra);
    if (c->close_after)
        buf_add_str(out, "Connection: close\r\n");
    else if (c->x.req.minor_zero)
        buf_add_str(out, "Connection: keep-alive\r\n");
    buf_add_str(out, "\r\n");
    if (!head_only)
        buf_add(out, body.ptr, body.len);
    if (out->failed)
        c->close_after = true;
    c->answers++;
    conn_dirty(c);
}

/* Refuses what was not read to its end; nothing more can be read from this client. */
static void refuse(struct conn *c, const struct http_refusal *bad) {
    struct buf b;
    buf_init(&b, 1024);
    buf_add_str(&b, "{\"error\": ");
    buf_add_json(&b, str_view(bad->why));
    buf_add_str(&b, "}");
    c->close_after = true;
    c->in_request = false;
    c->state = READING;
    write_reply(c, bad->status, "application/json", buf_view(&b), bad->extra,
                c->x.req.method == HTTP_HEAD);
    buf_release(&b);
}

void http_reply(struct http_exchange *x, int status, const char *type, struct str_view body,
                const char *extra) {
    struct conn *c = (struct conn *)((char *)x - offsetof(struct conn, x));
    assert(c->state == HANDLING);
    c->state = READING;
    c->has_head = false;
    c->in_request = false;
    if (c->io.fd < 0) { /* the client went away meanwhile */
        conn_close(c);
        return;
    }
    if (c->server->draining)
        c->close_after = true;
    bool reads = x->req.method == HTTP_GET || x->req.method == HTTP_HEAD;
    bool has_it = reads && status == 200 && x->req.if_none; /* RFC 9110, 13.1.2 */
    write_reply(c, has_it ? 304 : status, type, body, extra, has_it || x->req.method == HTTP_HEAD);
    buf_consume(&c->in, c->request_end); /* views of the request end here */
}

void http_reply_error(struct http_exchange *x, int status, const char *sentence,
                      const char *extra) {
    struct buf b;
    buf_init(&b, 8192);
    buf_add_str(&b, "{\"error\": ");
    buf_add_json(&b, str_view(sentence));
    buf_add_str(&b, "}");
    http_reply(x, status, "application/json", buf_view(&b), extra);
    buf_release(&b);
}

/* ---- requests ---- */

/* The buffer may have moved since the head was parsed; a path that was left out is not in it. */
static void rebase(struct str_view *v, const struct conn *c) {
    uintptr_t at = (uintptr_t)v->ptr - (uintptr_t)c->base;
    if (v->ptr && at < c->x.req.head_bytes)
        v->ptr = c->in.data + at;
}

static void dispatch(struct conn *c, size_t body_len, size_t end) {
    struct http_request *req = &c->x.req;
    rebase(&req->path, c);
    rebase(&req->query, c);
    rebase(&req->content_type, c);
    struct str_view body = {c->in.data + req->head_bytes, body_len};
    c->state = HANDLING;
    c->deadline_ms = 0;
    c->close_after |= !req->keep_alive;
    memset(&c->progress, 0, sizeof c->progress);
    c->continued = false;
    c->request_end = end;
    if (req->refusal.status)
        http_reply_error(&c->x, req->refusal.status, req->refusal.why, req->refusal.extra);
    else
        c->server->handler(c->server->ctx, &c->x, req, body);
}

/*
 * The client may be waiting for a word before it sends the content (RFC 9110, 10.1.1). When the
 * final answer is known already it is given at once, and the connection ends: nobody knows whether
 * the content still comes.
 */
static void answer_expectation(struct conn *c) {
    struct http_request *req = &c->x.req;
    if (!c->has_head || !req->expects || c->continued || c->in.len > req->head_bytes)
        return;
    c->continued = true;
    struct http_refusal bad = req->refusal;
    if (bad.status == 0)
        bad = c->server->judge(c->server->ctx, req);
    if (bad.status) {
        refuse(c, &bad);
        return;
    }
    buf_add_str(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
    conn_dirty(c);
}

static enum http_result parse_one(struct conn *c, size_t *body_len, size_t *end) {
    struct http_refusal bad = {0};
    enum http_result rc = HTTP_DONE;
    if (!c->has_head) {
        rc = http_head_parse(&c->progress, c->in.data, c->in.len, &c->x.req, &bad);
        if (rc == HTTP_DONE) {
            c->has_head = true;
            c->base = c->in.data;
        }
    }
    if (rc == HTTP_DONE)
        rc = http_body_parse(&c->progress, &c->x.req, c->in.data, c->in.len,
                             c->server->limits.body_bytes, body_len, end, &bad);
    if (rc == HTTP_BAD)
        refuse(c, &bad);
    return rc;
}

/* Takes one request out of `in`; false when it is not whole yet. */
static bool conn_parse(struct conn *c) {
    size_t body_len = 0, end = 0;
    switch (parse_one(c, &body_len, &end)) {
    case HTTP_DONE:
        dispatch(c, body_len, end);
        return true;
    case HTTP_BAD:
        return true;
    case HTTP_MORE:
        break;
    }
    if (c->has_head)
        c->in.len = http_body_compact(&c->progress, &c->x.req, c->in.data, c->in.len);
    if (!c->in_request) {
        c->in_request = true;
        conn_deadline(c, c->server->limits.request_timeout_ms);
    }
    answer_expectation(c);
    return false;
}

/* Takes requests one after the other, in order, while there is room for their answers. */
static void conn_serve(struct conn *c) {
    c->starved = false;
    while (c->state == READING && !c->close_after && c->answers < PIPELINE_MAX &&
           c->out.len < OUT_PAUSE) {
        if (c->in.len == 0 || !conn_parse(c)) {
            c->starved = true;
            return;
        }
    }
}

/* Reads what there is, within the bound; what is beyond waits in the kernel. */
static void conn_read(struct conn *c) {
    buf_borrow(&c->in, &c->server->ins);
    size_t want = c->in.len < IN_BYTES / 2 ? IN_BYTES / 2 : c->in.len;
    if (want > c->in.max - c->in.len)
        want = c->in.max - c->in.len;
    if (want == 0 || buf_reserve(&c->in, want) < 0) { /* without memory nobody is served */
        conn_close(c);
        return;
    }
    ssize_t n = recv(c->io.fd, c->in.data + c->in.len, c->in.cap - c->in.len, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        conn_close(c);
        return;
    }
    if (n == 0) { /* half-closed: it still gets its answers */
        c->peer_done = true;
        conn_flush(c);
        return;
    }
    c->in.len += (size_t)n;
    conn_serve(c);
    conn_watch(c, (c->io.events & EPOLLOUT) != 0);
}

/* What comes after the last answer is thrown away. */
static void conn_discard(struct conn *c) {
    char bytes[4096];
    ssize_t n = recv(c->io.fd, bytes, sizeof bytes, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        conn_close(c);
}

static void on_conn(void *p, uint32_t events) {
    struct conn *c = p;
    if (events & EPOLLERR) { /* reset, or gone: nobody reads an answer any more */
        conn_close(c);
        return;
    }
    if (events & EPOLLOUT)
        conn_flush(c);
    if (c->io.fd < 0 || !(c->io.events & EPOLLIN) || !(events & (EPOLLIN | EPOLLHUP)))
        return;
    if (c->state == LINGERING)
        conn_discard(c);
    else
        conn_read(c);
}

static void on_deadline(void *p) {
    static const struct http_refusal late = {408, "the request did not arrive in time", NULL};
    struct conn *c = p;
    int64_t now_ms = loop_now_ms(c->server->loop), due_ms = conn_due_ms(c);
    if (due_ms == 0)
        return;
    if (due_ms > now_ms) {
        conn_arm(c);
    } else if (due_ms == c->output_due_ms || c->state != READING || !c->in_request) {
        conn_close(c);
    } else {
        if (!c->has_head)
            c->x.req.method = http_is_head(c->in.data, c->in.len) ? HTTP_HEAD : HTTP_OTHER;
        conn_deadline(c, LINGER_MS);
        refuse(c, &late);
    }
}

/* ---- accepting ---- */

/* One word to a client that has too many connections; it gets no place to wait in. */
static void turn_away(struct http_server *s, int fd) {
    static const char body[] = "{\"error\": \"this address has too many connections\"}";
    char text[512];
    int n = snprintf(text, sizeof text,
                     "HTTP/1.1 503 Service Unavailable\r\nDate: %s\r\nContent-Type: "
                     "application/json\r\nContent-Length: %zu\r\nRetry-After: 1\r\n"
                     "Connection: close\r\n\r\n%s",
                     date_now(s), sizeof body - 1, body);
    (void)!send(fd, text, (size_t)n, MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    (void)!recv(fd, text, sizeof text, 0); /* unread bytes would make the close a reset */
    close(fd);
}

static void conn_new(struct http_server *s, int fd, struct peer *peer) {
    struct conn *c = calloc(1, sizeof *c);
    if (!c) {
        peers_remove(s->peers, peer);
        close(fd);
        return;
    }
    c->peer = peer;
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one,
               sizeof one); /* fails on unix sockets: no matter */
    c->server = s;
    c->io = (struct loop_io){.fd = fd, .ready = on_conn, .ctx = c};
    c->timer = (struct loop_timer){.fire = on_deadline, .ctx = c};
    buf_init(&c->in, HTTP_HEAD_MAX + s->limits.body_bytes + IN_SLACK);
    buf_init(&c->out, OUT_MAX);
    c->next = &s->conns;
    c->prev = s->conns.prev;
    s->conns.prev->next = c;
    s->conns.prev = c;
    s->n_conns++;
    if (loop_io_set(s->loop, &c->io, EPOLLIN) < 0)
        conn_close(c);
    else
        conn_deadline(c, s->limits.idle_timeout_ms);
}

static void on_accept(void *p, uint32_t events) {
    struct listener *l = p;
    struct http_server *s = l->server;
    (void)events;
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        if (s->n_conns >= s->limits.connections) {
            listeners_set(s, false); /* conn_close sets them on again */
            return;
        }
        struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
        socklen_t len = sizeof address;
        int fd = accept4(l->io.fd, (struct sockaddr *)&address, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            struct peer *peer = NULL;
            if (peers_add(s->peers, &address, &peer) < 0)
                turn_away(s, fd);
            else
                conn_new(s, fd, peer);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            listeners_set(s, false); /* go on serving those that are in */
            loop_timer_set(s->loop, &s->resume, loop_now_ms(s->loop) + ACCEPT_PAUSE_MS);
            return;
        }
        if (errno != EINTR && errno != ECONNABORTED)
            return;
    }
}

static void on_resume(void *p) {
    struct http_server *s = p;
    if (!s->draining)
        listeners_set(s, true);
}

struct http_server *http_server_new(struct loop *loop, const struct http_limits *limits,
                                    http_handler_fn *handler, http_judge_fn *judge, void *ctx) {
    struct http_server *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->loop = loop;
    s->limits = *limits;
    s->handler = handler;
    s->judge = judge;
    s->ctx = ctx;
    s->conns.next = s->conns.prev = &s->conns;
    s->flush = (struct loop_deferred){.call = on_flush, .ctx = s};
    s->resume = (struct loop_timer){.fire = on_resume, .ctx = s};
    if (limits->connections_per_address &&
        !(s->peers = peers_new(limits->connections_per_address))) {
        free(s);
        return NULL;
    }
    s->ins.bytes = IN_BYTES;
    s->outs.bytes = OUT_BYTES;
    return s;
}

int http_server_listen(struct http_server *s, int fd) {
    assert(s->n_listeners < LISTENERS_MAX);
    struct listener *l = &s->listeners[s->n_listeners++];
    *l = (struct listener){.server = s, .io = {.fd = fd, .ready = on_accept, .ctx = l}};
    return loop_io_set(s->loop, &l->io, EPOLLIN);
}

void http_server_drain(struct http_server *s, void (*drained)(void *ctx), void *ctx) {
    s->draining = true;
    s->drained = drained;
    s->drained_ctx = ctx;
    listeners_set(s, false);
    for (struct conn *c = s->conns.next, *next; c != &s->conns; c = next) {
        next = c->next;
        if (c->state == READING && c->in.len == 0 && c->out.len == 0)
            conn_close(c);
        else if (c->state == READING && c->in_request)
            conn_deadline(c, LINGER_MS); /* half a request must not hold up the next process */
        else
            c->close_after |= c->state == HANDLING;
    }
    loop_defer(s->loop, &s->flush);
}

void http_server_free(struct http_server *s) {
    if (!s)
        return;
    while (s->conns.next != &s->conns) {
        struct conn *c = s->conns.next;
        if (c->state == HANDLING)
            c->state = READING;
        conn_close(c);
    }
    s->drained = NULL;
    on_flush(s);
    listeners_set(s, false);
    loop_timer_cancel(s->loop, &s->resume);
    peers_free(s->peers);
    spares_release(&s->ins);
    spares_release(&s->outs);
    free(s);
}
