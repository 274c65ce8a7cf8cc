/*
 * The server and its clients on one loop, under the sanitizers: requests in random pieces, answers
 * at once or later, clients that go away at any moment. Random, but the same in each run.
 */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buf.h"
#include "net/http_server.h"

enum {
    BODY_MAX = 4096,
    GUARD_MS = 200000, /* for a run that hangs, on the slowest machine */
    OUT_BYTES = 8 << 20,
    LARGE_BYTES = HTTP_ANSWER_MAX - 1024,
    LATE_MS = 20,  /* until the kernel has nothing more to give */
    TURN_MAX = 64, /* what http_server.c names PIPELINE_MAX */
};

struct world {
    struct loop *loop;
    struct http_server *server;
    int listen_fd;
    struct sockaddr_un address;
    socklen_t address_len;
    uint32_t random;
    bool drained;
    size_t handled;
    size_t before_turn, most_in_turn; /* requests that were handled */
    struct loop_deferred turn;
    struct loop_timer guard;
};

/* xorshift32 */
static uint32_t next_random(struct world *w) {
    w->random ^= w->random << 13;
    w->random ^= w->random >> 17;
    w->random ^= w->random << 5;
    return w->random;
}

/* ---- the handler: says what it was asked, now or later ---- */

struct later {
    struct loop_timer timer;
    struct http_exchange *x;
    char text[256];
};

static void answer_later(void *p) {
    static char large[LARGE_BYTES];
    struct later *l = p;
    if (strcmp(l->text, "</large >") == 0) {
        memset(large, 'x', sizeof large);
        http_reply(l->x, 200, "text/plain", (struct str_view){large, sizeof large}, NULL);
    } else {
        http_reply(l->x, 200, "text/plain", str_view(l->text), NULL);
    }
    free(l);
}

static void handle(void *ctx, struct http_exchange *x, const struct http_request *req,
                   struct str_view body) {
    struct world *w = ctx;
    struct later *l = calloc(1, sizeof *l);
    snprintf(l->text, sizeof l->text, "<%.*s %.*s>",
             (int)(req->path.len < 100 ? req->path.len : 99), req->path.ptr,
             (int)(body.len < 100 ? body.len : 99), body.len ? body.ptr : "");
    w->handled++;
    l->x = x;
    l->timer = (struct loop_timer){.fire = answer_later, .ctx = l};
    bool late = str_is(req->path, "/late");
    uint32_t how = next_random(w) % 4;
    if (late)
        loop_timer_set(w->loop, &l->timer, loop_now_ms(w->loop) + LATE_MS);
    else if (how < 3 || str_is(req->path, "/now"))
        answer_later(l);
    else
        loop_timer_set(w->loop, &l->timer, loop_now_ms(w->loop) + next_random(w) % 3);
}

static struct http_refusal judge(void *ctx, const struct http_request *req) {
    (void)ctx;
    return str_is(req->path, "/no") ? (struct http_refusal){404, "there is none", NULL}
                                    : (struct http_refusal){0};
}

/* ---- the world ---- */

static void on_drained(void *p) {
    struct world *w = p;
    w->drained = true;
    loop_stop(w->loop);
}

static void on_guard(void *p) {
    (void)p;
    fail_msg("the run hangs");
}

static void world_open(struct world *w, uint32_t seed, int64_t idle_ms) {
    const struct http_limits limits = {.connections = 100,
                                       .body_bytes = BODY_MAX,
                                       .request_timeout_ms = 20000,
                                       .idle_timeout_ms = idle_ms};
    *w = (struct world){.loop = loop_new(), .random = seed * 2654435761U | 1U};
    w->server = http_server_new(w->loop, &limits, handle, judge, w);
    w->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_un any = {.sun_family = AF_UNIX};
    assert_int_equal(bind(w->listen_fd, (struct sockaddr *)&any, sizeof any.sun_family), 0);
    assert_int_equal(listen(w->listen_fd, 100), 0);
    w->address_len = sizeof w->address; /* an abstract name that the kernel chose */
    assert_int_equal(getsockname(w->listen_fd, (struct sockaddr *)&w->address, &w->address_len), 0);
    assert_int_equal(http_server_listen(w->server, w->listen_fd), 0);
    w->guard = (struct loop_timer){.fire = on_guard, .ctx = w};
    loop_timer_set(w->loop, &w->guard, loop_now_ms(w->loop) + GUARD_MS);
}

/* Drains, which ends only when no connection is left. */
static void world_close(struct world *w) {
    http_server_drain(w->server, on_drained, w);
    assert_int_equal(loop_run(w->loop), 0);
    assert_true(w->drained);
    http_server_free(w->server);
    loop_timer_cancel(w->loop, &w->guard);
    loop_free(w->loop);
    close(w->listen_fd);
}

