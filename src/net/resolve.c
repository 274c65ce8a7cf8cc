#include "net/resolve.h"

#include <ares.h>
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/time.h>

#include "base/clock.h"

enum {
    FIRST_TRY_MS = 300, /* then the next name server is asked, or the same once more */
    TRY_MAX_MS = 1000,
    TRIES = 3,
    SOCKETS_MAX = 16, /* of one look-up: UDP and TCP for each name server */
    DOMAINS_MAX = 8,
    STALE_MS = 10000,  /* what was asked so long ago says where a server was */
    NAME_BYTES = 256,  /* a DNS name has at most 253 */
    LINE_BYTES = 1024, /* of resolv.conf */
};

/* One question under way: the name with each search domain, one after the other. */
struct query {
    ares_channel_t *channel; /* NULL: none is under way */
    char names[DOMAINS_MAX + 1][NAME_BYTES];
    size_t n_names, next;
    struct addresses found;
    int failed; /* ARES_...: why the first name that was not just unknown has no address */
    bool over;
    void (*watch)(void *ctx, int fd, bool in, bool out);
    void *ctx;
};

/* ---- names that nobody has to be asked for ---- */

static void add_address(struct addresses *a, int family, const void *bytes) {
    if (a->n < ADDRESSES_MAX && inet_ntop(family, bytes, a->at[a->n], ADDRESS_BYTES))
        a->n++;
}

static bool is_numeric(const char *host) {
    char bytes[sizeof(struct in6_addr)];
    return inet_pton(AF_INET, host, bytes) == 1 || inet_pton(AF_INET6, host, bytes) == 1;
}

socklen_t address_socket(const char *address, int port, struct sockaddr_storage *out) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, address, &v4.sin_addr) == 1) {
        memcpy(out, &v4, sizeof v4);
        return sizeof v4;
    }
    if (inet_pton(AF_INET6, address, &v6.sin6_addr) == 1) {
        memcpy(out, &v6, sizeof v6);
        return sizeof v6;
    }
    return 0;
}

static bool is_localhost(const char *host) {
    const char *last = strrchr(host, '.');
    return strcasecmp(last ? last + 1 : host, "localhost") == 0;
}

static void add_from_hosts(ares_channel_t *channel, const char *host, int family,
                           struct addresses *out) {
    struct hostent *entry;
    if (ares_gethostbyname_file(channel, host, family, &entry) != ARES_SUCCESS)
        return;
    for (char **a = entry->h_addr_list; *a; a++)
        add_address(out, family, *a);
    ares_free_hostent(entry);
}

static void add_loopback(struct addresses *out) {
    const struct in_addr v4 = {htonl(INADDR_LOOPBACK)};
    add_address(out, AF_INET, &v4);
    add_address(out, AF_INET6, &in6addr_loopback);
}

/* ---- a question to name servers ---- */

/* What resolv.conf(5) says of names that are not whole. c-ares reads it too, but ends its search at
 * a domain whose server fails. */
struct search {
    char domains[DOMAINS_MAX][NAME_BYTES];
    size_t n;
    size_t ndots; /* a name with so many is asked for as it is first */
};

/* The next word of a line, or NULL. */
static char *next_word(char **rest) {
    char *word;
    do
        word = strsep(rest, " \t\r\n");
    while (word && !*word);
    return word;
}

static void read_search_line(struct search *s, char *line) {
    char *word = next_word(&line);
    bool is_list = word && (strcmp(word, "search") == 0 || strcmp(word, "domain") == 0);
    bool is_options = word && strcmp(word, "options") == 0;
    s->n = is_list ? 0 : s->n; /* the last one counts */
    while ((is_list || is_options) && (word = next_word(&line))) {
        if (is_list && s->n < DOMAINS_MAX)
            snprintf(s->domains[s->n++], NAME_BYTES, "%s", word);
        if (is_options && strncmp(word, "ndots:", 6) == 0)
            s->ndots = (size_t)strtoul(word + 6, NULL, 10);
    }
}

static void read_search(struct search *s) {
    char line[LINE_BYTES];
    FILE *f = fopen("/etc/resolv.conf", "re");
    *s = (struct search){.ndots = 1};
    while (f && fgets(line, sizeof line, f))
        read_search_line(s, line);
    if (f)
        fclose(f);
}

/* What is to be asked for, in order. */
static void set_names(struct query *q, const char *host) {
    struct search s;
    size_t dots = 0, len = strlen(host);
    q->n_names = q->next = 0;
    for (const char *p = host; *p; p++)
        dots += *p == '.';
    read_search(&s);
    bool rooted = len && host[len - 1] == '.';
    bool first = rooted || dots >= s.ndots;
    if (first)
        snprintf(q->names[q->n_names++], NAME_BYTES, "%s", host);
    for (size_t i = 0; !rooted && i < s.n; i++)
        if (snprintf(q->names[q->n_names], NAME_BYTES, "%s.%s", host, s.domains[i]) < NAME_BYTES)
            q->n_names++;
    if (!first)
        snprintf(q->names[q->n_names++], NAME_BYTES, "%s", host);
}

