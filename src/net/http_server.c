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

enum {
    LISTENERS_MAX = 4,
    ACCEPT_BATCH = 64,     /* per turn, so that those who are in are served meanwhile */
    ACCEPT_PAUSE_MS = 100, /* when descriptors are used up */
    OUT_MAX = 256 * 1024,  /* one answer and what a slow reader left */
    OUT_PAUSE = 64 * 1024, /* past it no further request is taken from this client */
    IN_SLACK = 4096,       /* what may come behind a request before it is answered */
    LINGER_MS = 1000,      /* to let the client read a refusal before the socket goes */
    DATE_BYTES = 64,
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
    enum conn_state state;
    struct loop_io io;
    struct loop_timer timer;
    int64_t deadline_ms; /* 0: none */
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
    struct loop_deferred flush;
    struct loop_timer resume;
    bool paused, draining;
    void (*drained)(void *ctx);
    void *drained_ctx;
    time_t date_s;
    char date[DATE_BYTES];
    struct spares ins, outs;
};

static void conn_parse(struct conn *c);

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
    if (s->paused && !s->draining && s->resume.slot == 0)
        listeners_set(s, true);
}

static void conn_deadline(struct conn *c, int64_t timeout_ms) {
    c->deadline_ms = loop_now_ms(c->server->loop) + timeout_ms;
    /* An earlier timer finds out by itself; only one that is too late must be moved. */
    if (c->timer.slot == 0 || c->timer.due_ms > c->deadline_ms)
        loop_timer_set(c->server->loop, &c->timer, c->deadline_ms);
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

static void conn_flush(struct conn *c) {
    if (c->io.fd < 0 || c->state == LINGERING)
        return;
    while (c->out.len) {
        ssize_t n = send(c->io.fd, c->out.data, c->out.len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            conn_close(c);
            return;
        }
        if (n < 0) {
            loop_io_set(c->server->loop, &c->io, c->io.events | EPOLLOUT);
            return;
        }
        buf_consume(&c->out, (size_t)n);
    }
    uint32_t wanted = c->peer_done ? 0 : EPOLLIN;
    if (c->io.events != wanted && c->in.len < c->in.max)
        loop_io_set(c->server->loop, &c->io, wanted);
    if (!c->close_after && c->state == READING && c->in.len) /* pipelined behind the answered one */
        conn_parse(c);
    if (c->state != READING || c->out.len)
        return;
    if (c->peer_done && !c->close_after) {
        conn_close(c);
    } else if (c->close_after) {
        conn_linger(c);
    } else if (!c->in_request) { /* idle: costs no buffers */
        buf_hand_back(&c->out, &c->server->outs);
        if (c->in.len == 0)
            buf_hand_back(&c->in, &c->server->ins);
    }
}

static void on_flush(void *p) {
    struct http_server *s = p;
    while (s->dirty) {
        struct conn *c = s->dirty;
        s->dirty = c->dirty;
        c->is_dirty = false;
        if (c->state != CLOSED)
            conn_flush(c);
    }
    while (s->dead && !s->dirty) {
        struct conn *c = s->dead;
        s->dead = c->next;
        buf_hand_back(&c->in, &s->ins);
        free(c);
    }
    check_drained(s);
}

/* ---- answers ---- */

static const char *reason(int status) {
    switch (status) {
    case 200:
        return "OK";
    case 204:
        return "No Content";
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
    write_reply(c, bad->status, "application/json", (struct str_view){b.data, b.len}, bad->extra,
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
    write_reply(c, status, type, body, extra, x->req.method == HTTP_HEAD);
    buf_consume(&c->in, c->request_end); /* views of the request end here */
    conn_deadline(c, c->server->limits.idle_timeout_ms);
}

void http_reply_error(struct http_exchange *x, int status, const char *sentence,
                      const char *extra) {
    struct buf b;
    buf_init(&b, 8192);
    buf_add_str(&b, "{\"error\": ");
    buf_add_json(&b, str_view(sentence));
    buf_add_str(&b, "}");
    http_reply(x, status, "application/json", (struct str_view){b.data, b.len}, extra);
    buf_release(&b);
}

/* ---- requests ---- */

/* The buffer may have moved since the head was parsed. */
static void rebase(struct str_view *v, const char *from, const char *to) {
    if (v->ptr && v->ptr >= from && v->ptr < from + HTTP_HEAD_MAX)
        v->ptr = to + (v->ptr - from);
}

static void dispatch(struct conn *c, size_t body_len, size_t end) {
    struct http_request *req = &c->x.req;
    const char *old = c->base;
    if (old != c->in.data) {
        rebase(&req->path, old, c->in.data);
        rebase(&req->query, old, c->in.data);
        rebase(&req->content_type, old, c->in.data);
    }
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

static void conn_parse(struct conn *c) {
    if (c->state != READING || c->close_after || c->in.len == 0)
        return;
    size_t body_len = 0, end = 0;
    switch (parse_one(c, &body_len, &end)) {
    case HTTP_DONE:
        dispatch(c, body_len, end);
        return;
    case HTTP_BAD:
        return;
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
}

static void conn_eof(struct conn *c) {
    c->peer_done = true;
    if (c->state == HANDLING || c->out.len) { /* half-closed: it still gets its answers */
        loop_io_set(c->server->loop, &c->io, c->io.events & EPOLLOUT);
        return;
    }
    conn_close(c);
}

/* Reads what there is, within the bound; what is beyond waits in the kernel. */
static void conn_read(struct conn *c) {
    char drain[4096];
    bool lingering = c->state == LINGERING;
    if (!lingering) {
        buf_borrow(&c->in, &c->server->ins);
        size_t want = c->in.len < IN_BYTES / 2 ? IN_BYTES / 2 : c->in.len;
        if (want > c->in.max - c->in.len)
            want = c->in.max - c->in.len;
        if (want == 0 || buf_reserve(&c->in, want) < 0) {
            loop_io_set(c->server->loop, &c->io, c->io.events & ~(uint32_t)EPOLLIN);
            return;
        }
    }
    ssize_t n = lingering ? recv(c->io.fd, drain, sizeof drain, 0)
                          : recv(c->io.fd, c->in.data + c->in.len, c->in.cap - c->in.len, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        if (n == 0 && !lingering)
            conn_eof(c);
        else
            conn_close(c);
        return;
    }
    if (lingering)
        return;
    c->in.len += (size_t)n;
    conn_parse(c);
}

static void on_conn(void *p, uint32_t events) {
    struct conn *c = p;
    if (events & EPOLLOUT) {
        conn_flush(c);
        if (c->io.fd >= 0 && c->out.len < OUT_PAUSE)
            conn_parse(c);
    }
    if (c->io.fd >= 0 && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        conn_read(c);
}

static void on_deadline(void *p) {
    static const struct http_refusal late = {408, "the request did not arrive in time", NULL};
    struct conn *c = p;
    if (c->deadline_ms == 0)
        return;
    if (c->deadline_ms > loop_now_ms(c->server->loop)) {
        loop_timer_set(c->server->loop, &c->timer, c->deadline_ms);
        return;
    }
    if (c->state == READING && c->in_request) {
        conn_deadline(c, LINGER_MS);
        if (!c->has_head)
            c->x.req.method = http_is_head(c->in.data, c->in.len) ? HTTP_HEAD : HTTP_OTHER;
        refuse(c, &late);
    } else {
        conn_close(c);
    }
}

/* ---- accepting ---- */

static void conn_new(struct http_server *s, int fd) {
    struct conn *c = calloc(1, sizeof *c);
    if (!c) {
        close(fd);
        return;
    }
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
        int fd = accept4(l->io.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            conn_new(s, fd);
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
    spares_release(&s->ins);
    spares_release(&s->outs);
    free(s);
}