/* ---- a client on the same loop ---- */

struct client {
    struct world *w;
    struct loop_io io;
    struct loop_timer pause;
    const char *text;
    size_t len, sent;
    size_t piece_max;      /* 0: as much as goes */
    size_t leave_after;    /* bytes sent; then it goes away without a word */
    int64_t read_after_ms; /* it does not read until then */
    bool reading, shut_at_end, ended;
    struct buf got;
    int *running; /* clients of the loop */
};

static void client_end(struct client *c) {
    if (c->ended)
        return;
    c->ended = true;
    loop_io_set(c->w->loop, &c->io, 0);
    loop_timer_cancel(c->w->loop, &c->pause);
    close(c->io.fd);
    if (--*c->running == 0)
        loop_stop(c->w->loop);
}

static void client_watch(struct client *c) {
    uint32_t wanted =
        (c->reading ? (uint32_t)EPOLLIN : 0) | (c->sent < c->len ? (uint32_t)EPOLLOUT : 0);
    loop_io_set(c->w->loop, &c->io, wanted);
}

static void client_send(struct client *c) {
    size_t n = c->len - c->sent;
    if (c->piece_max && n > 1 + next_random(c->w) % c->piece_max)
        n = 1 + next_random(c->w) % c->piece_max;
    if (n > c->len - c->sent)
        n = c->len - c->sent;
    ssize_t rc = send(c->io.fd, c->text + c->sent, n, MSG_NOSIGNAL);
    if (rc < 0 && errno != EAGAIN) { /* the server does not want the rest */
        c->len = c->sent;
        c->reading = true;
        return;
    }
    c->sent += rc > 0 ? (size_t)rc : 0;
    if (c->sent == c->len && c->shut_at_end)
        shutdown(c->io.fd, SHUT_WR);
}

static void on_client(void *p, uint32_t events) {
    struct client *c = p;
    if ((events & EPOLLOUT) && c->sent < c->len)
        client_send(c);
    if (c->leave_after && c->sent >= c->leave_after) {
        client_end(c);
        return;
    }
    if (c->reading && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
        assert_int_equal(buf_reserve(&c->got, 65536), 0);
        ssize_t n = recv(c->io.fd, c->got.data + c->got.len, 65536, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            client_end(c);
            return;
        }
        c->got.len += n > 0 ? (size_t)n : 0;
    }
    client_watch(c);
}

static void start_reading(void *p) {
    struct client *c = p;
    c->reading = true;
    client_watch(c);
}

static void client_start(struct client *c, struct world *w, int *running) {
    c->w = w;
    c->running = running;
    c->io = (struct loop_io){
        .fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), .ready = on_client, .ctx = c};
    assert_int_equal(connect(c->io.fd, (struct sockaddr *)&w->address, w->address_len), 0);
    buf_init(&c->got, OUT_BYTES);
    c->pause = (struct loop_timer){.fire = start_reading, .ctx = c};
    c->reading = c->read_after_ms == 0;
    if (!c->reading)
        loop_timer_set(w->loop, &c->pause, loop_now_ms(w->loop) + c->read_after_ms);
    ++*running;
    client_watch(c);
}

/* ---- what is sent, and what must come back ---- */

/* Appends one request; `expected` gets what its answer must hold. */
static void add_request(struct world *w, struct buf *text, struct buf *expected, unsigned i) {
    switch (next_random(w) % 7) {
    case 0:
        buf_addf(text, "GET /a%u HTTP/1.1\r\nHost: x\r\n\r\n", i);
        buf_addf(expected, "200 </a%u >;", i);
        return;
    case 1:
        buf_addf(text, "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n%06u", i);
        buf_addf(expected, "200 </b %06u>;", i);
        return;
    case 2:
        buf_addf(text,
                 "POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                 "2;e=\"f\"\r\n%02u\r\n004\r\n%04u\r\n0\r\nT: u\r\n\r\n",
                 i % 100, i);
        buf_addf(expected, "200 </c %02u%04u>;", i % 100, i);
        return;
    case 3:
        buf_addf(text, "BREW /d%u HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", i);
        buf_add_str(expected,
                    "501 {\"error\": \"the method is not implemented; there are GET, HEAD, "
                    "POST and OPTIONS\"};");
        return;
    case 4:
        buf_addf(text, "\r\nGET http://y/e%u HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", i);
        buf_addf(expected, "200 </e%u >;", i);
        return;
    case 5:
        buf_addf(text,
                 "POST /f HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\n"
                 "%06u",
                 i);
        buf_addf(expected, "200 </f %06u>;", i);
        return;
    default:
        buf_addf(text, "POST /g HTTP/1.1\r\nHost: x\r\nExpect: tea\r\nContent-Length: 1\r\n\r\nx");
        buf_add_str(expected, "417 ");
    }
}

