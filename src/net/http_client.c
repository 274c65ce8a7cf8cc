#include "net/http_client.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/url.h"
#include "net/resolve.h"

enum {
    ANSWER_BYTES = 20 * 1024, /* a job's JSON and its head */
    HOST_BYTES = 256,
    REQUEST_BYTES = 1024,
    ADDRESS_MS = 500, /* to connect to one address, when the name has others */
};

/* A connection, kept open while the server does, and the exchange on it. */
struct line {
    int fd;
    bool kept; /* it was open before this exchange: the server may have closed it meanwhile */
    size_t form, got;
    struct str_view body; /* of the last answer, in `answer` */
    char answer[ANSWER_BYTES + 1];
};

struct http_client {
    char host[HOST_BYTES];                 /* or the socket's path */
    char port[8];                          /* "" for a unix socket */
    struct name_lookup names;              /* of the host, */
    char reached[ADDRESS_BYTES];           /* and its address that was reached last, or "" */
    struct line *lines[HTTP_CLIENT_LINES]; /* made when first needed */
};

int http_client_new(const char *url, struct http_client **out) {
    struct url u;
    if (url_parse(str_view(url), &u) < 0)
        return -EINVAL;
    bool is_unix = str_is_nocase(u.scheme, "http+unix");
    if ((!is_unix && !str_is_nocase(u.scheme, "http")) || u.user.len)
        return -EINVAL;
    struct str_view where = is_unix ? u.path : u.host;
    struct http_client *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    if (where.len == 0 || url_decode(where, c->host, sizeof c->host) < 0 ||
        (is_unix && strlen(c->host) >= sizeof((struct sockaddr_un *)0)->sun_path)) {
        free(c);
        return -EINVAL;
    }
    if (!is_unix)
        snprintf(c->port, sizeof c->port, "%d", u.port ? u.port : 80);
    *out = c;
    return 0;
}

static void hang_up(struct line *l) {
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
}

void http_client_free(struct http_client *c) {
    if (!c)
        return;
    for (size_t i = 0; i < HTTP_CLIENT_LINES; i++) {
        if (c->lines[i])
            hang_up(c->lines[i]);
        free(c->lines[i]);
    }
    name_lookup_release(&c->names);
    free(c);
}

/* The i-th line, or NULL when out of memory. */
static struct line *line_at(struct http_client *c, size_t i) {
    if (!c->lines[i] && (c->lines[i] = malloc(sizeof *c->lines[i])))
        c->lines[i]->fd = -1;
    return c->lines[i];
}

/* Waits until `events` or the deadline. Signals do not end it: the answer decides what comes next.
 */
static int wait_for(int fd, short events, int64_t deadline_ms) {
    for (;;) {
        int64_t left = deadline_ms - clock_mono_ms();
        if (left <= 0)
            return -ETIMEDOUT;
        struct pollfd p = {.fd = fd, .events = events};
        int n = poll(&p, 1, (int)left);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
    }
}

static int connect_to(struct line *l, const struct sockaddr *addr, socklen_t len,
                      int64_t deadline_ms) {
    l->fd = socket(addr->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (l->fd < 0)
        return -errno;
    int rc = connect(l->fd, addr, len) == 0 ? 0 : -errno;
    if (rc == -EINPROGRESS) {
        int error = 0;
        socklen_t n = sizeof error;
        rc = wait_for(l->fd, POLLOUT, deadline_ms);
        if (rc == 0 && getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &error, &n) == 0)
            rc = -error;
    }
    if (rc < 0)
        hang_up(l);
    return rc;
}

/* The lines of a group are opened one by one: each would wait for the address that does not answer.
 */
static void put_reached_first(const struct http_client *c, struct addresses *found) {
    for (size_t i = 1; i < found->n; i++) {
        if (strcmp(found->at[i], c->reached) != 0)
            continue;
        memcpy(found->at[i], found->at[0], ADDRESS_BYTES);
        memcpy(found->at[0], c->reached, ADDRESS_BYTES);
    }
}

