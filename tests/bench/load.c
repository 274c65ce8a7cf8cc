/*
 * load: posts at a fixed mean rate, whatever the answers take (an open loop), and says how long each took.
 *
 *   load HOST PORT RATE SECONDS CONNECTIONS CONTENTS COUNT_MAX
 *
 * Posts come at random instants (exponential gaps), each on a connection that is free; when none is, it waits, and
 * its time counts from the instant it was due, so that a server that stalls cannot hide it. The one line written:
 * posts, errors, microseconds at 50 %, 99 %, 99.9 % and 100 %, nanoseconds of CPU used here.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 1024, ANSWER_MAX = 4096, GRACE_S = 5 };

struct conn {
    int fd;
    double due_s; /* of the post under way; 0: free */
    size_t len;
    char answer[ANSWER_MAX];
};

struct load {
    int epoll_fd;
    size_t n_conns, n_free, contents, count_max;
    struct conn conns[CONNECTIONS_MAX];
    struct conn *unused[CONNECTIONS_MAX];
    double *due_s; /* when each post is due, ascending */
    uint32_t *took_us;
    size_t n, sent, answered, errors;
};

static double now_s(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void connect_all(struct load *l, const char *host, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1;
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1)
        die("address");
    for (size_t i = 0; i < l->n_conns; i++) {
        struct conn *c = &l->conns[i];
        c->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof a) < 0)
            die("connect");
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, c->fd, &ev);
        l->unused[l->n_free++] = c;
    }
}

static void post(struct load *l, struct conn *c, double due_s) {
    char body[64], request[256];
    int n = snprintf(body, sizeof body, "cid=%zu&count=%zu", 1 + (size_t)random() % l->contents,
                     (size_t)random() % (l->count_max + 1));
    n = snprintf(request, sizeof request,
                 "POST /post_sentence HTTP/1.1\r\nHost: bench\r\nContent-Type: application/x-www-form-urlencoded\r\n"
                 "Content-Length: %d\r\n\r\n%s",
                 n, body);
    c->due_s = due_s;
    c->len = 0;
    if (send(c->fd, request, (size_t)n, MSG_NOSIGNAL) != n)
        die("send");
}

/* The bytes of the answer when it is complete, else 0. */
static size_t answer_end(struct conn *c) {
    c->answer[c->len] = '\0';
    char *end = strstr(c->answer, "\r\n\r\n");
    char *length = strcasestr(c->answer, "\r\nContent-Length:");
    if (!end)
        return 0;
    size_t want = (size_t)(end - c->answer) + 4 + (length && length < end ? strtoul(length + 17, NULL, 10) : 0);
    return c->len >= want ? want : 0;
}

static void on_readable(struct load *l, struct conn *c) {
    ssize_t n = recv(c->fd, c->answer + c->len, ANSWER_MAX - 1 - c->len, 0);
    if (n <= 0)
        die("the server closed");
    c->len += (size_t)n;
    if (!answer_end(c))
        return;
    if (strncmp(c->answer, "HTTP/1.1 200 ", 13) != 0)
        l->errors++;
    l->took_us[l->answered++] = (uint32_t)((now_s() - c->due_s) * 1e6);
    c->due_s = 0;
    l->unused[l->n_free++] = c;
}

static void send_due(struct load *l) {
    while (l->sent < l->n && l->n_free && l->due_s[l->sent] <= now_s()) {
        post(l, l->unused[--l->n_free], l->due_s[l->sent]);
        l->sent++;
    }
}

static void run(struct load *l, double end_s) {
    struct epoll_event events[64];
    while (l->answered < l->n && now_s() < end_s) {
        send_due(l);
        double wait_s = l->sent < l->n && l->n_free ? l->due_s[l->sent] - now_s() : 0.1;
        if (wait_s < 0)
            continue;
        struct timespec ts = {(time_t)wait_s, (long)((wait_s - floor(wait_s)) * 1e9)};
        int n = epoll_pwait2(l->epoll_fd, events, 64, &ts, NULL);
        for (int i = 0; i < n; i++)
            on_readable(l, events[i].data.ptr);
    }
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
    static struct load l;
    if (argc != 8) {
        fprintf(stderr, "usage: load HOST PORT RATE SECONDS CONNECTIONS CONTENTS COUNT_MAX\n");
        return 64;
    }
    double rate = atof(argv[3]), seconds = atof(argv[4]);
    l.n_conns = strtoul(argv[5], NULL, 10);
    l.contents = strtoul(argv[6], NULL, 10);
    l.count_max = strtoul(argv[7], NULL, 10);
    l.n = (size_t)(rate * seconds);
    l.due_s = calloc(l.n + 1, sizeof *l.due_s);
    l.took_us = calloc(l.n + 1, sizeof *l.took_us);
    l.epoll_fd = epoll_create1(0);
    if (l.n_conns == 0 || l.n_conns > CONNECTIONS_MAX || l.contents == 0 || l.n == 0 || !l.due_s || !l.took_us)
        return 64;
    connect_all(&l, argv[1], atoi(argv[2]));
    double at = now_s() + 0.1;
    for (size_t i = 0; i < l.n; i++)
        l.due_s[i] = at += -log(1.0 - (double)random() / ((double)RAND_MAX + 1)) / rate;
    run(&l, at + GRACE_S);
    if (l.answered < l.n) {
        fprintf(stderr, "load: %zu of %zu posts were answered in time\n", l.answered, l.n);
        return 1;
    }
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    qsort(l.took_us, l.n, sizeof *l.took_us, by_value);
    printf("%zu %zu %u %u %u %u %lld\n", l.n, l.errors, l.took_us[l.n / 2], l.took_us[l.n * 99 / 100],
           l.took_us[l.n * 999 / 1000], l.took_us[l.n - 1],
           (long long)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000LL +
               (long long)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000LL);
    return 0;
}
