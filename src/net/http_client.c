#include "net/http_client.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
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

enum {
    ANSWER_BYTES = 20 * 1024, /* a job's JSON and its head */
    HOST_BYTES = 256,
    REQUEST_BYTES = 1024,
};

struct http_client {
    char host[HOST_BYTES]; /* or the socket's path */
    char port[8];          /* "" for a unix socket */
    int fd;
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
    c->fd = -1;
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

static void hang_up(struct http_client *c) {
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

void http_client_free(struct http_client *c) {
    if (!c)
        return;
    hang_up(c);
    free(c);
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

static int connect_to(struct http_client *c, const struct sockaddr *addr, socklen_t len,
                      int64_t deadline_ms) {
    c->fd = socket(addr->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return -errno;
    int rc = connect(c->fd, addr, len) == 0 ? 0 : -errno;
    if (rc == -EINPROGRESS) {
        int error = 0;
        socklen_t n = sizeof error;
        rc = wait_for(c->fd, POLLOUT, deadline_ms);
        if (rc == 0 && getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &n) == 0)
            rc = -error;
    }
    if (rc < 0)
        hang_up(c);
    return rc;
}

static int dial(struct http_client *c, int64_t deadline_ms) {
    if (!c->port[0]) {
        struct sockaddr_un un = {.sun_family = AF_UNIX};
        memcpy(un.sun_path, c->host, strlen(c->host) + 1);
        return connect_to(c, (struct sockaddr *)&un, sizeof un, deadline_ms);
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
    if (getaddrinfo(c->host, c->port, &hints, &list) != 0)
        return -EHOSTUNREACH;
    int rc = -EHOSTUNREACH;
    for (struct addrinfo *a = list; a && rc < 0; a = a->ai_next)
        rc = connect_to(c, a->ai_addr, a->ai_addrlen, deadline_ms);
    freeaddrinfo(list);
    int one = 1;
    if (rc == 0)
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return rc;
}

static int send_all(struct http_client *c, const char *data, size_t len, int64_t deadline_ms) {
    while (len) {
        ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            int rc = wait_for(c->fd, POLLOUT, deadline_ms);
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

/* One exchange on an open line. -ECONNRESET when it closed before a byte of the answer came. */
static int exchange(struct http_client *c, const char *request, size_t len, int64_t deadline_ms) {
    char answer[ANSWER_BYTES + 1];
    size_t got = 0;
    int status = 0;
    bool keep = false;
    struct str_view body;
    int rc = send_all(c, request, len, deadline_ms);
    while (rc == 0) {
        ssize_t n = recv(c->fd, answer + got, ANSWER_BYTES - got, 0);
        if (n > 0) {
            got += (size_t)n;
            rc = answer_done(answer, got, &status, &keep, &body);
            if (rc == 0 && got == ANSWER_BYTES)
                rc = -EPROTO;
        } else if (n < 0 && errno == EAGAIN) {
            rc = wait_for(c->fd, POLLIN, deadline_ms);
        } else if (n == 0 || errno != EINTR) {
            rc = got ? -EPROTO : -ECONNRESET;
        }
    }
    if (rc < 0 || !keep)
        hang_up(c);
    return rc < 0 ? rc : status;
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

int http_client_post(struct http_client *c, const char *path, const char *form,
                     int64_t timeout_ms) {
    char request[REQUEST_BYTES];
    int64_t deadline_ms = clock_mono_ms() + timeout_ms;
    int n = write_request(c, request, path, form);
    if (n < 0)
        return n;
    for (bool kept = c->fd >= 0;; kept = false) {
        int rc = c->fd >= 0 ? 0 : dial(c, deadline_ms);
        if (rc == 0)
            rc = exchange(c, request, (size_t)n, deadline_ms);
        if (!kept || (rc != -ECONNRESET && rc != -EPIPE))
            return rc;
    }
}

/* Reads one answer behind what `in` holds already and takes it out. -ECONNRESET: it closed. */
static int next_answer(struct http_client *c, struct buf *in, int64_t deadline_ms, size_t i,
                       http_answer_fn *answer, void *ctx, bool *keep) {
    for (;;) {
        int status = 0;
        struct str_view body = {NULL, 0};
        int rc = buf_reserve(in, 1); /* for the NUL */
        if (rc == 0)
            rc = in->len ? answer_done(in->data, in->len, &status, keep, &body) : 0;
        if (rc == 1) {
            answer(ctx, i, status, body);
            buf_consume(in, (size_t)(body.ptr + body.len - in->data));
            return 0;
        }
        if (rc == 0)
            rc = buf_reserve(in, 4096);
        if (rc < 0)
            return rc;
        ssize_t n = recv(c->fd, in->data + in->len, in->cap - in->len - 1, 0);
        if (n > 0)
            in->len += (size_t)n;
        else if (n < 0 && errno == EAGAIN)
            rc = wait_for(c->fd, POLLIN, deadline_ms);
        else if (n == 0 || errno != EINTR)
            rc = n == 0 ? -ECONNRESET : -errno;
        if (rc < 0)
            return rc;
    }
}

int http_client_post_many(struct http_client *c, const char *path, const char *const *forms,
                          size_t n, int64_t timeout_ms, http_answer_fn *answer, void *ctx) {
    char request[REQUEST_BYTES];
    int64_t deadline_ms = clock_mono_ms() + timeout_ms;
    struct buf out, in;
    bool keep = true;
    int rc = c->fd >= 0 ? 0 : dial(c, deadline_ms);
    size_t done = 0;
    buf_init(&out, n * REQUEST_BYTES);
    buf_init(&in, 256 * 1024);
    for (size_t i = 0; i < n && rc == 0; i++) {
        int len = write_request(c, request, path, forms[i]);
        rc = len < 0 ? len : buf_add(&out, request, (size_t)len);
    }
    if (rc == 0)
        rc = send_all(c, out.data, out.len, deadline_ms);
    while (rc == 0 && done < n && keep) {
        rc = next_answer(c, &in, deadline_ms, done, answer, ctx, &keep);
        done += rc == 0 ? 1 : 0;
    }
    if (rc < 0 || !keep)
        hang_up(c);
    buf_release(&out);
    buf_release(&in);
    return done ? (int)done : rc;
}