static void ask_next(struct query *q);

static void on_answer(void *p, int status, int timeouts, struct ares_addrinfo *info) {
    struct query *q = p;
    (void)timeouts;
    for (struct ares_addrinfo_node *n = info ? info->nodes : NULL; n; n = n->ai_next) {
        if (n->ai_family == AF_INET)
            add_address(&q->found, AF_INET, &((struct sockaddr_in *)(void *)n->ai_addr)->sin_addr);
        else if (n->ai_family == AF_INET6)
            add_address(&q->found, AF_INET6,
                        &((struct sockaddr_in6 *)(void *)n->ai_addr)->sin6_addr);
    }
    ares_freeaddrinfo(info);
    bool unknown = status == ARES_ENOTFOUND || status == ARES_ENODATA;
    if (!unknown && status != ARES_SUCCESS && q->failed == ARES_ENOTFOUND)
        q->failed = status;
    if (q->found.n || status == ARES_ECANCELLED || status == ARES_EDESTRUCTION)
        q->over = true;
    else
        ask_next(q);
}

static void ask_next(struct query *q) {
    const struct ares_addrinfo_hints hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    if (q->next == q->n_names)
        q->over = true;
    else
        ares_getaddrinfo(q->channel, q->names[q->next++], NULL, &hints, on_answer, q);
}

static void on_socket(void *p, ares_socket_t fd, int in, int out) {
    struct query *q = p;
    q->watch(q->ctx, fd, in, out);
}

/* Begins; `q` has watch and ctx. It may be over at once. */
static void query_start(struct query *q, const char *host) {
    struct ares_options o = {.flags = ARES_FLAG_NOSEARCH | ARES_FLAG_EDNS,
                             .timeout = FIRST_TRY_MS,
                             .maxtimeout = TRY_MAX_MS,
                             .tries = TRIES,
                             .lookups = (char[]){"b"},
                             .sock_state_cb = on_socket,
                             .sock_state_cb_data = q};
    int mask = ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_MAXTIMEOUTMS | ARES_OPT_TRIES |
               ARES_OPT_LOOKUPS | ARES_OPT_SOCK_STATE_CB;
    q->found.n = 0;
    q->failed = ARES_ENOTFOUND;
    q->over = false;
    if (is_numeric(host)) {
        snprintf(q->found.at[q->found.n++], ADDRESS_BYTES, "%s", host);
        q->over = true;
        return;
    }
    q->failed = ares_init_options(&q->channel, &o, mask);
    if (q->failed != ARES_SUCCESS) {
        q->channel = NULL;
        q->over = true;
        return;
    }
    q->failed = ARES_ENOTFOUND;
    add_from_hosts(q->channel, host, AF_INET, &q->found);
    add_from_hosts(q->channel, host, AF_INET6, &q->found);
    if (q->found.n == 0 && is_localhost(host))
        add_loopback(&q->found);
    q->over = q->found.n > 0;
    if (q->over)
        return;
    set_names(q, host);
    ask_next(q);
}

/* Not from within a callback of c-ares. */
static void query_end(struct query *q) {
    if (q->channel)
        ares_destroy(q->channel);
    q->channel = NULL;
}

/* Milliseconds until c-ares has to be called, at most `most_ms`. */
static int64_t query_wait_ms(const struct query *q, int64_t most_ms) {
    struct timeval tv;
    if (!ares_timeout(q->channel, NULL, &tv))
        return most_ms;
    int64_t ms = (int64_t)tv.tv_sec * 1000 + (tv.tv_usec + 999) / 1000;
    return ms < most_ms ? ms : most_ms;
}

/* Takes over what was found, or falls back on what is kept: false, and `why`, when there is
 * nothing. A name that there is no more is forgotten: what it led to is somebody else's. */
static bool query_result(const struct query *q, bool in_time, const char *host,
                         struct addresses *kept, char why[RESOLVE_WHY_BYTES]) {
    if (q->found.n) {
        *kept = q->found;
        return true;
    }
    int failed = in_time ? q->failed : ARES_ETIMEOUT;
    if (failed == ARES_ENOTFOUND)
        kept->n = 0;
    if (kept->n)
        return true;
    snprintf(why, RESOLVE_WHY_BYTES, "%s: %s", host,
             failed == ARES_ENOTFOUND  ? "there is no such name"
             : failed == ARES_ETIMEOUT ? "no name server answers"
                                       : ares_strerror(failed));
    return false;
}