/* Like `expected`: status and body of each answer, without those that say to go on. */
static void summarize(const struct buf *got, struct buf *out) {
    const char *at = got->data, *end = got->data + got->len;
    while (at < end) {
        const char *head_end = memmem(at, (size_t)(end - at), "\r\n\r\n", 4);
        assert_non_null(head_end);
        assert_memory_equal(at, "HTTP/1.1 ", 9);
        const char *status = at + 9;
        const char *field = memmem(at, (size_t)(head_end - at), "Content-Length: ", 16);
        size_t body = field ? strtoul(field + 16, NULL, 10) : 0;
        at = head_end + 4;
        assert_true(body <= (size_t)(end - at));
        if (memcmp(status, "100", 3) != 0) {
            buf_add(out, status, 4);
            buf_add(out, at, body);
            buf_add(out, ";", 1);
        }
        at += body;
    }
}

static bool begins_with(const struct buf *whole, const struct buf *part) {
    return part->len <= whole->len && memcmp(whole->data, part->data, part->len) == 0;
}

/* An expectation that is not met ends the connection when its content was not there yet. */
static void check_answers(const struct buf *got, struct buf *expected) {
    struct buf summary;
    buf_init(&summary, OUT_BYTES);
    summarize(got, &summary);
    const char *tea = memmem(summary.data, summary.len, "417 ", 4);
    if (tea) {
        summary.len = (size_t)(tea - summary.data) + 4;
        expected->len = summary.len < expected->len ? summary.len : expected->len;
    }
    if (summary.len != expected->len || !begins_with(expected, &summary))
        fail_msg("answered: %.*s\nexpected: %.*s", (int)summary.len, summary.data,
                 (int)expected->len, expected->data);
    buf_release(&summary);
}

/* One client says all of `text` and is answered `expected`. Releases what it is given. */
static void talk(struct world *w, struct buf *text, struct buf *expected, struct client c) {
    int running = 0;
    c.text = text->data;
    c.len = text->len;
    c.shut_at_end = true;
    client_start(&c, w, &running);
    assert_int_equal(loop_run(w->loop), 0);
    check_answers(&c.got, expected);
    world_close(w);
    buf_release(&c.got);
    buf_release(text);
    buf_release(expected);
}

/* ---- tests ---- */

static void random_pieces(void **state) {
    (void)state;
    for (uint32_t seed = 1; seed <= 80; seed++) {
        struct world w;
        struct buf text, expected;
        world_open(&w, seed, 20000);
        buf_init(&text, OUT_BYTES);
        buf_init(&expected, OUT_BYTES);
        for (unsigned i = 0; i < 1 + seed % 40; i++)
            add_request(&w, &text, &expected, i);
        unsigned piece_max = 1 + next_random(&w) % 300;
        talk(&w, &text, &expected, (struct client){.piece_max = piece_max});
    }
}

/* More answers than the kernel holds, read late: all come, in order. */
static void late_reader(void **state) {
    enum { REQUESTS = 15000 };
    struct world w;
    struct buf text, expected;
    (void)state;
    world_open(&w, 7, 20000);
    buf_init(&text, OUT_BYTES);
    buf_init(&expected, OUT_BYTES);
    for (unsigned i = 0; i < REQUESTS; i++) {
        buf_addf(&text, "GET /%u HTTP/1.1\r\nHost: x\r\n\r\n", i);
        buf_addf(&expected, "200 </%u >;", i);
    }
    talk(&w, &text, &expected, (struct client){.read_after_ms = 50});
    assert_int_equal(w.handled, REQUESTS);
}