static int dial(struct http_client *c, struct line *l, int64_t deadline_ms) {
    if (!c->port[0]) {
        struct sockaddr_un un = {.sun_family = AF_UNIX};
        memcpy(un.sun_path, c->host, strlen(c->host) + 1);
        return connect_to(l, (struct sockaddr *)&un, sizeof un, deadline_ms);
    }
    struct addresses found;
    struct sockaddr_storage at;
    int rc = resolve_wait(c->host, deadline_ms, &c->names, &found, NULL);
    if (rc < 0)
        return rc;
    put_reached_first(c, &found);
    rc = -EHOSTUNREACH;
    for (size_t i = 0; i < found.n && rc < 0; i++) {
        int64_t until_ms = deadline_ms, share_ms = clock_mono_ms() + ADDRESS_MS;
        socklen_t len = address_socket(found.at[i], atoi(c->port), &at);
        if (i + 1 < found.n && share_ms < until_ms)
            until_ms = share_ms; /* the last one may have all the time that is left */
        rc = connect_to(l, (struct sockaddr *)&at, len, until_ms);
        if (rc == 0)
            memcpy(c->reached, found.at[i], ADDRESS_BYTES);
    }
    int one = 1;
    if (rc == 0)
        setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return rc;
}

static int send_all(struct line *l, const char *data, size_t len, int64_t deadline_ms) {
    while (len) {
        ssize_t n = send(l->fd, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            int rc = wait_for(l->fd, POLLOUT, deadline_ms);
            if (rc < 0)
                return rc;
        } else if (n < 0 && errno != EINTR) {
            return -errno;
        } else if (n > 0) {
            data += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

/* The value of a header field in a NUL-terminated head, or NULL. */
static const char *field(const char *head, const char *name) {
    size_t n = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, n) == 0 && line[2 + n] == ':')
            return line + 3 + n + strspn(line + 3 + n, " \t");
    return NULL;
}

/* Whether the answer is whole: 1, 0 (read on), or -EPROTO. Sets its status, whether to keep the
 * line, and its content, which ends the answer. */
static int answer_done(char *data, size_t len, int *status, bool *keep, struct str_view *body) {
    data[len] = '\0';
    if (len >= 9 && memcmp(data, "HTTP/1.", 7) != 0)
        return -EPROTO;
    char *end = strstr(data, "\r\n\r\n");
    if (!end)
        return 0;
    struct str_view code = {data + 9, 3};
    uint64_t n, length;
    if (end - data < 12 || str_u64(code, 599, &n) < 0 || n < 100)
        return -EPROTO;
    *status = (int)n;
    *end = '\0';
    const char *length_text = field(data, "Content-Length");
    const char *connection = field(data, "Connection");
    *keep = length_text && !(connection && strncasecmp(connection, "close", 5) == 0);
    size_t digits = length_text ? strspn(length_text, "0123456789") : 0;
    int rc = 1; /* without a length nothing of the content is needed: hang up */
    *body = (struct str_view){end + 4, 0};
    if (length_text) {
        if (str_u64((struct str_view){length_text, digits}, ANSWER_BYTES, &length) < 0)
            rc = -EPROTO;
        else
            rc = len - (size_t)(end + 4 - data) >= length;
        body->len = rc == 1 ? (size_t)length : 0;
    }
    *end = '\r';
    return rc;
}

/* The request as text: its length, or -EMSGSIZE. */
static int write_request(const struct http_client *c, char out[REQUEST_BYTES], const char *path,
                         const char *form) {
    bool v6 = strchr(c->host, ':') != NULL;
    int n =
        snprintf(out, REQUEST_BYTES,
                 "POST %s HTTP/1.1\r\nHost: %s%s%s\r\n"
                 "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %zu\r\n\r\n%s",
                 path, c->port[0] && v6 ? "[" : "", c->port[0] ? c->host : "localhost",
                 c->port[0] && v6 ? "]" : "", strlen(form), form);
    return n < 0 || n >= REQUEST_BYTES ? -EMSGSIZE : n;
}

/* Sends the request of a form over the line, opening it when it is not. */
static int start(struct http_client *c, struct line *l, const char *path, const char *const *forms,
                 size_t form, int64_t deadline_ms) {
    char request[REQUEST_BYTES];
    int n = write_request(c, request, path, forms[form]);
    if (n < 0)
        return n;
    l->form = form;
    l->got = 0;
    for (l->kept = l->fd >= 0;; l->kept = false) {
        int rc = l->fd >= 0 ? 0 : dial(c, l, deadline_ms);
        if (rc == 0)
            rc = send_all(l, request, (size_t)n, deadline_ms);
        if (rc < 0)
            hang_up(l);
        if (!l->kept || (rc != -ECONNRESET && rc != -EPIPE))
            return rc;
    }
}

/* Reads what is there: the status once the answer is whole, 0 before, -ECONNRESET when the line
 * closed before a byte of it came, or another -errno. */
static int receive(struct line *l) {
    bool keep = false;
    int status = 0;
    ssize_t n = recv(l->fd, l->answer + l->got, ANSWER_BYTES - l->got, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    int rc = l->got || n > 0 ? -EPROTO : -ECONNRESET;
    if (n > 0) {
        l->got += (size_t)n;
        rc = answer_done(l->answer, l->got, &status, &keep, &l->body);
        if (rc == 0 && l->got == ANSWER_BYTES)
            rc = -EPROTO;
    }
    if (rc < 0 || (rc == 1 && !keep))
        hang_up(l);
    return rc == 1 ? status : rc;
}

/* Takes what came on one of the busy lines. True when its exchange is over, with its answer set; a
 * kept line that turned out to be closed is opened anew once. */
static bool answered(struct http_client *c, struct line *l, const char *path,
                     const char *const *forms, int64_t deadline_ms, int *answers) {
    int rc = receive(l);
    if (rc == -ECONNRESET && l->kept)
        rc = start(c, l, path, forms, l->form, deadline_ms);
    if (rc != 0)
        answers[l->form] = rc;
    return rc != 0;
}

/* Waits until one of the busy lines has something to read. 0 or -errno; what has come is there to
 * be read after the deadline too. */
static int wait_for_any(struct line *const *busy, size_t n, struct pollfd *p, int64_t deadline_ms) {
    for (size_t i = 0; i < n; i++)
        p[i] = (struct pollfd){.fd = busy[i]->fd, .events = POLLIN};
    for (;;) {
        int64_t left = deadline_ms - clock_mono_ms();
        int ready = poll(p, n, left > 0 ? (int)left : 0);
        if (ready > 0)
            return 0;
        if (ready == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
    }
}

void http_client_post_each(struct http_client *c, const char *path, const char *const *forms,
                           size_t n, int64_t timeout_ms, int *answers, http_said_fn *said,
                           void *ctx) {
    struct line *busy[HTTP_CLIENT_LINES], *idle[HTTP_CLIENT_LINES];
    struct pollfd p[HTTP_CLIENT_LINES];
    int64_t deadline_ms = clock_mono_ms() + timeout_ms;
    size_t n_idle = 0, n_busy = 0, next = 0;
    while (n_idle < n && n_idle < HTTP_CLIENT_LINES && (idle[n_idle] = line_at(c, n_idle)))
        n_idle++;
    int rc = n_idle ? -ETIMEDOUT : -ENOMEM; /* what is to be said of those without an answer */
    for (;;) {
        while (next < n && n_idle && clock_mono_ms() < deadline_ms) {
            int started = start(c, idle[--n_idle], path, forms, next, deadline_ms);
            if (started == 0) {
                busy[n_busy++] = idle[n_idle];
                next++;
            } else {
                rc = started; /* that line is given up: another may carry the form */
            }
        }
        if (n_busy == 0)
            break;
        int ready = wait_for_any(busy, n_busy, p, deadline_ms);
        if (ready < 0) {
            rc = ready;
            break;
        }
        for (size_t i = n_busy; i-- > 0;) {
            if (p[i].revents == 0 || !answered(c, busy[i], path, forms, deadline_ms, answers))
                continue;
            if (said && answers[busy[i]->form] > 0)
                said(ctx, busy[i]->form, busy[i]->body);
            idle[n_idle++] = busy[i];
            busy[i] = busy[--n_busy];
        }
    }
    for (size_t i = 0; i < n_busy; i++) { /* what is answered now would be taken for another's */
        answers[busy[i]->form] = rc;
        hang_up(busy[i]);
    }
    while (next < n)
        answers[next++] = rc;
}

int http_client_post(struct http_client *c, const char *path, const char *form,
                     int64_t timeout_ms) {
    int answer;
    http_client_post_each(c, path, &form, 1, timeout_ms, &answer, NULL, NULL);
    return answer;
}

/* Reads one answer behind what `in` holds already and takes it out. -ECONNRESET: it closed. */
static int next_answer(struct line *l, struct buf *in, int64_t deadline_ms, http_answer_fn *answer,
                       void *ctx, bool *keep) {
    for (;;) {
        int status = 0;
        struct str_view body = {NULL, 0};
        int rc = buf_reserve(in, 1); /* for the NUL */
        if (rc == 0)
            rc = in->len ? answer_done(in->data, in->len, &status, keep, &body) : 0;
        if (rc == 1) {
            answer(ctx, status, body);
            buf_consume(in, (size_t)(body.ptr + body.len - in->data));
            return 0;
        }
        if (rc == 0)
            rc = buf_reserve(in, 4096);
        if (rc < 0)
            return rc;
        ssize_t n = recv(l->fd, in->data + in->len, in->cap - in->len - 1, 0);
        if (n > 0)
            in->len += (size_t)n;
        else if (n < 0 && errno == EAGAIN)
            rc = wait_for(l->fd, POLLIN, deadline_ms);
        else if (n == 0 || errno != EINTR)
            rc = n == 0 ? -ECONNRESET : -errno;
        if (rc < 0)
            return rc;
    }
}

/* All requests of a batch, over a line that is opened when it is not. 0 or -errno. */
static int send_batch(struct http_client *c, struct line *l, const char *path,
                      const struct http_client_batch *batch, int64_t deadline_ms) {
    char request[REQUEST_BYTES];
    struct buf out;
    int rc = l->fd >= 0 ? 0 : dial(c, l, deadline_ms);
    buf_init(&out, batch->n * REQUEST_BYTES);
    for (size_t i = 0; i < batch->n && rc == 0; i++) {
        int len = write_request(c, request, path, batch->forms[i]);
        rc = len < 0 ? len : buf_add(&out, request, (size_t)len);
    }
    if (rc == 0)
        rc = send_all(l, out.data, out.len, deadline_ms);
    if (rc < 0)
        hang_up(l);
    buf_release(&out);
    return rc;
}

/* How many of a batch that was sent are answered, or -errno when none is. */
static int take_answers(struct line *l, size_t n, int64_t deadline_ms, http_answer_fn *answer,
                        void *ctx) {
    struct buf in;
    bool keep = true;
    int rc = 0, done = 0;
    buf_init(&in, 256 * 1024);
    while ((size_t)done < n && keep && rc == 0) {
        rc = next_answer(l, &in, deadline_ms, answer, ctx, &keep);
        done += rc == 0 ? 1 : 0;
    }
    if (rc < 0 || !keep)
        hang_up(l);
    buf_release(&in);
    return done ? done : rc;
}

void http_client_post_many(struct http_client *c, const char *path,
                           struct http_client_batch *batches, size_t n, int64_t timeout_ms,
                           http_answer_fn *answer, void *ctx) {
    int64_t deadline_ms = clock_mono_ms() + timeout_ms;
    for (size_t i = 0; i < n; i++) {
        struct http_client_batch *b = &batches[i];
        struct line *l = b->n ? line_at(c, i) : NULL;
        b->answered = l ? send_batch(c, l, path, b, deadline_ms) : b->n ? -ENOMEM : 0;
    }
    /* the answers that come meanwhile on the other lines wait in the system's buffers */
    for (size_t i = 0; i < n; i++)
        if (batches[i].n && batches[i].answered == 0)
            batches[i].answered = take_answers(c->lines[i], batches[i].n, deadline_ms, answer, ctx);
}