/* ---- blocking ---- */

struct waiting {
    struct query query;
    struct pollfd sockets[SOCKETS_MAX];
    nfds_t n;
    int64_t asked_ms;
};

static void watch_poll(void *p, int fd, bool in, bool out) {
    struct waiting *w = p;
    nfds_t i = 0;
    short events = (short)((in ? POLLIN : 0) | (out ? POLLOUT : 0));
    while (i < w->n && w->sockets[i].fd != fd)
        i++;
    if (!events && i < w->n)
        w->sockets[i] = w->sockets[--w->n];
    else if (events && i < SOCKETS_MAX) {
        w->sockets[i] = (struct pollfd){.fd = fd, .events = events};
        w->n += i == w->n;
    }
}

/* One wait, and what became of it. */
static void wait_some(struct waiting *w, int64_t left_ms) {
    struct pollfd ready[SOCKETS_MAX];
    nfds_t n = w->n; /* the set changes while they are handled */
    memcpy(ready, w->sockets, sizeof ready);
    if (poll(ready, n, (int)query_wait_ms(&w->query, left_ms)) <= 0) {
        ares_process_fd(w->query.channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
        return;
    }
    for (nfds_t i = 0; i < n; i++)
        if (ready[i].revents)
            ares_process_fd(w->query.channel,
                            ready[i].revents & ~POLLOUT ? ready[i].fd : ARES_SOCKET_BAD,
                            ready[i].revents & POLLOUT ? ready[i].fd : ARES_SOCKET_BAD);
}

static void end_waiting(struct name_lookup *l) {
    if (l->asked)
        query_end(&l->asked->query);
    free(l->asked);
    l->asked = NULL;
}

/* The look-up that an earlier call left under way, or a new one; NULL when out of memory. */
static struct waiting *ask_or_go_on(struct name_lookup *l, const char *host) {
    int64_t now_ms = clock_mono_ms();
    if (l->asked && now_ms - l->asked->asked_ms > STALE_MS)
        end_waiting(l);
    struct waiting *w = l->asked ? l->asked : calloc(1, sizeof *w);
    if (!w || l->asked)
        return w;
    l->asked = w;
    w->asked_ms = now_ms;
    w->query.watch = watch_poll;
    w->query.ctx = w;
    query_start(&w->query, host);
    return w;
}

int resolve_wait(const char *host, int64_t deadline_ms, struct name_lookup *l,
                 struct addresses *out, char why[RESOLVE_WHY_BYTES]) {
    char ignored[RESOLVE_WHY_BYTES];
    struct waiting *w = ask_or_go_on(l, host);
    if (!w) {
        snprintf(why ? why : ignored, RESOLVE_WHY_BYTES, "%s: %s", host,
                 ares_strerror(ARES_ENOMEM));
        return -ENOMEM;
    }
    int64_t now_ms, end_ms = w->asked_ms + RESOLVE_MS;
    int64_t until_ms = l->kept.n ? w->asked_ms + RESOLVE_KEPT_MS : end_ms;
    if (deadline_ms < until_ms)
        until_ms = deadline_ms;
    for (now_ms = clock_mono_ms(); !w->query.over; now_ms = clock_mono_ms()) {
        wait_some(w, until_ms > now_ms ? until_ms - now_ms : 0); /* also for what came meanwhile */
        if (now_ms >= until_ms)
            break;
    }
    bool found = true, is_over = w->query.over;
    if (is_over || !l->kept.n)
        found = query_result(&w->query, is_over, host, &l->kept, why ? why : ignored);
    if (is_over || !l->kept.n || now_ms >= end_ms)
        end_waiting(l);
    if (!found)
        return -EHOSTUNREACH;
    *out = l->kept;
    return 0;
}

void name_lookup_release(struct name_lookup *l) {
    end_waiting(l);
}

/* ---- on a loop ---- */

struct resolver {
    struct loop *loop;
    char host[NAME_BYTES];
    struct query query;
    struct addresses kept;
    struct resolver_question *first;
    struct watched {
        struct loop_io io;
        struct resolver *r;
    } sockets[SOCKETS_MAX];
    struct loop_timer timer; /* for c-ares */
    struct loop_timer late;  /* for those who wait: with what is kept, or without anything */
    struct loop_deferred end;
    int64_t asked_ms; /* 0: no look-up is under way */
};

/* Answers all who wait; they may ask anew, and wait for the next answer then. */
static void answer(struct resolver *r, const char *why) {
    struct addresses found = r->kept;
    struct resolver_question *list = r->first;
    r->first = NULL;
    if (list)
        list->at = &list;
    while (list) {
        struct resolver_question *q = list;
        resolver_forget(q);
        q->done(q->ctx, found.n ? &found : NULL, why);
    }
}

/* The look-up is over, well or not, or has had its time. */
static void conclude(struct resolver *r, bool in_time) {
    char why[RESOLVE_WHY_BYTES] = "";
    loop_timer_cancel(r->loop, &r->timer);
    loop_timer_cancel(r->loop, &r->late);
    query_end(&r->query);
    (void)query_result(&r->query, in_time, r->host, &r->kept, why);
    r->asked_ms = 0;
    answer(r, why);
}

static void on_end(void *p) {
    struct resolver *r = p;
    if (r->asked_ms && r->query.over)
        conclude(r, true);
}

/* After each call of c-ares, from which we may not have returned yet. */
static void went_on(struct resolver *r) {
    if (r->query.over)
        loop_defer(r->loop, &r->end);
    else
        loop_timer_set(r->loop, &r->timer, clock_mono_ms() + query_wait_ms(&r->query, RESOLVE_MS));
}

static void on_timer(void *p) {
    struct resolver *r = p;
    ares_process_fd(r->query.channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
    went_on(r);
}

static void on_late(void *p) {
    struct resolver *r = p;
    if (loop_now_ms(r->loop) >= r->asked_ms + RESOLVE_MS) {
        conclude(r, false);
        return;
    }
    loop_timer_set(r->loop, &r->late, r->asked_ms + RESOLVE_MS); /* for those who ask later */
    answer(r, "");
}

static void on_ready(void *p, uint32_t events) {
    struct watched *w = p;
    int fd = w->io.fd;
    ares_process_fd(w->r->query.channel, events & ~(uint32_t)EPOLLOUT ? fd : ARES_SOCKET_BAD,
                    events & EPOLLOUT ? fd : ARES_SOCKET_BAD);
    went_on(w->r);
}

/* Whether `w` is watched for `fd`, or is free for a new one. */
static bool takes(const struct watched *w, int fd) {
    return w->io.events == 0 || w->io.fd == fd;
}

/* c-ares tells of each of its sockets what it waits for, and before it closes one. */
static void watch_loop(void *p, int fd, bool in, bool out) {
    struct resolver *r = p;
    struct watched *w = NULL;
    for (struct watched *v = r->sockets; v < r->sockets + SOCKETS_MAX; v++)
        if (takes(v, fd) && (!w || v->io.events))
            w = v;
    if (!w) /* what comes there is not heard: the next name server is asked */
        return;
    w->io.fd = fd;
    (void)loop_io_set(r->loop, &w->io,
                      (in ? (uint32_t)EPOLLIN : 0U) | (out ? (uint32_t)EPOLLOUT : 0U));
}

struct resolver *resolver_new(struct loop *loop, const char *host) {
    struct resolver *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->loop = loop;
    snprintf(r->host, sizeof r->host, "%s", host);
    r->query.watch = watch_loop;
    r->query.ctx = r;
    r->timer = (struct loop_timer){.fire = on_timer, .ctx = r};
    r->late = (struct loop_timer){.fire = on_late, .ctx = r};
    r->end = (struct loop_deferred){.call = on_end, .ctx = r};
    for (struct watched *w = r->sockets; w < r->sockets + SOCKETS_MAX; w++)
        *w = (struct watched){.io = {.fd = -1, .ready = on_ready, .ctx = w}, .r = r};
    return r;
}

void resolver_free(struct resolver *r) {
    if (!r)
        return;
    loop_timer_cancel(r->loop, &r->timer);
    loop_timer_cancel(r->loop, &r->late);
    query_end(&r->query);
    while (r->first)
        resolver_forget(r->first);
    free(r);
}

void resolver_ask(struct resolver *r, struct resolver_question *q) {
    assert(q->done && !q->at);
    int64_t now_ms = loop_now_ms(r->loop);
    q->next = r->first;
    if (q->next)
        q->next->at = &q->next;
    q->at = &r->first;
    r->first = q;
    if (r->asked_ms) {
        if (r->kept.n && now_ms >= r->asked_ms + RESOLVE_KEPT_MS)
            answer(r, "");
        return;
    }
    r->asked_ms = now_ms;
    query_start(&r->query, r->host);
    if (r->query.over) {
        conclude(r, true);
        return;
    }
    loop_timer_set(r->loop, &r->late, now_ms + (r->kept.n ? RESOLVE_KEPT_MS : RESOLVE_MS));
    went_on(r);
}

void resolver_forget(struct resolver_question *q) {
    if (!q->at)
        return;
    *q->at = q->next;
    if (q->next)
        q->next->at = q->at;
    q->at = NULL;
}