/* The longest answers, pipelined behind others and read late. */
static void large_answers(void **state) {
    enum { REQUESTS = 10 };
    struct world w;
    struct buf text, expected;
    (void)state;
    world_open(&w, 13, 20000);
    buf_init(&text, OUT_BYTES);
    buf_init(&expected, OUT_BYTES);
    for (unsigned i = 0; i < REQUESTS; i++) {
        buf_addf(&text, "GET /%u HTTP/1.1\r\nHost: x\r\n\r\n", i);
        buf_addf(&expected, "200 </%u >;200 ", i);
        buf_add_str(&text, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_int_equal(buf_reserve(&expected, LARGE_BYTES), 0);
        memset(expected.data + expected.len, 'x', LARGE_BYTES);
        expected.len += LARGE_BYTES;
        buf_add_str(&expected, ";");
    }
    talk(&w, &text, &expected, (struct client){.read_after_ms = 50});
}

/* Called at the end of each turn. */
static void on_turn(void *p) {
    struct world *w = p;
    size_t n = w->handled - w->before_turn;
    w->before_turn = w->handled;
    if (n > w->most_in_turn)
        w->most_in_turn = n;
    loop_defer(w->loop, &w->turn);
}

/* What is pipelined behind an answer that takes its time is there at once then; others have their
 * turn between its parts. */
static void parts_of_a_pipeline(void **state) {
    enum { REQUESTS = 2000 };
    struct world w;
    struct buf text, expected;
    (void)state;
    world_open(&w, 15, 20000);
    w.turn = (struct loop_deferred){.call = on_turn, .ctx = &w};
    loop_defer(w.loop, &w.turn);
    buf_init(&text, OUT_BYTES);
    buf_init(&expected, OUT_BYTES);
    for (unsigned i = 0; i < REQUESTS; i++) {
        const char *path = i % 500 ? "now" : "late";
        buf_addf(&text, "GET /%s HTTP/1.1\r\nHost: x\r\n\r\n", path);
        buf_addf(&expected, "200 </%s >;", path);
    }
    talk(&w, &text, &expected, (struct client){0});
    assert_int_equal(w.handled, REQUESTS);
    /* our turns end before the server's: each may see the end of one and the begin of the next */
    assert_in_range(w.most_in_turn, TURN_MAX, 2 * TURN_MAX);
}

/* Who never reads is answered no more than fits, and let go. */
static void silent_reader(void **state) {
    enum { REQUESTS = 40000 };
    struct world w;
    struct buf text;
    int running = 0;
    (void)state;
    world_open(&w, 9, 50);
    buf_init(&text, OUT_BYTES);
    for (unsigned i = 0; i < REQUESTS; i++)
        buf_addf(&text, "GET /%u HTTP/1.1\r\nHost: x\r\n\r\n", i);
    struct client c = {.text = text.data, .len = text.len, .read_after_ms = GUARD_MS};
    client_start(&c, &w, &running);
    assert_int_equal(loop_run(w.loop), 0); /* it reads once it cannot send */
    assert_true(w.handled > 0 && w.handled < REQUESTS);
    world_close(&w);
    buf_release(&c.got);
    buf_release(&text);
}

/* Many at once, each gone after a random number of bytes, read or not, answered or not. */
static void clients_go_away(void **state) {
    enum { CLIENTS = 40 };
    (void)state;
    for (uint32_t seed = 1; seed <= 30; seed++) {
        struct world w;
        struct buf text, expected;
        static struct client clients[CLIENTS];
        int running = 0;
        world_open(&w, seed, 20000);
        buf_init(&text, OUT_BYTES);
        buf_init(&expected, OUT_BYTES);
        for (unsigned i = 0; i < 60; i++)
            add_request(&w, &text, &expected, i);
        for (size_t i = 0; i < CLIENTS; i++) {
            clients[i] = (struct client){.text = text.data,
                                         .len = text.len,
                                         .piece_max = 1 + next_random(&w) % 2000,
                                         .leave_after = 1 + next_random(&w) % text.len,
                                         .read_after_ms = next_random(&w) % 2 ? 10000 : 0};
            client_start(&clients[i], &w, &running);
        }
        assert_int_equal(loop_run(w.loop), 0);
        world_close(&w);
        for (size_t i = 0; i < CLIENTS; i++)
            buf_release(&clients[i].got);
        buf_release(&text);
        buf_release(&expected);
    }
}

/* The server goes first: answers under way are thrown away with their connections. */
static void freed_under_load(void **state) {
    struct world w;
    struct buf text, expected;
    int running = 0;
    (void)state;
    world_open(&w, 11, 20000);
    buf_init(&text, OUT_BYTES);
    buf_init(&expected, OUT_BYTES);
    buf_addf(&text, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc");
    struct client c = {.text = text.data, .len = text.len, .leave_after = text.len};
    client_start(&c, &w, &running);
    assert_int_equal(loop_run(w.loop), 0);
    http_server_free(w.server);
    loop_timer_cancel(w.loop, &w.guard);
    loop_free(w.loop);
    close(w.listen_fd);
    buf_release(&c.got);
    buf_release(&text);
    buf_release(&expected);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_pieces),       cmocka_unit_test(late_reader),
        cmocka_unit_test(parts_of_a_pipeline), cmocka_unit_test(large_answers),
        cmocka_unit_test(silent_reader),       cmocka_unit_test(clients_go_away),
        cmocka_unit_test(freed_under_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
